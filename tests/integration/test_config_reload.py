"""Credentials and apps that change while a broadcast runs: nothing is lost, nothing is doubled, and nobody restarts anything."""

from __future__ import annotations

import tomllib
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import orjson
import pytest

from pushq.embedded.postgres import PostgresServer
from pushq.ledger import brake, sweeper
from pushq.ledger.orders import DeliverBatch
from pushq.mock import MockProcess
from pushq.settings import load
from pushq.tasks.runtime import Runtime
from tests.integration.counted import value
from tests.integration.ledger_world import APP, World, open_world, token
from tests.integration.pool_world import until

BATCH = 30
BATCHES = 6
EVERYBODY = BATCH * BATCHES
PLATFORMS = ("apns", "fcm", "hms")


@pytest.fixture
def mock(running: MockProcess) -> Iterator[MockProcess]:
    running.reset()
    running.set_latency(20)
    yield running
    running.set_latency(0)


class Config:
    """A ``pushq.toml`` of the test's own, whose changes appear at once, as a rename makes them."""

    def __init__(self, path: Path, mock: MockProcess) -> None:
        self.path = path
        self.apps: dict[str, Any] = tomllib.loads(mock.config_file.read_text())["apps"]
        # A fresh key each, so that a test that revokes its keys takes none from the next one.
        for platform in PLATFORMS:
            self.use(platform, mock.add_key(platform))
        self.write()

    def use(self, platform: str, key: Mapping[str, str]) -> None:
        """Sign with this key from the next ``write`` on."""
        table = self.apps[APP][platform]
        table |= {name: key[name] for name in table.keys() & key.keys()}
        table["_key"] = key["key_id"]

    def key(self, platform: str) -> str:
        found: str = self.apps[APP][platform]["_key"]
        return found

    def write(self, text: str | None = None) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(self.text() if text is None else text)
        draft.replace(self.path)

    def text(self) -> str:
        return "".join(
            f"[apps.{app}.{platform}]\n"
            + "".join(
                f"{name} = {orjson.dumps(value).decode()}\n"
                for name, value in table.items()
                if not name.startswith("_")
            )
            for app, platforms in self.apps.items()
            for platform, table in platforms.items()
        )


@pytest.fixture
def config(tmp_path: Path, mock: MockProcess) -> Config:
    return Config(tmp_path / "pushq.toml", mock)


@contextmanager
def open_runtime(config: Config, database: str, redis_url: str) -> Iterator[Runtime]:
    """A worker's own runtime for both platforms. It looks at its files when a test or a refused credential says so."""
    settings = load(
        {
            "PUSHQ_CONFIG": str(config.path),
            "PUSHQ_DATABASE_URL": database,
            "PUSHQ_REDIS_URL": redis_url,
            "PUSHQ_BROKER_URL": "redis://localhost:1/0",  # nothing is published here
            "PUSHQ_RELOAD_SECONDS": "3600",
            "PUSHQ_BATCH_SIZE": str(BATCH),
        }
    )
    runtime = Runtime(settings, PLATFORMS)
    runtime.start()
    try:
        yield runtime
    finally:
        runtime.close(1.0)
        gevent.sleep(0)


@pytest.fixture
def runtime(config: Config, ledger_url: str, redis_url: str) -> Iterator[Runtime]:
    with open_runtime(config, ledger_url, redis_url) as runtime:
        yield runtime


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, runtime: Runtime) -> Iterator[World]:
    with open_world(
        ledger_url, runtime.settings.apps[APP], batch_size=BATCH, plan_page=100, retry_max_attempts=3
    ) as world:
        world.empty()
        yield world


def everybody(platform: str, count: int = EVERYBODY) -> dict[str, int]:
    return {token(platform, user): 1 for user in range(1, count + 1)}


def work(world: World, runtime: Runtime, send_id: uuid.UUID, rounds: int = 20) -> None:
    """Run what is queued, three batches at a time, and again what came back, until nothing of the send is left."""
    waiting = world.queued(send_id)
    for _ in range(rounds):
        while waiting:
            some, waiting = waiting[:3], waiting[3:]
            gevent.joinall(
                [gevent.spawn(runtime.delivery.run, send_id, number) for number in some], raise_error=True
            )
            waiting = waiting or world.queued(send_id)
        world.let_time_pass(send_id, 60)
        orders = sweeper.sweep(world.database, world.settings)
        waiting = [order.batch_no for order in orders if isinstance(order, DeliverBatch)]
        if not waiting:
            return
    raise AssertionError(f"still open: {world.states(send_id)}, {world.progress(send_id)}")


