"""Running batches: "send everything in it whose outcome is not final".

That sentence makes delivery idempotent: redelivery, retry, resume and replay are all this call.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from pushq.database import Database
from pushq.delivery import events
from pushq.delivery.batch import POSTPONE_S, BatchRun
from pushq.delivery.drain import Drain
from pushq.delivery.gate import Gate, OpenGate
from pushq.delivery.kept import KeptSends
from pushq.delivery.leases import LeaseKeeper
from pushq.delivery.means import Means, Step
from pushq.delivery.present import Present
from pushq.delivery.prompt import Prompt
from pushq.delivery.watch import SendWatch
from pushq.http2.greenlets import Task
from pushq.ledger import batches, due, prompt, sends
from pushq.ledger.batches import Fenced, Lease
from pushq.ledger.journal import Journal
from pushq.ledger.sends import Send
from pushq.limits.token_guard import TokenGuard
from pushq.providers.client import ProviderClient
from pushq.settings import Settings
from pushq.tokens.cache import TokenCache

__all__ = ["Delivery", "Step"]

log = logging.getLogger("pushq.delivery")

#: How long a message waits while a suspect runs here, for it may be about another one; and when it comes again if in vain.
SUSPECT_WAIT_S: Final = 3.0
SUSPECT_AGAIN_S: Final = 2.0
#: What a client that nobody uses any more gets for its last answers. Its batches have ended, so there should be none.
RETIRE_S: Final = 10.0


class Delivery:
    """Delivers the batches of one process.

    Args:
        clients: by app and platform.
        guard: decides about rejections that a wrong set-up of ours causes as well.
        gate: is asked before requests go out; default: everything is allowed.
        look: looks at the configuration now and, if it has changed, calls :meth:`replace` before it returns.
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
        guard: TokenGuard,
        *,
        gate: Gate | None = None,
        look: Callable[[], object] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float],
    ) -> None:
        self.drain = Drain()
        means = Means(
            database,
            journal,
            cache,
            clients,
            settings,
            gate or OpenGate(),
            guard,
            self.drain,
            clock,
            random,
            self._renewed,
        )
        self._present, self._look = Present(means, _retire), look
        self._leases, self._watch = leases, SendWatch(database)
        self._sends = KeptSends()
        self._suspect = threading.Lock()

    @property
    def _means(self) -> Means:
        return self._present.means

    def close(self) -> None:
        self._watch.close()

    def replace(self, clients: Mapping[tuple[str, str], ProviderClient], guard: TokenGuard) -> None:
        """Deliver with these from the next batch on.

        Running batches end with what they began with. A client that is not among the new ones is closed after the last of them.
        """
        self._present.replace(replace(self._means, clients=clients, guard=guard))

    def clients(self) -> list[ProviderClient]:
        """Every client that may still have work, replaced ones with running batches included."""
        return self._present.clients()

    def _renewed(self, key: tuple[str, str], client: ProviderClient) -> bool:
        self._look()
        return self._means.clients.get(key) is not client

    def run(self, send_id: uuid.UUID, batch_no: int) -> Step:
        """Deliver what is open in a batch. Safe to call any number of times, from anywhere.

        A batch whose last holder vanished with it is a suspect: it may be what killed the holder. Only one of them runs in a process
        at a time, so that the innocent ones get through before the guilty one has killed as many processes as make a batch guilty.

        Raises:
            ServiceUnavailable: PostgreSQL is gone; the lease ends by itself and the sweeper issues the batch again.
        """
        if self.drain.begun:
            due.make_due(self._means.database, send_id, batch_no)
            return Step()
        alone = self._suspect.acquire(blocking=False)
        try:
            lease = self._acquire(send_id, batch_no, suspects=alone)
            if lease is None and not alone:
                alone = self._suspect.acquire(timeout=SUSPECT_WAIT_S)
                if not alone:
                    return Step(retry_in=SUSPECT_AGAIN_S)
                lease = self._acquire(send_id, batch_no, suspects=True)
            if lease is None:
                return Step()
            if alone and not lease.crashes:
                self._suspect.release()
                alone = False
            return self._run(lease)
        finally:
            if alone:
                self._suspect.release()

    def run_together(self, keys: Sequence[tuple[uuid.UUID, int]]) -> dict[tuple[uuid.UUID, int], Step]:
        """Deliver what is open in several small batches of transactional sends. Safe to call any number of times, as :meth:`run`.

        Raises:
            ServiceUnavailable: as :meth:`run`.
        """
        steps: dict[tuple[uuid.UUID, int], Step] = {}
        if not self.drain.begun:
            steps = self._run_fresh(keys)
        for key in keys:
            if key not in steps:
                steps[key] = self.run(*key)
        return steps

    def _run_fresh(self, keys: Sequence[tuple[uuid.UUID, int]]) -> dict[tuple[uuid.UUID, int], Step]:
        taken = prompt.take_up(self._means.database, keys, self._means.settings.lease_seconds)
        if any((send.app, lease.platform) not in self._means.clients for lease, send in taken):
            self._look()  # its app may have been added a moment ago
        with ExitStack() as held, self._present.hold() as means:
            watched = [
                (
                    held.enter_context(self._leases.hold(lease)),
                    send,
                    held.enter_context(self._watch.watch(send.id, lease.rate)),
                )
                for lease, send in taken
            ]
            together = Prompt(means, watched)
            try:
                together.deliver()
            except Exception as exc:
                for lease in together.open.values():
                    self._hand_back(lease, exc)
                raise
            return together.steps

    def _acquire(self, send_id: uuid.UUID, batch_no: int, *, suspects: bool) -> Lease | None:
        means = self._means
        return batches.acquire(
            means.database, send_id, batch_no, means.settings.lease_seconds, suspects=suspects
        )

    def _run(self, lease: Lease) -> Step:
        with self._leases.hold(lease), self._watch.watch(lease.send_id, lease.rate) as watched:
            try:
                send = self._send(lease)
            except Exception as exc:
                self._hand_back(lease, exc)
                raise
            if (send.app, lease.platform) not in self._means.clients:
                self._look()  # its app may have been added a moment ago
            try:
                with self._present.hold() as means:
                    return BatchRun(means, lease, send, watched).go()
            except Fenced as exc:
                events.fenced(exc)
                return Step()

    def _hand_back(self, lease: Lease, error: Exception) -> None:
        """Nothing has been sent: without this it would look as if this process had vanished with the batch."""
        with suppress(Exception):
            batches.hand_back(
                self._means.database,
                lease,
                delay=POSTPONE_S,
                interrupted=lease.interrupted,
                error=f"{type(error).__name__}: {error}",
            )

    def _send(self, lease: Lease) -> Send:
        send = self._sends.get(lease.send_id, lease.send_version)
        if send is None:
            with self._means.database.begin() as connection:
                send = sends.load(connection, lease.send_id)
            self._sends.keep(send)
        return send


def _retire(client: ProviderClient) -> None:
    log.info("client_retired", extra={"platform": client.platform})
    Task(lambda: client.close(RETIRE_S))
