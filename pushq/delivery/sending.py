"""Sending what is open in a batch: resolve tokens, ask for permission, claim, submit, collect.

The order of steps is what the guarantees rest on: claim (at_most_once), request, journal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import redis

from pushq.delivery import events
from pushq.delivery.attempt import Attempt
from pushq.delivery.composing import compose, values_of
from pushq.delivery.counting import Counting
from pushq.delivery.means import Means
from pushq.delivery.spans import RequestSpans
from pushq.delivery.watch import Watched
from pushq.http2 import NO_CONNECTION, Answer, Burst, Code, PoolClosed, PoolSaturated
from pushq.http2.greenlets import pause
from pushq.ledger.batches import Fenced, Lease
from pushq.ledger.outcomes import Outcome
from pushq.ledger.sends import Send, partition_of_batch
from pushq.notification import Notification
from pushq.providers import unlisted
from pushq.providers.answers import Effect, Scope, Verdict
from pushq.providers.client import ProviderClient, RequestPool
from pushq.rendering.contents import Renderer, Values
from pushq.tokens.resolved import Resolved

log = logging.getLogger("pushq.delivery")

#: Devices per burst, where the provider has no size of its own: one claim and one submission each, which cost about a millisecond
#: of CPU together. As many are claimed in advance at most, and so unknown should this process be killed.
CHUNK: Final = 1000
#: How often a running batch looks for answers when no burst has finished, and whether it may still send.
COLLECT_S: Final = 0.1
SUBMIT_TIMEOUT_S: Final = 60.0
#: Permits are not taken while so many requests wait in the pool: they would be spent late, and in a burst.
HEADROOM: Final = 2000
HEADROOM_STEP_S: Final = 0.02
#: A longer wait for permission is left to the ledger: the batch makes room for others.
LONGEST_WAIT_S: Final = 2.0
#: So long a batch asks again and again in vain. A send's own rate must not keep others waiting for this worker; a provider's
#: limit holds up everybody who could take its place.
PATIENCE_S: Final = 30.0
PATIENCE_SEND_RATE_S: Final = 1.5
_CLAIMED: Final = bytes((Outcome.CLAIMED,))
#: When a batch whose patience is over comes back, half of it jitter.
SEND_RATE_AGAIN_S: Final = 5.0


class Sending:
    """Feeds an :class:`Attempt` with what the provider makes of a batch.

    Args:
        watched: the send as it stands.
        counting: hears of every look at the answers.
        journaled: whether the lease has a journal.

    Attributes:
        journaled: False as soon as it is gone or another holder's.
        again_in: set when something other than a failure kept recipients from being sent: seconds until they may be.
        why: what that was: ``paused``, ``shutdown``, or the gate's reason.
    """

    def __init__(
        self,
        means: Means,
        lease: Lease,
        send: Send,
        client: ProviderClient,
        attempt: Attempt,
        watched: Watched,
        counting: Counting,
        *,
        journaled: bool,
    ) -> None:
        self._d, self._lease, self._send, self._client = means, lease, send, client
        self._counting = counting
        self._attempt, self._watched = attempt, watched
        self._spans = RequestSpans(send.app, lease.platform)
        self.journaled = journaled
        self.again_in: float | None = None
        self.why: str | None = None
        self._uncollected_s = 0.0
        #: Positions from and to which the journal is behind, since Redis did not answer.
        self._unwritten: tuple[int, int] | None = None
        self._fenced = False
        #: A probe for the breaker: to be sent, and sent.
        self._probing = False
        self._probe: Burst | None = None
        #: The last refusal that was logged: one answer may be that of many recipients.
        #: Statuses and reasons that the log has of this batch.
        self._logged: set[tuple[int | None, str]] = set()
        self.sent_at = means.clock()
        self._message, composed = compose(send, lease.platform)
        #: None: everybody gets the same, as ``_message`` says it.
        self._renderer = Renderer(composed, client.format(self._message)) if composed.personal else None
        attempt.personal = composed.personal

    def deliver(self) -> None:
        """Send to everybody who is open and whose time has come, and wait for the answers.

        Raises:
            CredentialRefused, CredentialUnavailable, PoolSaturated, PoolClosed: not everything was sent.
        """
        if not self._wait(self._lease.early_s):
            return
        positions = self._due()
        if not positions:
            return
        try:
            self._send_to(positions)
        finally:
            # By now the tokens are gone: the batches that only wait for answers are many.
            self._await()
            self._spans.look(everything=True)

    def _send_to(self, positions: list[int]) -> None:
        lease = self._lease
        whole = len(positions) == len(lease.user_ids)
        users = lease.user_ids if whole else [lease.user_ids[i] for i in positions]
        devices = lease.device_ids if whole else [lease.device_ids[i] for i in positions]
        resolved = self._resolve(users, devices)
        for environment, (where, tokens, rows) in self._by_environment(positions, resolved).items():
            self._message = replace(self._message, environment=environment)
            pool = self._client.pool(environment)
            if self._renderer is None:
                goes_on = self._submit(pool, where, tokens)
            else:
                goes_on = self._submit_rendered(self._renderer, pool, where, tokens, resolved, rows)
            if not goes_on:
                return

    def _by_environment(
        self, positions: list[int], resolved: Resolved
    ) -> dict[str, tuple[list[int], list[bytes], list[int]]]:
        """Positions, tokens and places in ``resolved`` of those who still have a token; the others are suppressed."""
        found: dict[str, tuple[list[int], list[bytes], list[int]]] = {}
        if not resolved.misses and len(environments := set(resolved.environments)) == 1:
            # The cache had all of them: mostly so.
            (environment,) = environments
            if environment is not None:
                tokens = cast("list[bytes]", resolved.tokens)
                return {environment: (positions, tokens, list(range(len(positions))))}
        for row, (position, token, environment) in enumerate(
            zip(positions, resolved.tokens, resolved.environments, strict=True)
        ):
            if token is None or environment is None:
                self._attempt.outcomes[position] = Outcome.SUPPRESSED
                continue
            group = found.get(environment)
            if group is None:
                group = found[environment] = [], [], []
            group[0].append(position)
            group[1].append(token)
            group[2].append(row)
        return found

    def _resolve(self, users: list[int], devices: list[int]) -> Resolved:
        target, count = self._send.target, len(users)
        if target is None:
            return self._d.cache.resolve(
                self._lease.platform,
                users,
                devices,
                self._send.app,
                partition=partition_of_batch(self._lease.batch_no),
                tokens_only=self._renderer is None,
            )
        # The provider knows the devices: the request names the target, and no token.
        return Resolved([b""] * count, [target.environment] * count, [None] * count, [None] * count)

    def _due(self) -> list[int]:
        """Open recipients whose own wait is over."""
        pending, waits = self._attempt.pending(), self._lease.waits
        if waits is None:
            return pending
        # What was slept for the batch has passed for everybody in it; waits are whole milliseconds.
        return [position for position in pending if waits[position] <= self._lease.early_s + 0.001]

    def _submit_rendered(
        self,
        renderer: Renderer[Notification],
        pool: RequestPool,
        positions: list[int],
        tokens: list[bytes],
        resolved: Resolved,
        rows: list[int],
    ) -> bool:
        """As :meth:`_submit`, with what each recipient gets; who can get nothing is refused without a request.

        Args:
            rows: where each of them stands in ``resolved``.
        """
        # Chunk by chunk: the contents of a whole batch would be megabytes.
        step = self._client.chunk or CHUNK
        for start in range(0, len(positions), step):
            where, part = positions[start : start + step], rows[start : start + step]
            rendered = renderer.render(
                [resolved.languages[row] for row in part], self._values(where, resolved, part), len(part)
            )
            refused, kept = rendered.refused, list(range(len(part)))
            if refused:
                self._attempt.refuse({where[index]: reason for index, reason in refused.items()})
                kept = [index for index in kept if index not in refused]
            contents = [content for content in rendered.contents if content is not None]
            if not self._submit(
                pool, [where[index] for index in kept], [tokens[start + index] for index in kept], contents
            ):
                return False
        return True

    def _values(self, positions: list[int], resolved: Resolved, rows: list[int]) -> list[Values | None]:
        """What is known of these recipients: their devices' attributes, and over them what the call says."""
        send, users = self._send, self._lease.user_ids
        if not send.values:
            return [resolved.attributes[row] for row in rows]
        return [
            values_of(send, users[position], resolved.attributes[row])
            for position, row in zip(positions, rows, strict=True)
        ]

    def _submit(
        self,
        pool: RequestPool,
        positions: list[int],
        tokens: list[bytes],
        contents: list[bytes] | None = None,
    ) -> bool:
        """False: the rest of the batch is not to be sent now."""
        devices, start = self._lease.device_ids, 0
        while start < len(positions):
            size = self._permits(pool, min(self._client.chunk or CHUNK, len(positions) - start))
            if not size:
                return False
            where = positions[start : start + size]
            burst = self._client.burst(
                self._message,
                tokens[start : start + size],
                [devices[position] for position in where],
                self._d.clock(),
                None if contents is None else contents[start : start + size],
            )
            start += size
            if self._probing:
                self._probing, self._probe = False, burst
            if self._send.at_most_once and not self._claim(where):
                return False
            self._attempt.add(burst, where)
            self._spans.begin(burst, pool.name)
            try:
                pool.submit(burst, SUBMIT_TIMEOUT_S)
            except (PoolSaturated, PoolClosed):
                burst.cancel("not_submitted")
                raise
            if not self._send.at_most_once:
                self._collect()
        return True

    def _permits(self, pool: RequestPool, want: int) -> int:
        """How many requests may go out now; waits a little for them. 0: none, for longer than it is worth waiting."""
        waited = 0.0
        while (queued := pool.queued) > HEADROOM:
            if waited >= SUBMIT_TIMEOUT_S:
                raise PoolSaturated(pool.name, SUBMIT_TIMEOUT_S, queued)
            if not self._wait(HEADROOM_STEP_S):
                return 0
            waited += HEADROOM_STEP_S
        waited = 0.0
        while self._may_send():
            grant = self._d.gate.ask(
                self._send.app,
                self._lease.platform,
                transactional=self._send.transactional,
                send_id=self._send.id,
                rate=self._watched.rate,
                want=want,
            )
            if grant.permits:
                self._probing = grant.probe
                return grant.permits
            wait = max(grant.wait_s, 0.001)
            own = grant.reason == "send_rate"
            if wait > LONGEST_WAIT_S or waited + wait > (PATIENCE_SEND_RATE_S if own else PATIENCE_S):
                jittered = SEND_RATE_AGAIN_S * (0.5 + self._d.random() / 2)
                self.again_in, self.why = max(wait, jittered) if own else wait, grant.reason
                return 0
            if not self._wait(wait):
                return 0
            waited += wait
        return 0

    def _may_send(self) -> bool:
        """Whether what is not yet written may still go out; if not, why is noted."""
        attempt = self._attempt
        if attempt.halted is not None or attempt.reauthenticate is not None or self._lease.lost:
            return False
        if self._fenced:
            self.again_in = 0.0
            return False
        if self._watched.held:
            self.again_in, self.why = 0.0, "paused"
            return False
        if self._d.drain.sending_ends:
            self.again_in, self.why = 0.0, "shutdown"
            return False
        return True

    def _wait(self, seconds: float) -> bool:
        """Let time pass while answers come in. False, perhaps early: nothing more is to be sent."""
        while self._may_send():
            if seconds <= 0:
                return True
            step = min(seconds, COLLECT_S)
            pause(step)
            seconds -= step
            self._uncollected_s += step
            # Each look at the answers is also a write to the journal: short waits in a row share one.
            if self._uncollected_s >= COLLECT_S:
                self._collect()
        return False

    def _claim(self, positions: Sequence[int]) -> bool:
        """Journal that these are about to be handed over, and what came in meanwhile. False: do not send them, nor anything after."""
        attempt = self._attempt
        came_in = self._take_in()
        if not self._may_send():
            self._record(came_in)
            return False
        first, last = positions[0], positions[-1] + 1
        if last - first == len(positions):
            attempt.outcomes[first:last] = _CLAIMED * len(positions)
        else:
            for position in positions:
                attempt.outcomes[position] = Outcome.CLAIMED
        spans = [*came_in, (first, bytes(attempt.outcomes[first:last]))]
        try:
            self._d.journal.write(self._lease, self._with_unwritten(spans))
            self._unwritten = None
        except (redis.RedisError, Fenced) as exc:
            events.claim_failed(exc)
            for position in positions:
                attempt.outcomes[position] = Outcome.PENDING
            attempt.not_sent = "not_claimed"
            # What came in is written with the next look; not at once, for a Redis that hangs is waited for each time.
            self._not_written(came_in)
            self._report()
            return False
        self._report()
        return True

    def _await(self) -> None:
        """Until every submitted request has ended. Each ends within its own timeout, so this does."""
        while open_bursts := self._attempt.open_bursts():
            # For the last one, which the others mostly end before: a look, and a write to the journal, for all of them.
            open_bursts[-1].wait(COLLECT_S)
            self._collect()
            if not self._may_send():
                self._attempt.cancel(self.why or ("fenced" if self._lease.lost else "halted"))
            if self._d.drain.waiting_ends:
                self._record(self._attempt.abandon("shutdown", self._judge))

    def _collect(self) -> None:
        self._record(self._take_in())

    def _take_in(self) -> list[tuple[int, bytes]]:
        """What has come in since the last look: the spans for the journal."""
        self._uncollected_s = 0.0
        spans = self._attempt.collect(self._judge)
        self._spans.look()
        return spans

    def _record(self, spans: list[tuple[int, bytes]]) -> None:
        """Journal what was taken in and report it to the gate."""
        if (spans or self._unwritten) and self.journaled:
            spans = self._with_unwritten(spans)
            try:
                self._d.journal.write(self._lease, spans)
                self._unwritten = None
            except Fenced as exc:
                # In-flight requests go on; whether this holder may still settle is for the row to say.
                self.journaled, self._fenced = False, not self._send.at_most_once
                log.warning("journal_not_written", extra={"error": str(exc)})
            except redis.RedisError as exc:
                self._not_written(spans)
                log.warning("journal_not_written", extra={"error": type(exc).__name__})
        self._report()

    def _with_unwritten(self, spans: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """These spans, and in one range with them what the journal is behind in."""
        if self._unwritten is None:
            return spans
        first, last = self._bounds(spans)
        return [(first, bytes(self._attempt.outcomes[first:last]))]

    def _not_written(self, spans: list[tuple[int, bytes]]) -> None:
        if spans:
            self._unwritten = self._bounds(spans)

    def _bounds(self, spans: list[tuple[int, bytes]]) -> tuple[int, int]:
        known = [] if self._unwritten is None else [self._unwritten]
        ranges = [*known, *((start, start + len(values)) for start, values in spans)]
        return min(start for start, _ in ranges), max(end for _, end in ranges)

    def _report(self) -> None:
        attempt = self._attempt
        self._counting.answers(attempt, self._d.clock())
        probe = None if self._probe is None else self._result(self._probe)
        if probe is not None:
            self._probe = None
        if attempt.answered or attempt.failed or probe is not None:
            answered, failed = attempt.answered, attempt.failed
            attempt.answered = attempt.failed = 0
            self._d.gate.report(
                self._send.app, self._lease.platform, answered=answered, failed=failed, probe=probe
            )
        if attempt.hold_off_s:
            self._d.gate.hold_off(self._send.app, self._lease.platform, attempt.hold_off_s)
            attempt.hold_off_s = 0.0

    def _judge(self, answer: Answer) -> Verdict:
        verdict = self._client.judge(answer, sent_at=self.sent_at, now=self._d.clock())
        unlisted.note(self._send.app, self._lease.platform, verdict)
        # What speaks about one recipient is in the dead letters; a line each would drown the log.
        if verdict.scope is not Scope.RECIPIENT and verdict.effect is not Effect.RETRY:
            said = verdict.status, verdict.reason
            if said not in self._logged:
                self._logged.add(said)
                log.warning(
                    "provider_refused",
                    extra={"status": verdict.status, "reason": verdict.reason, "detail": verdict.detail},
                )
        return verdict

    def _result(self, probe: Burst) -> bool | None:
        """Whether the provider answered a probe (5xx is no answer, but for flow control); None as long as nothing is known, or when it
        was never sent.
        """
        code, answer = probe.codes[0], probe.answers.get(0)
        if code == Code.OK:
            return True
        if answer is not None:
            judged = self._client.judge(answer, sent_at=self.sent_at, now=self._d.clock())
            return answer.status < 500 or judged.flow_control
        if code == Code.UNKNOWN or (code == Code.NOT_SENT and probe.reasons.get(0) in NO_CONNECTION):
            return False
        return None