def some_accepted(mock: MockProcess, platform: str) -> None:
    """Until the broadcast is under way."""
    with gevent.Timeout(30):
        while not mock.accepted(platform):
            gevent.sleep(0.005)


def revoke(mock: MockProcess, platform: str, key_id: str) -> None:
    mock.revoke_key(platform, key_id)
    if platform != "apns":
        # Access tokens outlive the key that brought them.
        mock.expire_credentials({"hms": "hms_oauth"}.get(platform, platform))


def reload_failed() -> float | None:
    return value("pushq_config_reload_failed")


class TestRotation:
    @pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
    @pytest.mark.parametrize("platform", PLATFORMS)
    def test_a_new_key_in_the_middle_of_a_broadcast(
        self, world: World, runtime: Runtime, mock: MockProcess, config: Config, platform: str, guarantee: Any
    ) -> None:
        """The old key is refused as soon as the new one is in the file: who still uses it comes back with the new one."""
        world.add_devices(platform, EVERYBODY)
        send_id = world.send(guarantee=guarantee)
        broadcast = gevent.spawn(work, world, runtime, send_id)
        some_accepted(mock, platform)
        old = config.key(platform)
        config.use(platform, mock.add_key(platform))
        config.write()
        revoke(mock, platform, old)
        broadcast.get(timeout=90)
        assert mock.accepted(platform) == everybody(platform)
        assert world.totals(send_id) == {"devices": EVERYBODY, "accepted": EVERYBODY}
        assert world.progress(send_id).state == "done"
        assert world.rows("SELECT 1 FROM dead_letters") == []

    @pytest.mark.parametrize("platform", PLATFORMS)
    def test_batches_that_run_end_with_the_key_they_began_with(
        self, world: World, runtime: Runtime, mock: MockProcess, config: Config, platform: str
    ) -> None:
        """Both keys are good: nobody is refused, the old client finishes its batches and is closed after the last."""
        world.add_devices(platform, EVERYBODY)
        (before,) = [c for c in runtime.delivery.clients() if c.platform == platform]
        send_id = world.send(guarantee="at_most_once")
        broadcast = gevent.spawn(work, world, runtime, send_id)
        some_accepted(mock, platform)
        config.use(platform, mock.add_key(platform))
        config.write()
        assert runtime.watch is not None
        assert runtime.watch.look()
        broadcast.get(timeout=90)
        assert mock.accepted(platform) == everybody(platform)
        answers = mock.stats()["platforms"][platform]["answers"]
        assert [answer for answer in answers if not answer.startswith("200")] == []
        assert before not in runtime.delivery.clients()
        assert len(runtime.delivery.clients()) == len(PLATFORMS)

    def test_a_key_refused_before_the_new_one_is_there_holds_the_send(
        self, world: World, runtime: Runtime, mock: MockProcess, config: Config
    ) -> None:
        world.add_devices("apns", EVERYBODY)
        send_id = world.send(guarantee="at_most_once")
        mock.revoke_key("apns", config.key("apns"))
        runtime.delivery.run(send_id, world.queued(send_id)[0])
        held = world.progress(send_id)
        assert held.state == "paused"
        assert "InvalidProviderToken" in (held.error or "")
        config.use("apns", mock.add_key("apns"))
        config.write()
        assert runtime.watch is not None
        assert runtime.watch.look()
        with world.database.begin() as connection:
            brake.resume(connection, send_id)
        sweeper.sweep(world.database, world.settings)
        work(world, runtime, send_id)
        assert mock.accepted("apns") == everybody("apns")
        assert world.progress(send_id).state == "done"

    def test_what_has_not_changed_keeps_its_connections(
        self, world: World, runtime: Runtime, mock: MockProcess, config: Config
    ) -> None:
        world.add_devices("apns", BATCH)
        world.add_devices("fcm", BATCH)
        work(world, runtime, world.send())
        before = {client.platform: client for client in runtime.delivery.clients()}
        opened = mock.stats()["platforms"]["apns"]["connections"]["opened"]
        config.use("fcm", mock.add_key("fcm"))
        config.apps[APP]["apns"]["rate_per_minute"] = 100_000
        config.write()
        assert runtime.watch is not None
        assert runtime.watch.look()
        after = {client.platform: client for client in runtime.delivery.clients()}
        assert after["apns"] is before["apns"]
        assert after["fcm"] is not before["fcm"]
        send_id = world.send()
        work(world, runtime, send_id)
        assert world.totals(send_id) == {"devices": 2 * BATCH, "accepted": 2 * BATCH}
        assert mock.stats()["platforms"]["apns"]["connections"]["opened"] == opened


