"""Running a batch: "send everything in it whose outcome is not final".

That sentence makes delivery idempotent: redelivery, retry, resume and replay are all this call. The order of steps is what the
guarantees rest on: lease, journal, claim (at_most_once), request, journal, settle.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import redis

from pushq.database import Database
from pushq.delivery.attempt import Attempt
from pushq.delivery.leases import LeaseKeeper
from pushq.delivery.retry import Decision, decide, postpone
from pushq.errors import PushqError
from pushq.http2 import Answer, PoolClosed, PoolSaturated
from pushq.ledger import batches, sends
from pushq.ledger.batches import Fenced, Lease
from pushq.ledger.journal import Journal
from pushq.ledger.orders import DeliverBatch, Order, ProcessDeadLetters
from pushq.ledger.outcomes import Outcome, recover
from pushq.ledger.sends import Send
from pushq.providers.answers import Effect, Scope, Verdict
from pushq.providers.client import CredentialRefused, CredentialUnavailable, Message, ProviderClient
from pushq.settings import Settings
from pushq.tokens.cache import TokenCache

log = logging.getLogger("pushq.delivery")

#: Requests per burst: one claim, one submission and about one journal write each.
CHUNK: Final = 500
#: How often a running batch looks for answers when no burst has finished.
COLLECT_S: Final = 0.1
#: A batch that cannot be worked on because Redis or a credential is not to be had comes back after this.
POSTPONE_S: Final = 5.0
SUBMIT_TIMEOUT_S: Final = 60.0
_KEPT_SENDS: Final = 256


@dataclass(frozen=True)
class Step:
    """What one run led to: orders to publish now, and when to run the batch again (None: not by this message)."""

    orders: list[Order] = field(default_factory=list)
    retry_in: float | None = None


class Delivery:
    """Delivers the batches of one process.

    Args:
        clients: by app and platform.
        clock: the present time, UTC.
        random: returns a number from [0, 1), for the jitter.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        cache: TokenCache,
        clients: Mapping[tuple[str, str], ProviderClient],
        settings: Settings,
        leases: LeaseKeeper,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float],
    ) -> None:
        self._database, self._journal, self._cache = database, journal, cache
        self._clients, self._settings, self._leases = clients, settings, leases
        self._clock, self._random = clock, random
        self._sends: dict[uuid.UUID, Send] = {}

    def run(self, send_id: uuid.UUID, batch_no: int) -> Step:
        """Deliver what is open in a batch. Safe to call any number of times, from anywhere.

        Raises:
            ServiceUnavailable: PostgreSQL is gone; the lease ends by itself and the sweeper issues the batch again.
        """
        lease = batches.acquire(self._database, send_id, batch_no, self._settings.lease_seconds)
        if lease is None:
            return Step()
        with self._leases.hold(lease):
            try:
                return _Run(self, lease, self._send(lease)).go()
            except Fenced as exc:
                log.warning("batch_fenced", extra={**_ids(lease), "reason": str(exc)})
                return Step()

    def _send(self, lease: Lease) -> Send:
        send = self._sends.get(lease.send_id)
        if send is None or send.version != lease.send_version:
            with self._database.begin() as connection:
                send = self._sends[lease.send_id] = sends.load(connection, lease.send_id)
            while len(self._sends) > _KEPT_SENDS:
                del self._sends[next(iter(self._sends))]
        return send


