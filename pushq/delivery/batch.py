"""One run of a batch, from its journal to its settlement."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import redis

from pushq import metrics, tracing
from pushq.delivery import events
from pushq.delivery.attempt import Attempt
from pushq.delivery.conclusion import Circumstances, Conclusion, conclude
from pushq.delivery.counting import Counting
from pushq.delivery.means import Means, Step
from pushq.delivery.sending import Sending
from pushq.delivery.watch import Watched
from pushq.errors import InvalidRequest, PushqError
from pushq.http2 import PoolClosed, PoolSaturated
from pushq.ledger import batches, brake, sends
from pushq.ledger.batches import DeadLetter, Fenced, Lease
from pushq.ledger.orders import DeliverBatch, Order, ProcessDeadLetters
from pushq.ledger.outcomes import Outcome, recover
from pushq.ledger.sends import Send
from pushq.limits.guard import Ruling
from pushq.providers.answers import Effect, Verdict
from pushq.providers.client import CredentialRefused, CredentialUnavailable, ProviderClient

log = logging.getLogger("pushq.delivery")

#: A batch that cannot be worked on because Redis or a credential is not to be had comes back after this.
POSTPONE_S: Final = 5.0
#: A batch whose credential was refused, and has been replaced meanwhile, comes back after this.
RENEWED_S: Final = 1.0
#: So often a journal is read anew because somebody wrote to it before it could be replaced.
OPEN_TRIES: Final = 3


class BatchRun:
    """One taken-up batch. The order of steps is what the guarantees rest on: lease, journal, requests, settlement."""

    def __init__(self, means: Means, lease: Lease, send: Send, watched: Watched) -> None:
        self._d, self._lease, self._send, self._watched = means, lease, send, watched
        self._counting = Counting(send, lease.platform)
        self._journaled = False

    def go(self) -> Step:
        """Send what is open and settle.

        Raises:
            Fenced: another holder has the batch; nothing was settled.
            ServiceUnavailable: PostgreSQL is gone.
        """
        lease, send = self._lease, self._send
        client = self._d.clients.get((send.app, lease.platform))
        if client is None:
            return self._hold(
                "unconfigured",
                f"app {send.app!r} has no {lease.platform} table in the configuration of this worker",
            )
        try:
            attempt = self._open_journal()
        except redis.RedisError as exc:
            # at_most_once must not send what it cannot claim; nothing has been sent, so the batch simply comes back.
            return self._hand_back(
                f"Redis cannot be reached ({type(exc).__name__}). Check that it runs and PUSHQ_REDIS_URL"
            )
        if lease.crashes >= self._d.settings.poison_runs:
            return self._park(attempt)
        if self._d.clock() >= send.expires_at:
            attempt.end_pending(attempt.pending(), Outcome.EXPIRED)
            return self._write(attempt, lease.attempts, Conclusion(None), None)
        sending = Sending(
            self._d, lease, send, client, attempt, self._watched, self._counting, journaled=self._journaled
        )
        return self.finish(client, attempt, sending, sending.deliver)

    def finish(
        self, client: ProviderClient, attempt: Attempt, sending: Sending, deliver: Callable[[], None]
    ) -> Step:
        """Settle what ``deliver`` achieves, or what keeps it from sending. Raises as :meth:`go`."""
        error: str | None = None
        try:
            deliver()
        except CredentialRefused as exc:
            if not self._renewed(client, sending):
                self._guard(client, attempt)
                return self._hold("credential", str(exc), attempt)
        except (CredentialUnavailable, PoolSaturated, PoolClosed) as exc:
            error = str(exc)
        except InvalidRequest as exc:
            # A header of the message, which is everybody's. Anything else may be one recipient's, and is parked with its batch.
            if not exc.field.startswith("template."):
                raise
            error = f"{self._lease.platform}: no request can be made of the message ({exc})"
            self._fail(error)
        return self._settle(client, attempt, sending, error)

    def _open_journal(self) -> Attempt:
        lease, journal, at_most_once = self._lease, self._d.journal, self._send.at_most_once
        outcomes, lost = lease.outcomes, "no_answer_worker_lost"
        try:
            before = journal.read(*lease.key)
            for left in reversed(range(OPEN_TRIES)):
                if lease.interrupted:
                    whole = before is not None and before.whole
                    outcomes = recover(
                        lease.outcomes,
                        before.outcomes if before and whole else None,
                        at_most_once=at_most_once,
                    )
                    lost = "no_answer_worker_lost" if whole else "no_answer_journal_lost"
                    log.info("batch_recovered", extra={"journal": whole})
                try:
                    journal.open(lease, outcomes, replaces=before.raw if before else b"")
                    break
                except Fenced:
                    # The last holder lives, and claimed after we had read. A journal with another token is a later holder's.
                    seen, before = before, journal.read(*lease.key)
                    same = seen is not None and before is not None and seen.token == before.token
                    if not (left and lease.interrupted and same):
                        raise
            self._journaled = True
            self._check_lease()
        except redis.RedisError as exc:
            if at_most_once:
                raise
            # at_least_once may go on without: after a crash everything that the row does not call final is sent again.
            log.warning("journal_unavailable", extra={"error": type(exc).__name__})
        attempt = Attempt(bytearray(outcomes), at_most_once, self._send.trust_rejections)
        if outcomes != lease.outcomes:
            tries = bytearray(lease.attempts)
            for position, (old, new) in enumerate(zip(lease.outcomes, outcomes, strict=True)):
                if old != new:
                    tries[position] = min(tries[position] + 1, 255)
                    if new == Outcome.UNKNOWN:
                        attempt.dead.append(DeadLetter(position, Outcome.UNKNOWN, None, lost, None))
            lease.attempts = bytes(tries)
        return attempt

    def _check_lease(self) -> None:
        """Who slept between lease and journal may have opened one where a later holder has settled and left none."""
        lease, seconds = self._lease, self._d.settings.lease_seconds
        if time.monotonic() - lease.taken_at < seconds:
            return
        batches.extend(self._d.database, [lease], seconds)
        if lease.lost:
            self._close_journal()
            raise Fenced(
                f"the lease of batch {lease.batch_no} of send {lease.send_id} ended before its journal began"
            )

    def _settle(self, client: ProviderClient, attempt: Attempt, sending: Sending, error: str | None) -> Step:
        self._journaled = sending.journaled
        if attempt.in_doubt:
            # What others got of a personal message was another one.
            attempt.settle_doubts(proven=attempt.proven or (not attempt.personal and self._taken_elsewhere()))
        if (blamed := attempt.all_blamed) is not None and not self._taken_elsewhere():
            attempt.halted = attempt.halted or blamed
        suspicion = self._guard(client, attempt)
        if attempt.reauthenticate is not None:
            try:
                client.reauthenticate(attempt.reauthenticate)
            except CredentialRefused as exc:
                if not self._renewed(client, sending):
                    return self._hold("credential", str(exc), attempt)
            except PushqError as exc:
                error = str(exc)
        if suspicion is not None and not self._renewed(client, sending):
            return self._hold("tokens", suspicion, attempt)
        if attempt.halted is not None:
            if attempt.halted.effect is not Effect.CONFIGURATION:
                self._stop(attempt.halted)
            elif not self._renewed(client, sending):
                return self._hold("setup", client.explain(attempt.halted), attempt)
        attempts, conclusion = self._conclude(attempt, sending.again_in)
        if error is None and conclusion.retry_in is not None and sending.why != "paused":
            not_sent = sending.why or attempt.not_sent
            if attempt.reauthenticate is not None:
                error = f"{self._lease.platform}: the credential was refused as expired; will be tried again"
            elif not_sent is not None:
                error = f"{self._lease.platform}: not sent ({not_sent}); will be tried again"
        return self._write(attempt, attempts, conclusion, error)

    def _renewed(self, client: ProviderClient, sending: Sending) -> bool:
        """Whether what was refused is out of use by now: then the batch comes back to be sent with what replaced it."""
        if sending.why == "renewed" or self._d.renewed((self._send.app, self._lease.platform), client):
            sending.again_in, sending.why = RENEWED_S, "renewed"
            log.info("set_up_renewed")
            return True
        return False

    def _taken_elsewhere(self) -> bool:
        """Whether the provider took this send's message for anybody in another batch."""
        with self._d.database.begin() as connection:
            return sends.accepted_by(connection, self._send.id, self._lease.platform)

    def _guard(self, client: ProviderClient, attempt: Attempt) -> str | None:
        """Decide about rejections that a wrong set-up causes as well. Returns why the send has to be held, if it has."""
        lease, send = self._lease, self._send
        counts, first = attempt.counts(), next(iter(attempt.guarded.values()), None)
        ruling = self._d.guard.judge(
            send.app,
            lease.platform,
            counts,
            broadcast=not send.transactional,
            trusted=send.trust_rejections,
        )
        attempt.rule(ruling)
        if first is None:
            return None
        if attempt.halted is not None and attempt.halted.guarded:
            # With what was still in flight they may have become few: then the others of the batch get their turn as usual.
            attempt.halted = None
        if ruling is not Ruling.HOLD:
            return None
        return (
            f"{counts.guarded} of {counts.answered} tokens in a batch were refused as a wrong set-up would cause it, so none was"
            f" invalidated. {client.explain(first)}, or --trust-rejections if it is the tokens that are wrong"
        )

    def _conclude(self, attempt: Attempt, again_in: float | None) -> tuple[bytes, Conclusion]:
        attempts = attempt.tries(self._lease.attempts)
        found = Circumstances(
            policy=self._send.policy(self._d.settings.retry),
            attempts=attempts,
            waits=self._lease.waits,
            runs=self._lease.runs,
            now=self._d.clock(),
            expires_at=self._send.expires_at,
            random=self._d.random(),
            again_in=again_in,
        )
        return attempts, conclude(attempt, found)

    def _write(
        self,
        attempt: Attempt,
        attempts: bytes,
        conclusion: Conclusion,
        error: str | None,
        *,
        parked: bool = False,
    ) -> Step:
        lease, send, retry_in = self._lease, self._send, conclusion.retry_in
        letters = attempt.dead
        self._counting.answers(attempt, self._d.clock())
        settled = batches.settle(
            self._d.database,
            lease,
            bytes(attempt.outcomes),
            attempts=attempts,
            window=self._d.settings.release_window,
            retry_in=retry_in,
            waits=conclusion.waits,
            dead=letters,
            error=error,
            parked=parked,
        )
        self._close_journal()
        self._counting.settled(settled, letters, attempt)
        if settled.done:
            sends.finish_if_complete(self._d.database, send.id)
        tries = max(attempts)
        events.settled(attempt=tries, retry_in=retry_in, error=error)
        tracing.note(
            recipients=len(attempts), attempt=tries, retry_in=retry_in, dead_letters=len(letters), error=error
        )
        orders: list[Order] = [
            DeliverBatch(send.id, no, lease.platform, send.transactional) for no in settled.released
        ]
        if settled.dead_letters:
            orders.append(ProcessDeadLetters(send.id, lease.batch_no, len(letters)))
        # Without a wait the sweeper publishes it: whoever held the send up decides when.
        return Step(orders, None if settled.done else retry_in or None)

    def _close_journal(self) -> None:
        try:
            self._d.journal.close(self._lease)
        except redis.RedisError as exc:
            events.journal_not_closed(exc)

    def _stop(self, verdict: Verdict) -> None:
        """The provider refuses the message itself: end the send with one clear reason, for everybody would get the same."""
        detail = f": {verdict.detail}" if verdict.detail else ""
        self._fail(f"{self._lease.platform} refuses the message ({verdict.status} {verdict.reason}{detail})")

    def _fail(self, error: str) -> None:
        with self._d.database.begin() as connection:
            if brake.stop(connection, self._send.id, state="failed", error=error):
                log.error("send_stopped", extra={"send_id": str(self._send.id), "error": error})

    def _hold(self, cause: str, error: str, attempt: Attempt | None = None) -> Step:
        """Nobody can get anything until an operator mends the set-up: pause the send, keep every recipient.

        Args:
            cause: one of :data:`pushq.metrics.HOLDS`.
        """
        with self._d.database.begin() as connection:
            held = brake.pause(connection, self._send.id, error)
        if held:
            metrics.sends_held.labels(self._lease.platform, cause).inc()
            log.error("send_held", extra={"send_id": str(self._send.id), "error": error})
        if attempt is None or not any(attempt.outcomes):
            return self._hand_back(error)
        attempts, conclusion = self._conclude(attempt, POSTPONE_S)
        return Step(self._write(attempt, attempts, conclusion, error).orders)

    def _park(self, attempt: Attempt) -> Step:
        """This batch has killed its workers, or was with them each time: nobody tries again until an operator says so."""
        lease = self._lease
        error = (
            f"parked: {lease.crashes} workers in a row did not settle it (killed, or an error: see their logs)."
            " Look at its payload, then: pushq replay"
        )
        attempt.end_pending(attempt.pending(), Outcome.EXHAUSTED, "parked")
        step = self._write(attempt, lease.attempts, Conclusion(None), error, parked=True)
        metrics.batches_parked.inc()
        log.error("batch_parked", extra={"crashes": lease.crashes})
        return step

    def _hand_back(self, error: str) -> Step:
        log.warning("batch_handed_back", extra={"error": error})
        # A batch whose last holder vanished must be known as such until its journal has been read.
        interrupted = self._lease.interrupted and not self._journaled
        batches.hand_back(
            self._d.database, self._lease, delay=POSTPONE_S, interrupted=interrupted, error=error
        )
        # Only now: a row that says running without a journal would mean that anybody may have been reached.
        if self._journaled:
            self._close_journal()
        return Step()
