"""A ledger to try things on: devices, sends, the steps of their way, and workers that crash on request.

Devices are made by SQL in bulk, users count from ``first``. A device's token tells its user, so that what the mock accepted can be
compared with what was planned.
"""

from __future__ import annotations

import secrets
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import text

from pushq.app_settings import ApnsSettings, AppSettings, FcmSettings
from pushq.database import Database
from pushq.delivery.gate import Gate
from pushq.delivery.leases import LeaseKeeper
from pushq.delivery.run import Delivery, Step
from pushq.embedded.postgres import PostgresServer
from pushq.ledger import batches, planner, sends
from pushq.ledger.batches import Lease
from pushq.ledger.intake import Call, prepare, take_in
from pushq.ledger.journal import Journal
from pushq.ledger.orders import DeliverBatch, Order, PlanShard
from pushq.ledger.progress import Progress, progress
from pushq.ledger.schema import upgrade
from pushq.limits.token_guard import TokenGuard
from pushq.providers.apns.client import ApnsClient
from pushq.providers.client import ProviderClient
from pushq.providers.fcm.client import FcmClient
from pushq.providers.hms.client import HmsClient
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings
from pushq.submission import Guarantee, Kind, Submission, submit
from pushq.tokens.cache import TokenCache
from tests.services.fixtures import Fleet

APP = "shop"
#: The mock answers these tokens with 410 or 404.
DEAD_PREFIX = "deaddeaddead"

_INSERT_DEVICES = text("""
INSERT INTO device_tokens (user_id, app, platform, environment, token, token_hash, language, tags, registered_at)
SELECT u, :app, :platform, 'production', t.token, md5(:app || :platform || t.token)::uuid, :language, cast(:tags AS jsonb),
       now() - make_interval(mins => 1)
  FROM generate_series(cast(:first AS bigint), cast(:last AS bigint)) AS u,
       LATERAL (SELECT CASE :platform WHEN 'apns' THEN :prefix || lpad(to_hex(u), 64 - length(:prefix), '0')
                                      ELSE :prefix || :platform || '-' || lpad(u::text, 40, '0') END AS token) t
""")


def token(platform: str, user_id: int, prefix: str = "") -> str:
    """The token of the device that :meth:`World.add_devices` makes for this user."""
    if platform == "apns":
        return prefix + f"{user_id:x}".rjust(64 - len(prefix), "0")
    return f"{prefix}{platform}-{user_id:040d}"


def bare_app(folder: Path) -> AppSettings:
    """An app that can be planned for; nobody could deliver with it."""
    file = folder / "secret"
    file.write_text("no secret")
    return AppSettings(
        apns=ApnsSettings(team_id="A" * 10, key_id="B" * 10, key_file=file, topic="org.example.shop"),
        fcm=FcmSettings(project_id="pushq-demo", service_account_file=file),
    )