class TestBrokenConfiguration:
    @pytest.mark.parametrize(
        "breaking",
        [
            lambda config: config.write("[apps.shop.apns"),
            lambda config: config.write(config.text().replace("team_id", "teem_id")),
            lambda config: Path(config.apps[APP]["apns"]["key_file"]).write_text("no key"),
        ],
        ids=["no TOML", "misspelt", "no key"],
    )
    def test_the_old_one_goes_on_delivering(
        self,
        world: World,
        runtime: Runtime,
        mock: MockProcess,
        config: Config,
        breaking: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        world.add_devices("apns", BATCH)
        key = Path(config.apps[APP]["apns"]["key_file"])
        good = key.read_text()
        breaking(config)
        assert runtime.watch is not None
        assert not runtime.watch.look()
        assert reload_failed() == 1
        assert [r.levelname for r in caplog.records if r.message == "config_reload_failed"] == ["ERROR"]
        assert "no key" not in caplog.text.replace("no readable key", "")
        send_id = world.send()
        work(world, runtime, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        key.write_text(good)
        config.write()
        runtime.watch.look()
        assert reload_failed() == 0


class TestApps:
    def test_one_that_is_added_is_delivered_without_a_restart(
        self, world: World, runtime: Runtime, mock: MockProcess, config: Config
    ) -> None:
        """The worker hears of it by the send's first batch, if no earlier."""
        world.add_devices("apns", BATCH, app="news")
        config.apps["news"] = config.apps[APP]
        config.write()
        news = World(
            world.database, world.settings.model_copy(update={"apps": {"news": world.settings.apps[APP]}})
        )
        send_id = news.send(app="news")
        work(news, runtime, send_id)
        assert news.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert sorted(runtime.settings.apps) == ["news", APP]

    def test_one_that_is_removed_holds_its_sends_until_it_is_back(
        self, world: World, runtime: Runtime, mock: MockProcess, config: Config
    ) -> None:
        world.add_devices("fcm", EVERYBODY)
        send_id = world.send(guarantee="at_most_once")
        runtime.delivery.run(send_id, world.queued(send_id)[0])
        whole = config.apps[APP]
        config.apps[APP] = {"apns": whole["apns"]}
        config.write()
        assert runtime.watch is not None
        assert runtime.watch.look()
        runtime.delivery.run(send_id, world.queued(send_id)[0])
        held = world.progress(send_id)
        assert (held.state, held.error) == (
            "paused",
            "app 'shop' has no fcm table in the configuration of this worker",
        )
        gone = [
            ("pushq_http2_queued", {"pool": f"fcm/{APP}"}),
            ("pushq_breaker_state", {"app": APP, "platform": "fcm"}),
            (
                "pushq_credential_expiry_timestamp_seconds",
                {"app": APP, "platform": "fcm", "kind": "access_token"},
            ),
        ]
        until(lambda: {value(name, **labels) for name, labels in gone} == {None})
        config.apps[APP] = whole
        config.write()
        assert runtime.watch.look()
        with world.database.begin() as connection:
            brake.resume(connection, send_id)
        sweeper.sweep(world.database, world.settings)
        work(world, runtime, send_id)
        assert mock.accepted("fcm") == everybody("fcm")
        assert all(value(name, **labels) is not None for name, labels in gone)
        assert all(value(name, **labels) is not None for name, labels in gone)
