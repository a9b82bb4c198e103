"""Calls on their way to the broker: together where they arrive together, each with its own answer, and none half-accepted."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import pytest

from pushq.errors import ServiceUnavailable
from pushq.submission import Submission, submit
from pushq.web import enqueue
from pushq.web.claims import Claim
from pushq.web.enqueue import Accepted, Enqueuer
from pushq.web.pagination import after_row, after_segment, after_send, encode
from pushq.web.problems import Problem
from pushq.web.threads import Busy

Calls = Sequence[tuple[uuid.UUID, Submission]]


class Notes:
    """What :class:`pushq.web.claims.Claims` does, of one process alone."""

    def __init__(self) -> None:
        self.known: dict[uuid.UUID, str] = {}

    def claim(self, calls: Calls) -> list[Claim]:
        found = []
        for send_id, call in calls:
            new = send_id not in self.known
            same = self.known.setdefault(send_id, call.fingerprint()) == call.fingerprint()
            found.append(Claim.NEW if new else Claim.REPEATED if same else Claim.CONFLICT)
        return found

    def release(self, send_ids: Sequence[uuid.UUID]) -> None:
        for send_id in send_ids:
            del self.known[send_id]


class Broker:
    """Keeps what is published; says no when told to, and waits at ``gate``."""

    def __init__(self) -> None:
        self.lots: list[list[uuid.UUID]] = []
        self.down = False
        self.entered = 0
        self.gate = threading.Event()
        self.gate.set()

    def publish(self, calls: Calls) -> list[Exception | None]:
        self.entered += 1
        assert self.gate.wait(30)
        if self.down:
            return [ServiceUnavailable("The broker", "PUSHQ_BROKER_URL", "refused")] * len(calls)
        self.lots.append([send_id for send_id, _ in calls])
        return [None] * len(calls)

    async def has(self, lots: int) -> None:
        """Until so many lots are with it."""
        while self.entered < lots:
            await asyncio.sleep(0.01)


def call(user: int = 1, key: str | None = None) -> Submission:
    return submit(
        "transactional",
        notification={"title": "Hi"},
        audience={"user_ids": [user]},
        guarantee="at_least_once",
        called_at=datetime.now(UTC),
        idempotency_key=key,
    )


def run(body: Callable[[Enqueuer, Broker, Notes], Awaitable[None]], every_s: float = 0.01) -> None:
    async def opened() -> None:
        broker, notes = Broker(), Notes()
        async with Enqueuer(notes, broker.publish, every_s=every_s) as enqueuer:  # type: ignore[arg-type]
            try:
                await asyncio.wait_for(body(enqueuer, broker, notes), 60)
            finally:
                broker.gate.set()

    asyncio.run(opened())


def test_what_arrives_together_goes_together_and_what_comes_meanwhile_after_it() -> None:
    async def body(enqueuer: Enqueuer, broker: Broker, _: Notes) -> None:
        accepted = await asyncio.gather(*(enqueuer.enqueue(call(user)) for user in range(1, 51)))
        assert [len(lot) for lot in broker.lots] == [50]
        assert {each.send_id for each in accepted} == set(broker.lots[0])
        broker.gate.clear()
        waiting = [asyncio.create_task(enqueuer.enqueue(call(user))) for user in range(1, 6)]
        await broker.has(2)
        waiting += [asyncio.create_task(enqueuer.enqueue(call(user))) for user in range(1, 301)]
        broker.gate.set()
        await asyncio.gather(*waiting)
        assert sum(map(len, broker.lots)) == 355
        assert max(map(len, broker.lots)) <= enqueue.MOST_TOGETHER

    run(body)


def test_who_comes_alone_goes_at_once_and_who_comes_in_the_pause_after_him_goes_with_the_others() -> None:
    async def body(enqueuer: Enqueuer, broker: Broker, _: Notes) -> None:
        await enqueuer.enqueue(call(1))
        waiting = []
        for user in range(2, 6):
            waiting.append(asyncio.create_task(enqueuer.enqueue(call(user))))
            await asyncio.sleep(0.01)
        assert [len(lot) for lot in broker.lots] == [1]
        await asyncio.gather(*waiting)
        assert [len(lot) for lot in broker.lots] == [1, 4]

    run(body, every_s=2.0)


def test_each_call_has_an_answer_of_its_own() -> None:
    async def body(enqueuer: Enqueuer, broker: Broker, _: Notes) -> None:
        results = await asyncio.gather(
            enqueuer.enqueue(call(1, "a")),
            enqueuer.enqueue(call(2, "a")),
            enqueuer.enqueue(call(3)),
            return_exceptions=True,
        )
        assert isinstance(results[0], Accepted)
        assert isinstance(results[1], Problem)
        assert (results[1].status, results[1].more["field"]) == (409, "Idempotency-Key")
        assert isinstance(results[2], Accepted)
        assert broker.lots == [[results[0].send_id, results[2].send_id]]

    run(body)


def test_what_the_broker_refused_may_be_another_call_afterwards() -> None:
    async def body(enqueuer: Enqueuer, broker: Broker, notes: Notes) -> None:
        broker.down = True
        results = await asyncio.gather(
            *(enqueuer.enqueue(call(user, f"key {user}")) for user in range(1, 4)), return_exceptions=True
        )
        assert all(isinstance(result, ServiceUnavailable) for result in results)
        assert notes.known == {}
        broker.down = False
        accepted = await enqueuer.enqueue(call(9, "key 1"))
        assert not accepted.repeated

    run(body)


def test_nobody_waits_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "MOST_WAITING", 3)
    monkeypatch.setattr(enqueue, "WAIT_S", 1.0)

    async def body(enqueuer: Enqueuer, broker: Broker, _: Notes) -> None:
        broker.gate.clear()
        # One lot with each publisher, then three that wait, then one too many.
        tasks = []
        for user in range(1, enqueue.PUBLISHERS + 1):
            tasks.append(asyncio.create_task(enqueuer.enqueue(call(user))))
            await broker.has(user)
        late = [asyncio.create_task(enqueuer.enqueue(call(user))) for user in range(11, 14)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await enqueuer.enqueue(call(20))
        assert all(isinstance(r, Busy) for r in await asyncio.gather(*late, return_exceptions=True))
        broker.gate.set()
        await asyncio.gather(*tasks)  # who was on the way has arrived
        assert sum(map(len, broker.lots)) == enqueue.PUBLISHERS, (
            "who was told that he waits in vain was not sent"
        )

    run(body)


def test_a_call_on_its_way_goes_on_though_its_caller_has_gone() -> None:
    async def body(enqueuer: Enqueuer, broker: Broker, _: Notes) -> None:
        broker.gate.clear()
        gone = asyncio.create_task(enqueuer.enqueue(call(1)))
        await broker.has(1)
        gone.cancel()
        broker.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (await enqueuer.enqueue(call(2))).send_id in {
            send_id for lot in broker.lots for send_id in lot
        }
        assert sum(map(len, broker.lots)) == 2

    run(body)


def test_cursors_come_back_as_they_went_and_nothing_else_does() -> None:
    at, send_id = datetime(2030, 1, 31, 18, tzinfo=UTC), uuid.uuid4()
    assert after_send(encode(at.isoformat(), str(send_id))) == (at, send_id)
    assert after_send(None) is None
    assert after_segment(encode("vips")) == "vips"
    assert after_row(encode("17")) == 17
    for wrong in (
        "",
        "x",
        "W10",
        encode(),
        encode("a"),
        encode("2030-01-31", str(send_id)),
        encode(1, 2),
        "\u00e4",
    ):
        with pytest.raises(ValueError, match="cursor"):
            after_send(wrong)
