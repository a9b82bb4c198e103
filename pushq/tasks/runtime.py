"""What a worker process holds: pools, caches and clients, made once, at its first task or at its start."""

from __future__ import annotations

import logging
import math
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import redis

from pushq import metrics, tracing
from pushq.access import cleanup as access_cleanup
from pushq.app_settings import AppSettings
from pushq.database import Database
from pushq.delivery.leases import LeaseKeeper
from pushq.delivery.run import Delivery
from pushq.errors import ServiceUnavailable
from pushq.ledger import cleanup, intake, planner, schema, sends, sweeper
from pushq.ledger.batches import MAX_COUNTDOWN_S
from pushq.ledger.intake import Call
from pushq.ledger.journal import Journal
from pushq.ledger.orders import DeliverBatch, Order, PlanShard, ProcessDeadLetters
from pushq.limits.gate import REDIS_CONNECT_TIMEOUT_S, REDIS_TIMEOUT_S, FleetGate
from pushq.limits.token_guard import TokenGuard
from pushq.platforms import PLATFORMS
from pushq.providers.opening import ClientOpener, OpenClient
from pushq.providers.proxy import proxy_of
from pushq.redis_client import open_redis
from pushq.reload import ConfigState, ConfigWatch, announce
from pushq.settings import Settings, load
from pushq.submission import Submission
from pushq.tasks import calls
from pushq.tasks.burials import Burials
from pushq.tasks.publish import publish, publish_dead_letters, publish_later, publish_together
from pushq.tasks.redelivery import restore_unacknowledged
from pushq.together import Together
from pushq.tokens.cache import TokenCache
from pushq.tokens.invalidation import deactivate_unseen, invalidate_from_dead_letters

log = logging.getLogger("pushq.worker")

#: FCM tells of a dead registration only after 270 days without contact (Firebase, "Best practices for FCM registration token
#: management"), so a device unseen for that long is not worth a request.
UNSEEN_PAGE = 10_000
#: What a worker said about its configuration is forgotten after this, or after three looks at the files.
ANNOUNCED_S: Final = 30.0
#: Transactional calls under load are taken in together, so often at most. A statement, a message and a delivery cost several times what
#: one call more in them does; with fewer of them, the wait of up to 50 ms is less than what waiting for the processor was.
ROUND_EVERY_S: Final = 0.05


