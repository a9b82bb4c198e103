"""Calls on their way to the broker: those that arrive within a few milliseconds go together.

While one lot is being published the next gathers, and between the beginnings of two there is a pause, so the busier the door, the larger the
lots; a call that comes alone goes at once.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pushq import metrics
from pushq.errors import ServiceUnavailable
from pushq.submission import Submission
from pushq.tasks import entry, many
from pushq.web.claims import Claim, Claims
from pushq.web.problems import Problem
from pushq.web.threads import Busy, Threads

log = logging.getLogger("pushq.web")

#: Seconds from the beginning of one lot to that of the next at least, and how many go together at most.
EVERY_S: Final = 0.02
MOST_TOGETHER: Final = 200
#: Lots at a time.
PUBLISHERS: Final = 1
#: Calls that wait at most, and for how long: what then is not on its way is refused, and will not be sent.
MOST_WAITING: Final = 5_000
WAIT_S: Final = 5.0

#: Publishes calls; None for each that the broker has, else why not.
Publish = Callable[[Sequence[tuple[uuid.UUID, Submission]]], Sequence[Exception | None]]


@dataclass(frozen=True)
class Accepted:
    """A call that the broker has.

    Attributes:
        repeated: it had been taken before, by its idempotency key.
    """

    send_id: uuid.UUID
    repeated: bool


def _reused(send_id: uuid.UUID) -> Problem:
    return Problem(
        409,
        "idempotency-conflict",
        "Another call has used this key, and asked for something else; nothing was accepted. Use a key of its own for each call",
        field="Idempotency-Key",
        send_id=str(send_id),
    )


@dataclass
class _Waiting:
    send_id: uuid.UUID
    submission: Submission
    result: asyncio.Future[Accepted]
    taken: bool = False


class Enqueuer:
    """Takes calls to the broker. Belongs to one event loop; enter it before use.

    Args:
        publish: blocks; called from threads.
    """

    def __init__(self, claims: Claims, publish: Publish, *, every_s: float = EVERY_S) -> None:
        self._claims, self._publish, self._every_s = claims, publish, every_s
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._threads = Threads("publish", PUBLISHERS, wait_s=60.0)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Enqueuer:
        self._tasks = [
            asyncio.create_task(self._work(), name=f"pushq-publisher-{n}") for n in range(PUBLISHERS)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiting in self._waiting:
            waiting.result.cancel()
        self._threads.close()

    async def enqueue(self, submission: Submission) -> Accepted:
        """Hand a call to the broker; returns when the broker has it.

        Raises:
            Problem: its idempotency key belongs to another call (409).
            ServiceUnavailable: the broker did not take it: nothing was accepted.
            Busy: too many wait, or it waited for too long: nothing was accepted.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING:,} calls wait for the broker")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(submission.send_id(), submission, loop.create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        # Shielded: a call on its way cannot be taken back, whether somebody still waits for it or not.
        try:
            async with asyncio.timeout(WAIT_S):
                return await asyncio.shield(waiting.result)
        except TimeoutError:
            if not waiting.taken:
                waiting.result.cancel()  # nobody takes it any more
                raise Busy("the broker is slow") from None
        return await asyncio.shield(waiting.result)

    async def _work(self) -> None:
        clock = asyncio.get_running_loop().time
        next_at = clock()
        while True:
            await self._arrived.wait()
            # Whoever came in the same turn of the loop goes along.
            await asyncio.sleep(max(0.0, next_at - clock()) if len(self._waiting) < MOST_TOGETHER else 0)
            next_at = clock() + self._every_s
            lot = [self._waiting.popleft() for _ in range(min(MOST_TOGETHER, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            for waiting in lot:
                waiting.taken = True
            await self._go([waiting for waiting in lot if not waiting.result.done()])

    async def _go(self, lot: list[_Waiting]) -> None:
        if not lot:
            return
        metrics.web_calls_together.observe((), len(lot))
        try:
            results = await self._threads.run(self._take, [(each.send_id, each.submission) for each in lot])
        except asyncio.CancelledError:
            for waiting in lot:
                waiting.result.cancel()
            raise
        except Exception as error:  # whoever waits must be told, and the next lot must go on
            log.exception("calls_not_taken")
            results = [error] * len(lot)
        for waiting, result in zip(lot, results, strict=True):
            _settle(waiting, result)

    def _take(self, calls: Sequence[tuple[uuid.UUID, Submission]]) -> Sequence[Accepted | Exception]:
        claims = self._claims.claim(calls)
        going = [n for n, claim in enumerate(claims) if claim is not Claim.CONFLICT]
        results: list[Accepted | Exception] = [_reused(send_id) for send_id, _ in calls]
        failures = self._publish([calls[n] for n in going]) if going else ()
        lost = []
        for n, failure in zip(going, failures, strict=True):
            send_id = calls[n][0]
            if failure is None:
                results[n] = Accepted(send_id, repeated=claims[n] is Claim.REPEATED)
                continue
            results[n] = failure
            if claims[n] is Claim.NEW:
                lost.append(send_id)
        if lost:
            self._claims.release(lost)
        return results


def _settle(waiting: _Waiting, result: Accepted | Exception) -> None:
    if waiting.result.done():
        return
    if isinstance(result, Exception):
        waiting.result.set_exception(result)
        # Who asked may have gone away: then nobody takes it.
        waiting.result.add_done_callback(lambda future: future.exception())
    else:
        waiting.result.set_result(result)


def publish(calls: Sequence[tuple[uuid.UUID, Submission]]) -> list[Exception | None]:
    """Publish calls: broadcasts one by one, transactional ones in one message for some.

    After the first that the broker refuses, none of the others is tried.
    """
    results: dict[uuid.UUID, Exception | None] = {}
    some = [call for call in calls if call[1].kind == "transactional"]
    lots = [[call] for call in calls if call[1].kind == "broadcast"]
    lots += [some[start : start + many.MOST] for start in range(0, len(some), many.MOST)]
    refused: ServiceUnavailable | None = None
    for lot in lots:
        failure: Exception | None = refused
        if refused is None:
            try:
                _publish(lot)
            except ServiceUnavailable as error:
                failure = refused = error
            except Exception as error:  # noqa: BLE001 - theirs; the others may do
                failure = error
        results.update({send_id: failure for send_id, _ in lot})
    return [results[send_id] for send_id, _ in calls]


def _publish(lot: Sequence[tuple[uuid.UUID, Submission]]) -> None:
    (send_id, first), *others = lot
    if first.kind == "transactional" and others:
        many.send_together(lot)
    else:
        task = entry.send_broadcast if first.kind == "broadcast" else entry.send_notification
        task.apply_async((first.as_json(),), task_id=str(send_id))