@dataclass
class World:
    """One database and the settings of everybody who works on it."""

    database: Database
    settings: Settings

    def add_devices(
        self,
        platform: str,
        count: int,
        *,
        first: int = 1,
        prefix: str = "",
        app: str = APP,
        language: str | None = None,
        tags: str = "[]",
    ) -> None:
        with self.database.begin() as connection:
            connection.execute(
                _INSERT_DEVICES,
                {
                    "app": app,
                    "platform": platform,
                    "first": first,
                    "last": first + count - 1,
                    "prefix": prefix,
                    "language": language,
                    "tags": tags,
                },
            )

    def submission(
        self,
        *,
        audience: Mapping[str, Any] | None = None,
        guarantee: Guarantee = "at_least_once",
        kind: Kind = "broadcast",
        notification: Mapping[str, Any] | None = None,
        called_at: datetime | None = None,
        **options: Any,
    ) -> Submission:
        return submit(
            kind,
            notification=notification or {"title": "Sale", "body": "20% off"},
            audience=audience or {"segments": ["all"]},
            guarantee=guarantee,
            called_at=called_at or datetime.now(UTC),
            **options,
        )

    def accept(self, **call: Any) -> uuid.UUID:
        """A call as :meth:`submission` takes it, written into the ledger and not yet planned."""
        send_id = uuid.uuid4()
        _, error = sends.accept(self.database, self.settings, send_id, self.submission(**call))
        assert error is None, error
        return send_id

    def call(self, send_id: uuid.UUID, user_ids: Sequence[int], **call: Any) -> Call:
        """A transactional call to these users, as the intake takes it."""
        prepared = prepare(
            self.settings,
            send_id,
            self.submission(audience={"user_ids": user_ids}, kind="transactional", **call),
        )
        assert prepared is not None
        return prepared

    def taken_in(self, user_ids: Sequence[int], **call: Any) -> list[tuple[uuid.UUID, int]]:
        """A transactional call to these users, accepted and released: its batches."""
        calls = [self.call(uuid.uuid4(), user_ids, **call)]
        return [
            (order.send_id, order.batch_no) for order in take_in(self.database, self.settings, calls).orders
        ]

    def plan(self, send_id: uuid.UUID) -> list[Order]:
        """Plan every shard to its end; returns the batches that were released."""
        orders: list[Order] = []
        for (shard_no,) in self.rows(
            "SELECT shard_no FROM send_shards WHERE send_id = :id AND NOT done", id=send_id
        ):
            done = False
            while not done:
                page = planner.plan_page(self.database, self.settings, send_id, shard_no)
                orders += page.orders
                done = page.done
        return orders

    def send(self, **call: Any) -> uuid.UUID:
        """A send that is planned; as much of it as the window lets out is queued."""
        send_id = self.accept(**call)
        self.plan(send_id)
        return send_id

    def empty(self) -> None:
        """As the migrations left it."""
        self.change(
            "TRUNCATE device_tokens, segments, segment_members, sends, send_shards, send_batches, dead_letters"
        )

    def rows(self, statement: str, **params: Any) -> Sequence[Any]:
        with self.database.begin() as connection:
            return connection.execute(text(statement), params).all()

    def value(self, statement: str, **params: Any) -> Any:
        with self.database.begin() as connection:
            return connection.execute(text(statement), params).scalar_one()

    def change(self, statement: str, **params: Any) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement), params)

    def progress(self, send_id: uuid.UUID) -> Progress:
        return progress(self.database, send_id)

    def totals(self, send_id: uuid.UUID) -> dict[str, int]:
        """What is not zero, over all platforms, without the number of batches."""
        totals: Counter[str] = Counter()
        for counts in self.progress(send_id).platforms.values():
            totals.update({name: n for name, n in counts.items() if n and name != "batches"})
        return dict(totals)

    def states(self, send_id: uuid.UUID) -> dict[str, int]:
        """How many batches are in which state."""
        return dict(
            self.rows("SELECT state, count(*) FROM send_batches WHERE send_id = :id GROUP BY 1", id=send_id)
        )

    def planned_devices(self, send_id: uuid.UUID) -> list[int]:
        return [
            device
            for (devices,) in self.rows("SELECT device_ids FROM send_batches WHERE send_id = :id", id=send_id)
            for device in devices
        ]

    def devices_where(self, condition: str) -> list[int]:
        return [row.id for row in self.rows(f"SELECT id FROM device_tokens d WHERE {condition}")]

    def queued(self, send_id: uuid.UUID) -> list[int]:
        return [
            row.batch_no
            for row in self.rows(
                "SELECT batch_no FROM send_batches WHERE send_id = :id AND state = 'queued' ORDER BY 1",
                id=send_id,
            )
        ]

    def acquire(self, send_id: uuid.UUID, batch_no: int) -> Lease:
        lease = batches.acquire(self.database, send_id, batch_no, self.settings.lease_seconds)
        assert lease is not None
        return lease

    def let_leases_end(self, send_id: uuid.UUID) -> None:
        """As if the holders of all running batches had not been heard of for a lease's length."""
        self.change(
            "UPDATE send_batches SET due_at = now() - interval '1 s' WHERE send_id = :id AND state = 'running'",
            id=send_id,
        )

    def let_time_pass(self, send_id: uuid.UUID, seconds: float = 3600.0) -> None:
        """As if everything about the send's batches had happened so many seconds earlier."""
        self.change(
            """
            UPDATE send_batches
            SET due_at = due_at - make_interval(secs => :s), retry_at = retry_at - make_interval(secs => :s),
                settled_at = settled_at - make_interval(secs => :s)
            WHERE send_id = :id
            """,
            id=send_id,
            s=seconds,
        )