class Runtime:
    """The domain, wired for one process. Every method is safe to repeat.

    Args:
        platforms: providers this process delivers to; their connections are opened at once.

    Raises:
        SettingsError: a setting or a secret file is missing or wrong.
        ServiceUnavailable: PostgreSQL cannot be reached.
        SchemaMismatch: the database is not at this version's schema.
    """

    def __init__(self, settings: Settings, platforms: tuple[str, ...] = (), *, greenlets: int = 20) -> None:
        self.settings = settings
        apps = settings.need_apps()
        proxy = proxy_of(settings)
        settings.need_broker()
        self.redis = open_redis(settings.need_redis())
        # One connection for each batch at work, and some for the lease keeper and what runs beside.
        self.database = Database(settings.need_database(), pool_size=greenlets + 4)
        schema.check(self.database)
        self.cache = TokenCache(self.redis, self.database, timedelta(days=settings.token_ttl_days))
        # Apart, with short time-outs: a question about a limit must not hold up what it is about.
        self.limits_redis = open_redis(
            settings.need_redis(),
            max_connections=16,
            connect_timeout=REDIS_CONNECT_TIMEOUT_S,
            command_timeout=REDIS_TIMEOUT_S,
        )
        self.leases = LeaseKeeper(self.database, settings.lease_seconds)
        # Before the clients: what changes while they are made is seen by the first look.
        self.watch = _watch(settings, self)
        self._opener = ClientOpener(
            platforms, self.redis, request_timeout_s=settings.request_timeout, proxy=proxy
        )
        self._opened: dict[tuple[str, str], OpenClient] = self._opener.open(apps, {})
        self._gate = FleetGate(apps, self.limits_redis)
        for platform in platforms:
            metrics.expect_holds(platform)
        if not platforms:
            metrics.expect_sweeps()
            for name, app in apps.items():
                for platform in PLATFORMS:
                    if getattr(app, platform) is not None:
                        metrics.expect_deactivations(name, platform)
        self.delivery = Delivery(
            self.database,
            Journal(self.redis),
            self.cache,
            {key: opened.client for key, opened in self._opened.items()},
            settings,
            self.leases,
            TokenGuard(apps, self.limits_redis),
            gate=self._gate,
            look=self.watch.look if self.watch is not None else lambda: None,
            random=random.random,
        )
        self._take_in = Together[Sequence[Call], list[bool]](
            self._take_in_lots, every_s=ROUND_EVERY_S, size=len
        )
        self._burials = Burials(publish_dead_letters)
        self._kind = " ".join(platforms) or "core"

    def start(self) -> None:
        for opened in self._opened.values():
            opened.client.start()
        if self.watch is not None:
            self.watch.start()

    def reconfigure(self, apps: Mapping[str, AppSettings]) -> None:
        """Use other apps from the next batch on; clients of which nothing has changed go on.

        Raises:
            SettingsError, OSError: a secret cannot be used; nothing has changed then.
        """
        guard = TokenGuard(
            apps, self.limits_redis
        )  # reads secrets, too: first, while nothing has to be undone
        opened = self._opener.open(apps, self._opened)
        for key, each in opened.items():
            if self._opened.get(key) is not each:
                each.client.start()
        # The limits first: nobody may ask for an app that they do not know.
        self._gate.configure(apps)
        self.delivery.replace({key: each.client for key, each in opened.items()}, guard)
        self._opened = opened
        self.settings = self.settings.model_copy(update={"apps": apps})

    def announce(self, state: ConfigState) -> None:
        """Tell `pushq doctor` what this process runs with."""
        worker = f"{socket.gethostname()}:{os.getpid()}"
        life = max(ANNOUNCED_S, 3 * self.settings.reload_seconds)
        try:
            announce(self.limits_redis, worker, self._kind, state, life_s=life)
        except redis.RedisError as exc:
            log.debug("config_not_announced", extra={"error": type(exc).__name__})

    def drain(self) -> None:
        """Take nothing up any more, and let what runs come to its end within the grace period. Returns at once."""
        self.delivery.drain.begin(self.settings.shutdown_grace)
        log.info("draining", extra={"grace_s": self.settings.shutdown_grace})

    def close(self, grace: float = 5.0) -> None:
        if self.watch is not None:
            self.watch.close()
        for client in self.delivery.clients():
            # After a drain nothing is in flight but what has been given up.
            client.close(0.0 if self.delivery.drain.begun else grace)
        self.delivery.close()
        self._burials.close()
        self.leases.close()
        self.database.close()
        self.redis.close()
        self.limits_redis.close()

    def accept(self, send_id: uuid.UUID, submission: Submission) -> None:
        """Take a call into the ledger, and forget what was remembered of it."""
        self.accept_together([(send_id, submission)])

    def accept_together(self, submissions: Sequence[tuple[uuid.UUID, Submission]]) -> None:
        """As :meth:`accept`, for calls that came in one message. Any of them may be in the ledger, or not, after an exception."""
        usual, alone = [], []
        for each in submissions:
            call = self._usual(*each)
            if call is None:
                alone.append(each)
            else:
                usual.append((each, call))
        if usual:
            done = self._written([call for _, call in usual])
            alone += [each for (each, _), written in zip(usual, done, strict=True) if not written]
        for send_id, submission in alone:
            self._accept_alone(send_id, submission)
            calls.forget(str(send_id))

    def _usual(self, send_id: uuid.UUID, submission: Submission) -> Call | None:
        # A trace follows its send from message to message; those of several sends would part there.
        return None if tracing.on() else intake.prepare(self.settings, send_id, submission)

    def _written(self, lot: Sequence[Call]) -> list[bool]:
        try:
            return self._take_in(lot)
        except ServiceUnavailable:
            raise
        except Exception as exc:  # noqa: BLE001 - one of a round must not fail the others: each by itself then
            log.warning("taken_in_alone", extra={"error": type(exc).__name__})
            return [False] * len(lot)

    def _take_in_lots(self, lots: Sequence[Sequence[Call]]) -> list[list[bool]]:
        """Whether each was written; the others are known, or have to be looked at one by one."""
        first: dict[uuid.UUID, Call] = {}
        for lot in lots:
            for call in lot:
                first.setdefault(call.send_id, call)
        taken = intake.take_in(self.database, self.settings, list(first.values()))
        publish_together(taken.orders)
        written = first.keys() - taken.known
        calls.forget(*map(str, written))
        # Whoever used another's key in the same round is told so where it is looked at alone.
        return [
            [call.send_id in written and call.fingerprint == first[call.send_id].fingerprint for call in lot]
            for lot in lots
        ]

    def _accept_alone(self, send_id: uuid.UUID, submission: Submission) -> None:
        orders, _ = sends.accept(self.database, self.settings, send_id, submission)
        if submission.kind == "transactional":
            # A handful of devices: planned here, so that no second message stands between the call and the phone.
            for order in orders:
                if isinstance(order, PlanShard):
                    self.plan(order.send_id, order.shard_no, 1000)
        else:
            publish(orders)

    def plan(self, send_id: uuid.UUID, shard_no: int, pages: int) -> None:
        for _ in range(pages):
            page = planner.plan_page(self.database, self.settings, send_id, shard_no)
            publish(page.orders)
            if page.done:
                return
            if self.delivery.drain.begun:
                break
        publish([PlanShard(send_id, shard_no, page.transactional)])

    def deliver(self, send_id: uuid.UUID, batch_no: int) -> float | None:
        """Returns the countdown for Celery's retry, or None when this message is done with."""
        step = self.delivery.run(send_id, batch_no)
        self._publish(step.orders)
        if step.retry_in is None or step.retry_in > MAX_COUNTDOWN_S:
            return None
        # Native delayed delivery counts whole seconds, and an early message would only be dropped.
        return math.ceil(step.retry_in)

    def deliver_together(self, platform: str, keys: Sequence[tuple[uuid.UUID, int]]) -> None:
        for (send_id, batch_no), step in self.delivery.run_together(keys).items():
            self._publish(step.orders)
            if step.retry_in is not None and step.retry_in <= MAX_COUNTDOWN_S:
                order = DeliverBatch(send_id, batch_no, platform, transactional=True)
                publish_later(order, math.ceil(step.retry_in))

    def trace_of(self, send_id: uuid.UUID) -> dict[str, str]:
        """See :func:`pushq.ledger.sends.trace_of`."""
        with self.database.begin() as connection:
            return sends.trace_of(connection, send_id)

    def _publish(self, orders: Sequence[Order]) -> None:
        """Those for batches at once, those for dead letters together with others."""
        publish(order for order in orders if not isinstance(order, ProcessDeadLetters))
        for order in orders:
            if isinstance(order, ProcessDeadLetters):
                self._burials.add(order)

    def bury(self, send_id: uuid.UUID, batch_nos: Sequence[int]) -> None:
        invalidate_from_dead_letters(self.database, send_id, *batch_nos, cache=self.cache)

    def sweep(self) -> None:
        try:
            restore_unacknowledged()
            calls.publish_again(time.time())
        finally:
            # Whatever was left in the broker: retries and scheduled sends depend on this.
            sweeper.sweep(self.database, self.settings, publish)

    def cleanup(self) -> None:
        started = time.monotonic()
        settings = self.settings
        unseen = deactivate_unseen(self.database, "fcm", settings.unseen_days, UNSEEN_PAGE, cache=self.cache)
        ledger = cleanup.clean(
            self.database,
            today=datetime.now(UTC).date(),
            ledger_days=settings.ledger_days,
            dead_letter_days=settings.dead_letter_days,
        )
        access = access_cleanup.clean(self.database, audit_days=settings.audit_days)
        log.info(
            "cleaned_up",
            extra={
                "unseen": unseen,
                "sends": ledger.sends,
                "partitions_dropped": ledger.partitions_dropped,
                "partitions_created": ledger.partitions_created,
                "sessions": access.sessions,
                "audit_rows": access.audit_rows,
                "seconds": round(time.monotonic() - started, 3),
            },
        )