class _Run:
    """One taken-up batch, from lease to settlement."""

    def __init__(self, delivery: Delivery, lease: Lease, send: Send) -> None:
        self._d, self._lease, self._send = delivery, lease, send
        self._journaled = False
        self._sent_at = delivery._clock()
        collapse = send.notification.collapse_id
        if collapse is None and not send.at_most_once:
            # A repetition must replace its first copy on the phone.
            collapse = send.id.hex
        self._message = Message(send.id, send.notification, send.expires_at, collapse)

    def go(self) -> Step:
        lease, send = self._lease, self._send
        client = self._d._clients.get((send.app, lease.platform))
        if client is None:
            return self._hold(
                f"app {send.app!r} has no {lease.platform} table in the configuration of this worker"
            )
        try:
            outcomes = self._open_journal()
        except redis.RedisError as exc:
            # at_most_once must not send what it cannot claim; nothing has been sent, so the batch simply comes back.
            return self._hand_back(
                f"Redis cannot be reached ({type(exc).__name__}). Check that it runs and PUSHQ_REDIS_URL"
            )
        attempt = Attempt(bytearray(outcomes), send.at_most_once)
        error: str | None = None
        if self._d._clock() >= send.expires_at:
            attempt.end_pending(attempt.pending(), Outcome.EXPIRED)
        else:
            try:
                self._deliver(client, attempt)
            except CredentialRefused as exc:
                return self._hold(str(exc), attempt)
            except (CredentialUnavailable, PoolSaturated, PoolClosed) as exc:
                error = str(exc)
        return self._settle(client, attempt, error)

    def _open_journal(self) -> bytes:
        lease, journal = self._lease, self._d._journal
        try:
            before = journal.read(*lease.key)
            outcomes = lease.outcomes
            if lease.interrupted:
                outcomes = recover(
                    outcomes, before[1] if before else None, at_most_once=self._send.at_most_once
                )
                log.info("batch_recovered", extra={**_ids(lease), "journal": before is not None})
            journal.open(lease, outcomes, replaces=before[0] if before else b"")
            self._journaled = True
        except redis.RedisError as exc:
            if self._send.at_most_once:
                raise
            # at_least_once may go on without: after a crash everything that the row does not call final is sent again.
            log.warning("journal_unavailable", extra={**_ids(lease), "error": type(exc).__name__})
            outcomes = recover(lease.outcomes, None, at_most_once=False)
        return outcomes

    def _deliver(self, client: ProviderClient, attempt: Attempt) -> None:
        pending = attempt.pending()
        if not pending:
            return
        lease = self._lease
        whole = len(pending) == len(lease.user_ids)
        users = lease.user_ids if whole else [lease.user_ids[i] for i in pending]
        devices = lease.device_ids if whole else [lease.device_ids[i] for i in pending]
        resolved = self._d._cache.resolve(lease.platform, users, devices, self._send.app)
        by_environment: dict[str, tuple[list[int], list[bytes]]] = {}
        for position, token, environment in zip(pending, resolved.tokens, resolved.environments, strict=True):
            if token is None or environment is None:
                attempt.outcomes[position] = Outcome.SUPPRESSED
                continue
            group = by_environment.get(environment)
            if group is None:
                group = by_environment[environment] = [], []
            group[0].append(position)
            group[1].append(token)
        try:
            for environment, (positions, tokens) in by_environment.items():
                self._submit(client, attempt, environment, positions, tokens)
        finally:
            self._await(client, attempt)

    def _submit(
        self,
        client: ProviderClient,
        attempt: Attempt,
        environment: str,
        positions: list[int],
        tokens: list[bytes],
    ) -> None:
        pool, devices = client.pool(environment), self._lease.device_ids
        for start in range(0, len(positions), CHUNK):
            if attempt.halted is not None or self._lease.lost:
                return
            where = positions[start : start + CHUNK]
            burst = client.burst(
                self._message,
                tokens[start : start + CHUNK],
                [devices[position] for position in where],
                self._d._clock(),
            )
            if self._send.at_most_once and not self._claim(attempt, where):
                return
            attempt.add(burst, where)
            try:
                pool.submit(burst, SUBMIT_TIMEOUT_S)
            except (PoolSaturated, PoolClosed):
                burst.cancel("not_submitted")
                raise
            self._collect(client, attempt)

    def _claim(self, attempt: Attempt, positions: Sequence[int]) -> bool:
        """Journal that these are about to be handed over. False: do not send them, nor anything after them."""
        spans = []
        for position in positions:
            attempt.outcomes[position] = Outcome.CLAIMED
        first, last = positions[0], positions[-1] + 1
        spans.append((first, bytes(attempt.outcomes[first:last])))
        try:
            self._d._journal.write(self._lease, spans)
        except (redis.RedisError, Fenced) as exc:
            log.warning("claim_failed", extra={**_ids(self._lease), "error": type(exc).__name__})
            for position in positions:
                attempt.outcomes[position] = Outcome.PENDING
            attempt.not_sent = "not_claimed"
            return False
        return True

    def _await(self, client: ProviderClient, attempt: Attempt) -> None:
        """Until every submitted request has ended. Each ends within its own timeout, so this does."""
        while open_bursts := attempt.open_bursts():
            open_bursts[0].wait(COLLECT_S)
            self._collect(client, attempt)
            if attempt.halted is not None:
                attempt.cancel("halted")
            elif self._lease.lost:
                attempt.cancel("fenced")

    def _collect(self, client: ProviderClient, attempt: Attempt) -> None:
        def judge(answer: Answer) -> Verdict:
            verdict = client.judge(answer, sent_at=self._sent_at, now=self._d._clock())
            # What speaks about one recipient is in the dead letters; a line each would drown the log.
            if verdict.scope is not Scope.RECIPIENT and verdict.effect is not Effect.RETRY:
                log.warning(
                    "provider_refused",
                    extra={
                        **_ids(self._lease),
                        "status": verdict.status,
                        "reason": verdict.reason,
                        "detail": verdict.detail,
                    },
                )
            return verdict

        spans = attempt.collect(judge)
        if spans and self._journaled:
            try:
                self._d._journal.write(self._lease, spans)
            except (redis.RedisError, Fenced) as exc:
                # In-flight requests go on; whether this holder may still settle is for the row to say.
                self._journaled = False
                log.warning("journal_not_written", extra={**_ids(self._lease), "error": type(exc).__name__})

    def _settle(self, client: ProviderClient, attempt: Attempt, error: str | None) -> Step:
        lease = self._lease
        now = self._d._clock()
        if attempt.reauthenticate is not None:
            try:
                client.reauthenticate(attempt.reauthenticate)
            except CredentialRefused as exc:
                return self._hold(str(exc), attempt)
            except PushqError as exc:
                error = str(exc)
        if attempt.halted is not None:
            if attempt.halted.effect is Effect.CONFIGURATION:
                return self._hold(client.explain(attempt.halted), attempt)
            self._stop(attempt.halted)
        pending = attempt.pending()
        for position in pending:
            attempt.outcomes[position] = Outcome.PENDING
        tried = [position for position in pending if position in attempt.failures]
        number = lease.attempt + 1 if tried or not pending else lease.attempt
        decision = self._decide(attempt, pending, tried, number, now)
        if decision is not None and decision.ending is not None:
            attempt.end_pending(pending if decision.ending is Outcome.EXPIRED else tried, decision.ending)
            pending = attempt.pending()
            if pending and decision.ending is not Outcome.EXPIRED:
                decision = self._postpone(attempt, now)
                if decision.ending is not None:
                    attempt.end_pending(pending, decision.ending)
        retry_in = decision.retry_in if decision is not None else None
        if error is None and attempt.not_sent is not None and retry_in is not None:
            error = f"{lease.platform}: not sent ({attempt.not_sent}); will be tried again"
        return self._write(attempt, number, retry_in, error)

    def _decide(
        self, attempt: Attempt, pending: list[int], tried: list[int], number: int, now: datetime
    ) -> Decision | None:
        if not pending:
            return None
        if not tried:
            return self._postpone(attempt, now)
        return decide(
            self._d._settings.retry,
            attempt=number,
            floor_s=attempt.floor_s,
            now=now,
            expires_at=self._send.expires_at,
            random=self._d._random(),
        )

    def _postpone(self, attempt: Attempt, now: datetime) -> Decision:
        return postpone(
            self._d._settings.retry,
            runs=self._lease.runs,
            floor_s=attempt.floor_s,
            now=now,
            expires_at=self._send.expires_at,
            random=self._d._random(),
        )

    def _write(self, attempt: Attempt, number: int, retry_in: float | None, error: str | None) -> Step:
        lease, send = self._lease, self._send
        letters, held = attempt.letters()
        if held:
            error = "many tokens failed in a way that a wrong set-up causes: none of them was invalidated"
            log.error("mass_invalidation_held", extra={**_ids(lease), "tokens": len(attempt.guarded)})
        settled = batches.settle(
            self._d._database,
            lease,
            bytes(attempt.outcomes),
            attempt=number,
            window=self._d._settings.release_window,
            retry_in=retry_in,
            dead=letters,
            error=error,
        )
        self._close_journal()
        if settled.done:
            sends.finish_if_complete(self._d._database, send.id)
        log.info(
            "batch_settled", extra={**_ids(lease), "attempt": number, "retry_in": retry_in, "error": error}
        )
        orders: list[Order] = [
            DeliverBatch(send.id, no, lease.platform, send.transactional) for no in settled.released
        ]
        if settled.dead_letters:
            orders.append(ProcessDeadLetters(send.id, lease.batch_no))
        return Step(orders, None if settled.done else retry_in)

    def _close_journal(self) -> None:
        try:
            self._d._journal.close(self._lease)
        except redis.RedisError as exc:
            # It expires by itself, and the row no longer names its token.
            log.warning("journal_not_closed", extra={**_ids(self._lease), "error": type(exc).__name__})

    def _stop(self, verdict: Verdict) -> None:
        """The provider refuses the message itself: end the send with one clear reason, for everybody would get the same."""
        detail = f": {verdict.detail}" if verdict.detail else ""
        error = f"{self._lease.platform} refuses the message ({verdict.status} {verdict.reason}{detail})"
        with self._d._database.begin() as connection:
            if sends.stop(connection, self._send.id, state="failed", error=error):
                log.error("send_stopped", extra={"send_id": str(self._send.id), "error": error})

    def _hold(self, error: str, attempt: Attempt | None = None) -> Step:
        """Nobody can get anything until an operator mends the set-up: pause the send, keep every recipient."""
        with self._d._database.begin() as connection:
            if sends.pause(connection, self._send.id, error):
                log.error("send_held", extra={"send_id": str(self._send.id), "error": error})
        if attempt is None or not any(attempt.outcomes):
            return self._hand_back(error)
        for position in attempt.pending():
            attempt.outcomes[position] = Outcome.PENDING
        pending = attempt.outcomes.count(Outcome.PENDING)
        step = self._write(attempt, self._lease.attempt, POSTPONE_S if pending else None, error)
        return Step(step.orders)

    def _hand_back(self, error: str) -> Step:
        log.warning("batch_handed_back", extra={**_ids(self._lease), "error": error})
        # A batch whose last holder vanished must be known as such until its journal has been read.
        interrupted = self._lease.interrupted and not self._journaled
        batches.hand_back(
            self._d._database, self._lease, delay=POSTPONE_S, interrupted=interrupted, error=error
        )
        # Only now: a row that says running without a journal would mean that anybody may have been reached.
        if self._journaled:
            self._close_journal()
        return Step()


def _ids(lease: Lease) -> dict[str, object]:
    return {"send_id": str(lease.send_id), "batch_no": lease.batch_no, "platform": lease.platform}