def shared_database(fleet: Fleet) -> Iterator[str]:
    """URL of a migrated database for the tests of one module, which empty it: making one takes longer than most of them."""
    server = fleet.ready("postgres")
    assert isinstance(server, PostgresServer)
    name = f"test_{secrets.token_hex(6)}"
    server.create_database(name)
    upgrade(server.url(name))
    yield server.url(name)
    fleet.ready("postgres")
    server.drop_database(name)


@contextmanager
def open_world(url: str, app: AppSettings, **settings: Any) -> Iterator[World]:
    """``settings`` as those of :class:`pushq.settings.Settings`."""
    database = Database(ServiceUrl(url), pool_size=8)
    try:
        yield World(database, Settings(apps={APP: app}, **settings))
    finally:
        database.close()


@dataclass
class Worker:
    """What a worker process holds, in this process. Made anew, it is another worker."""

    world: World
    redis: redis.Redis
    journal: Journal
    delivery: Delivery
    clients: dict[tuple[str, str], ProviderClient]

    def run(self, send_id: uuid.UUID, batch_no: int) -> Step:
        return self.delivery.run(send_id, batch_no)

    def run_together(self, *keys: tuple[uuid.UUID, int]) -> dict[tuple[uuid.UUID, int], Step]:
        return self.delivery.run_together(keys)

    def run_queued(self, send_id: uuid.UUID) -> list[Step]:
        """Run what is queued, and what that releases, until no batch of the send is queued."""
        steps = []
        while queued := self.world.queued(send_id):
            steps += [self.run(send_id, batch_no) for batch_no in queued]
        return steps

    def run_orders(self, orders: Sequence[Order]) -> list[Order]:
        """Work orders off and those they lead to, as the tasks do. Returns those that are left: no deliveries, no plans."""
        waiting = list(orders)
        other: list[Order] = []
        while waiting:
            order = waiting.pop(0)
            match order:
                case DeliverBatch():
                    waiting += self.run(order.send_id, order.batch_no).orders
                case PlanShard():
                    page = planner.plan_page(
                        self.world.database, self.world.settings, order.send_id, order.shard_no
                    )
                    waiting += page.orders if page.done else [*page.orders, order]
                case _:
                    other.append(order)
        return other


@contextmanager
def open_worker(
    world: World,
    redis_url: str,
    *,
    clock_ahead: timedelta = timedelta(0),
    app: AppSettings | None = None,
    jitter: float = 0.5,
    gate: Gate | None = None,
) -> Iterator[Worker]:
    """A worker for the world's app.

    Args:
        clock_ahead: how far its clock is before the true time.
        app: other settings than the world's, as a worker started with another configuration.
        jitter: what its random always is.
        gate: default: everything is allowed.
    """
    client = open_redis(ServiceUrl(redis_url))
    settings = world.settings
    app = app or settings.apps[APP]
    clients: dict[tuple[str, str], ProviderClient] = {}
    if app.apns is not None:
        clients[APP, "apns"] = ApnsClient(APP, app.apns, client, request_timeout_s=settings.request_timeout)
    if app.fcm is not None:
        clients[APP, "fcm"] = FcmClient(APP, app.fcm, client, request_timeout_s=settings.request_timeout)
    if app.hms is not None:
        clients[APP, "hms"] = HmsClient(APP, app.hms, client, request_timeout_s=settings.request_timeout)
    keeper = LeaseKeeper(world.database, settings.lease_seconds)
    journal = Journal(client)
    delivery = Delivery(
        world.database,
        journal,
        TokenCache(client, world.database, timedelta(days=30)),
        clients,
        settings,
        keeper,
        TokenGuard({APP: app}, client),
        gate=gate,
        clock=lambda: datetime.now(UTC) + clock_ahead,
        random=lambda: jitter,
    )
    try:
        yield Worker(world, client, journal, delivery, clients)
    finally:
        for provider in clients.values():
            provider.close(1.0)
        delivery.close()
        keeper.close()
        client.close()