def _watch(settings: Settings, runtime: Runtime) -> ConfigWatch | None:
    if settings.config is None or settings.reload_seconds == 0:
        return None
    return ConfigWatch(
        settings.config,
        settings.apps,
        runtime.reconfigure,
        interval_s=settings.reload_seconds,
        tell=runtime.announce,
    )


_runtime: Runtime | None = None
_lock = threading.Lock()


def runtime() -> Runtime:
    """The process's runtime; made from the environment when nobody has called :func:`configure`."""
    if _runtime is None:
        configure(load())
    assert _runtime is not None
    return _runtime


def configure(settings: Settings, platforms: tuple[str, ...] = PLATFORMS, *, greenlets: int = 20) -> Runtime:
    """Make the process's runtime, once."""
    global _runtime  # noqa: PLW0603 - Celery gives a task no other place for what its process owns
    with _lock:
        if _runtime is None:
            _runtime = Runtime(settings, platforms, greenlets=greenlets)
            _runtime.start()
        return _runtime


def started() -> Runtime | None:
    """The process's runtime, or None before there is one."""
    return _runtime


def draining() -> bool:
    """Whether the process takes up nothing any more."""
    return _runtime is not None and _runtime.delivery.drain.begun


def drain() -> None:
    """See :meth:`Runtime.drain`; nothing to do before there is one."""
    if _runtime is not None:
        _runtime.drain()


def shutdown(grace: float = 5.0) -> None:
    global _runtime
    with _lock:
        current, _runtime = _runtime, None
    if current is not None:
        current.close(grace)
