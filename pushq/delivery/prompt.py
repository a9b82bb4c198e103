"""Delivering fresh batches of several transactional sends in one go: one look-up, one claim, one settlement for all of them.

The order of steps is that of :mod:`pushq.delivery.sending`: lease, claim, request, settlement. What is out of the ordinary before a
request goes out is given back for a run of its own; what is so afterwards is settled by :class:`~pushq.delivery.batch.BatchRun`.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple

import redis

from pushq import logs
from pushq.delivery import events
from pushq.delivery.attempt import Attempt
from pushq.delivery.batch import POSTPONE_S, BatchRun
from pushq.delivery.counting import Counting
from pushq.delivery.means import Means, Step
from pushq.delivery.sending import CHUNK, COLLECT_S, Sending
from pushq.delivery.watch import Watched
from pushq.http2 import Burst
from pushq.ledger import batches, prompt
from pushq.ledger.batches import Fenced, Lease, Settled
from pushq.ledger.orders import DeliverBatch
from pushq.ledger.outcomes import COLUMNS, Outcome
from pushq.ledger.prompt import Ended
from pushq.ledger.release import top_up
from pushq.ledger.sends import Send
from pushq.limits.guard import Counts
from pushq.tokens.resolved import Resolved

#: What has ended is settled at the latest so long after: somebody else's answer may take seconds.
SETTLE_WITHIN_S: Final = 0.05
#: A pool without room is a provider without answers; those of others do not wait for it.
SUBMIT_TIMEOUT_S: Final = 2.0

Key = tuple[uuid.UUID, int]


class _Ready(NamedTuple):
    environment: str
    positions: list[int]
    tokens: list[bytes]
    contents: list[bytes] | None


class PromptSending(Sending):
    """A sending in steps, so that those of several batches share what they wait for."""

    def __init__(self, means: Means, lease: Lease, send: Send, watched: Watched) -> None:
        self.attempt = Attempt(bytearray(lease.outcomes), send.at_most_once, send.trust_rejections)
        self.client = means.clients[send.app, lease.platform]
        self.lease, self.send, self.watched = lease, send, watched
        self.counting = Counting(send, lease.platform)
        super().__init__(
            means, lease, send, self.client, self.attempt, watched, self.counting, journaled=True
        )
        self._ready: list[_Ready] = []
        self.error: Exception | None = None
        self.ended_at: float | None = None

    def prepare(self, resolved: Resolved) -> int:
        """Take the tokens; returns how many requests it will take. Who has none, or can get no message, is done with."""
        positions = list(range(len(self.lease.user_ids)))
        for environment, (where, tokens, rows) in self._by_environment(positions, resolved).items():
            if self._renderer is None:
                self._ready.append(_Ready(environment, where, tokens, None))
                continue
            rendered = self._renderer.render(
                [resolved.languages[row] for row in rows], self._values(where, resolved, rows), len(rows)
            )
            self.attempt.refuse({where[index]: reason for index, reason in rendered.refused.items()})
            kept = [index for index in range(len(where)) if index not in rendered.refused]
            contents = [content for content in rendered.contents if content is not None]
            if kept:
                self._ready.append(
                    _Ready(
                        environment,
                        [where[index] for index in kept],
                        [tokens[index] for index in kept],
                        contents,
                    )
                )
        return sum(len(ready.positions) for ready in self._ready)

    def claim(self) -> bytes:
        """What the journal begins with."""
        if self.send.at_most_once:
            for ready in self._ready:
                for position in ready.positions:
                    self.attempt.outcomes[position] = Outcome.CLAIMED
        return bytes(self.attempt.outcomes)

    def launch(self, *, probe: bool) -> None:
        """Hand over the requests. What keeps them from being sent is left in ``error``."""
        try:
            for ready in self._ready:
                self._hand_over(ready, probe=probe)
        except Exception as exc:  # noqa: BLE001 - the settlement raises it where it is decided what it means
            self.error = exc

    def _hand_over(self, ready: _Ready, *, probe: bool) -> None:
        devices = self.lease.device_ids
        message = replace(self._message, environment=ready.environment)
        pool = self.client.pool(ready.environment)
        burst: Burst = self.client.burst(
            message,
            ready.tokens,
            [devices[position] for position in ready.positions],
            self._d.clock(),
            ready.contents,
        )
        if probe:
            self._probe = burst
        self.attempt.add(burst, ready.positions)
        self._spans.begin(burst, pool.name)
        try:
            pool.submit(burst, SUBMIT_TIMEOUT_S)
        except Exception:
            burst.cancel("not_submitted")
            raise

    def wait(self, seconds: float) -> None:
        """Until the first open request has ended, but no longer than this."""
        for burst in self.attempt.open_bursts()[:1]:
            burst.wait(seconds)

    def over(self) -> bool:
        """Take in what has been answered; True when every request has ended."""
        self._collect()
        if self.attempt.open_bursts():
            if not self._may_send():
                self.attempt.cancel(self.why or ("fenced" if self.lease.lost else "halted"))
            if self._d.drain.waiting_ends:
                self._record(self.attempt.abandon("shutdown", self._judge))
        if self.attempt.open_bursts():
            return False
        self._spans.look(everything=True)
        self.ended_at = time.monotonic()
        return True

    @property
    def smooth(self) -> bool:
        return self.error is None and self.again_in is None and self.attempt.smooth

    def finish(self) -> None:
        """For :meth:`BatchRun.finish`: what there was to deliver has been delivered, or this is why not."""
        if self.error is not None:
            raise self.error

    def save(self) -> None:
        """Write the outcomes into the journal, for whoever takes the batch up after this."""
        with suppress(redis.RedisError, Fenced):
            self._d.journal.write(self.lease, [(0, bytes(self.attempt.outcomes))])

    def _record(self, spans: list[tuple[int, bytes]]) -> None:
        # Once all have ended the settlement follows at once, and says the same as the journal would.
        super()._record(spans if self.attempt.open_bursts() else [])


class Prompt:
    """One go.

    Attributes:
        steps: by batch, what its run led to.
        open: batches that nothing has been decided about: an exception found them before any request of theirs went out.
    """

    def __init__(self, means: Means, taken: Sequence[tuple[Lease, Send, Watched]]) -> None:
        self._d = means
        self._taken = taken
        self.steps: dict[Key, Step] = {}
        self.open = {lease.key: lease for lease, _, _ in taken}

    def deliver(self) -> None:
        """Send to everybody, and settle.

        Raises:
            ServiceUnavailable: PostgreSQL is gone. The leases end by themselves.
        """
        now = self._d.clock()
        sendings = []
        for lease, send, watched in self._taken:
            client = self._d.clients.get((send.app, lease.platform))
            if (
                client is None
                or send.rate is not None
                or send.target is not None
                or now >= send.expires_at
                or len(lease.user_ids) > (client.chunk or CHUNK)
            ):
                self._leave(lease)
            else:
                sendings.append(PromptSending(self._d, lease, send, watched))
        allowed = [one for group in _by_target(sendings).values() for one in self._permitted(group)]
        self._await(list(self._begun(allowed)))

    def _permitted(self, group: Sequence[PromptSending]) -> Iterator[tuple[PromptSending, bool]]:
        """Those that may be sent now, and whether they are a probe; the others are given back."""
        first = group[0]
        users = [user for one in group for user in one.lease.user_ids]
        devices = [device for one in group for device in one.lease.device_ids]
        resolved = self._d.cache.resolve(first.lease.platform, users, devices, first.send.app)
        wanted, start = [], 0
        for one in group:
            end = start + len(one.lease.user_ids)
            wanted.append(one.prepare(_slice(resolved, start, end)))
            start = end
        permits, probe = 0, False
        if any(wanted):
            grant = self._d.gate.ask(
                first.send.app,
                first.lease.platform,
                transactional=True,
                send_id=first.send.id,
                rate=None,
                want=sum(wanted),
            )
            permits, probe = grant.permits, grant.probe
        for one, want in zip(group, wanted, strict=True):
            if want > permits:
                self._leave(one.lease)
                continue
            permits -= want
            yield one, probe and want > 0

    def _begun(self, allowed: Sequence[tuple[PromptSending, bool]]) -> Iterator[PromptSending]:
        """Claim, and hand over to the connections."""
        if not allowed:
            return
        leases = [one.lease for one, _ in allowed]
        try:
            begun = self._d.journal.begin(leases, [one.claim() for one, _ in allowed])
        except redis.RedisError as exc:
            events.claim_failed(exc)
            for lease in leases:
                self._leave(lease)
            return
        for (one, probe), fresh in zip(allowed, begun, strict=True):
            if not fresh:
                self._leave(one.lease)
                continue
            self.open.pop(one.lease.key)
            one.launch(probe=probe)
            yield one

    def _leave(self, lease: Lease) -> None:
        """Give it back unsent, and have it run by itself: out of the ordinary."""
        batches.hand_back(self._d.database, lease, delay=POSTPONE_S)
        self.open.pop(lease.key, None)
        self.steps[lease.key] = Step([DeliverBatch(*lease.key, lease.platform, transactional=True)])

    def _await(self, waiting: list[PromptSending]) -> None:
        """Until every request has ended; each does so within its own time-out."""
        ended: list[PromptSending] = []
        while waiting or ended:
            still: list[PromptSending] = []
            for one in waiting:
                (ended if one.over() else still).append(one)
            waiting = still
            since = min((one.ended_at or 0.0 for one in ended), default=None)
            if since is not None and (not waiting or time.monotonic() - since >= SETTLE_WITHIN_S):
                self._settle(ended)
                ended = []
            if waiting:
                waiting[0].wait(SETTLE_WITHIN_S if ended else COLLECT_S)

    def _settle(self, ended: Sequence[PromptSending]) -> None:
        smooth = [one for one in ended if one.smooth]
        if smooth:
            self._settle_smooth(smooth)
        failed: Exception | None = None
        for one in ended:
            if one not in smooth:
                try:
                    self._settle_alone(one)
                except Exception as exc:  # noqa: BLE001 - raised when the others are settled
                    failed = failed or exc
        if failed is not None:
            raise failed

    def _settle_smooth(self, smooth: Sequence[PromptSending]) -> None:
        for (app, platform), group in _by_target(smooth).items():
            every = [one.attempt.counts() for one in group]
            counts = Counts(sum(one.answered for one in every), sum(one.accepted for one in every), 0)
            self._d.guard.judge(app, platform, counts, broadcast=False, trusted=False)
        rows = [
            Ended(one.lease, bytes(one.attempt.outcomes), one.attempt.tries(one.lease.attempts))
            for one in smooth
        ]
        try:
            written = prompt.settle(self._d.database, rows)
        except Exception:
            for one in smooth:
                one.save()
            raise
        try:
            self._d.journal.close(*(one.lease for one in smooth))
        except redis.RedisError as exc:
            events.journal_not_closed(exc)
        for one, row in zip(smooth, rows, strict=True):
            with logs.bind(send_id=str(one.send.id), batch_no=one.lease.batch_no):
                if one.lease.key not in written.settled:
                    events.fenced("the lease was lost before the settlement")
                    self.steps[one.lease.key] = Step()
                    continue
                ends = {
                    COLUMNS[outcome]: count
                    for outcome in (Outcome.ACCEPTED, Outcome.SUPPRESSED)
                    if (count := row.outcomes.count(outcome))
                }
                one.counting.settled(Settled([], dead_letters=False, done=True, ended=ends), [], one.attempt)
                events.settled(attempt=max(row.attempts))
                self.steps[one.lease.key] = self._released(one, waiting=one.lease.key in written.waiting)

    def _released(self, one: PromptSending, *, waiting: bool) -> Step:
        if not waiting:
            return Step()
        with self._d.database.begin() as connection:
            numbers = top_up(connection, one.send.id, one.lease.platform, self._d.settings.release_window)
        return Step([DeliverBatch(one.send.id, no, one.lease.platform, transactional=True) for no in numbers])

    def _settle_alone(self, one: PromptSending) -> None:
        one.save()
        run = BatchRun(self._d, one.lease, one.send, one.watched)
        with logs.bind(send_id=str(one.send.id), batch_no=one.lease.batch_no):
            try:
                self.steps[one.lease.key] = run.finish(one.client, one.attempt, one, one.finish)
            except Fenced as exc:
                events.fenced(exc)
                self.steps[one.lease.key] = Step()


def _by_target(sendings: Sequence[PromptSending]) -> Mapping[tuple[str, str], list[PromptSending]]:
    groups: dict[tuple[str, str], list[PromptSending]] = defaultdict(list)
    for one in sendings:
        groups[one.send.app, one.lease.platform].append(one)
    return groups


def _slice(resolved: Resolved, start: int, end: int) -> Resolved:
    return Resolved(
        resolved.tokens[start:end],
        resolved.environments[start:end],
        resolved.languages[start:end],
        resolved.attributes[start:end],
    )
