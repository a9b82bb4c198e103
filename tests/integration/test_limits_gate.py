"""A process's gate on a real Redis: lots, pauses, breaker, and what happens without Redis."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pushq.app_settings import ApnsSettings, AppSettings, FcmSettings
from pushq.embedded.redis import RedisServer
from pushq.limits.gate import FleetGate
from pushq.limits.grant import Grant
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.services.faults import crash, pause, resume

APP = "shop"
#: Another app in the same FCM project.
TWIN = "club"
SEND = uuid.uuid4()
OpenGates = Callable[..., FleetGate]


@pytest.fixture
def open_gate(redis_server: RedisServer, tmp_path: Path) -> Iterator[OpenGates]:
    """Makes the gates of any number of processes; by default FCM has a limit and APNs none."""
    secret = tmp_path / "secret"
    secret.write_text("no secret")

    with ExitStack() as stack:

        def make(clock: Callable[[], float] = time.monotonic, **limits: object) -> FleetGate:
            client = stack.enter_context(
                open_redis(ServiceUrl(redis_server.url(0)), connect_timeout=0.3, command_timeout=0.3)
            )
            app = AppSettings(
                apns=ApnsSettings(
                    team_id="A" * 10, key_id="B" * 10, key_file=secret, topic="com.example.shop"
                ),
                fcm=FcmSettings(
                    project_id="pushq-demo",
                    service_account_file=secret,
                    **({"rate_per_minute": 60_000, "ramp_up_s": 0} | limits),  # type: ignore[arg-type]
                ),
            )
            return FleetGate({APP: app, TWIN: app}, client, clock=clock, random=lambda: 0.0)

        yield make


def ask(
    gate: FleetGate,
    want: int = 500,
    *,
    platform: str = "fcm",
    transactional: bool = False,
    rate: int | None = None,
    send_id: uuid.UUID = SEND,
) -> Grant:
    return gate.ask(APP, platform, transactional=transactional, send_id=send_id, rate=rate, want=want)


def drawn(gate: FleetGate, seconds: float, **call: object) -> int:
    """Permits that somebody gets who asks again whenever he is told to."""
    end, total = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        grant = ask(gate, **call)  # type: ignore[arg-type]
        total += grant.permits
        if not grant.permits:
            time.sleep(min(grant.wait_s, 0.05))
    return total


def value(name: str, platform: str = "fcm", **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"app": APP, "platform": platform, **labels}) or 0.0


class TestLots:
    def test_the_rate_is_kept_by_two_gates_together(self, open_gate: OpenGates) -> None:
        one, two = open_gate(), open_gate()
        drawn(one, 0.1)
        before = time.monotonic()
        total = sum(drawn(gate, 0.2) for gate in (one, two, one, two, one))
        seconds = time.monotonic() - before
        assert 0 < total <= 985 * seconds + 500

    def test_without_a_limit_a_lot_lasts_and_asks_redis_once(
        self, open_gate: OpenGates, redis_server: RedisServer
    ) -> None:
        gate = open_gate()
        with redis_server.client() as client:
            asked = calls(client)
            assert [ask(gate, platform="apns").permits for _ in range(100)] == [500] * 100
            assert calls(client) - asked <= 10  # one for each quarter of a second

    def test_a_lone_transactional_send_takes_no_more_than_it_needs(self, open_gate: OpenGates) -> None:
        one, two = open_gate(), open_gate()
        ask(two)
        time.sleep(0.6)  # the bucket is full: 500
        assert ask(one, 1, transactional=True).permits == 1
        assert ask(two, 10_000).permits >= 449

    def test_void_permits_are_not_spent(self, open_gate: OpenGates, redis_server: RedisServer) -> None:
        now = [1000.0]
        gate = open_gate(clock=lambda: now[0])
        assert ask(gate, platform="apns").permits == 500
        with redis_server.client() as client:
            asked = calls(client)
            now[0] += 0.24
            ask(gate, platform="apns")
            assert calls(client) == asked
            now[0] += 0.02
            ask(gate, platform="apns")
            assert calls(client) > asked

    def test_a_changed_rate_of_a_send_counts_at_once(self, open_gate: OpenGates) -> None:
        gate = open_gate()
        drawn(gate, 0.2, platform="apns", rate=2000)
        fast = drawn(gate, 0.5, platform="apns", rate=2000)
        slow = drawn(gate, 0.5, platform="apns", rate=100)
        assert fast > 400
        assert slow <= 110

    def test_a_send_with_a_rate_leaves_the_others_alone(self, open_gate: OpenGates) -> None:
        gate = open_gate()
        waits = ask(gate, platform="apns", rate=1)
        assert (waits.permits, waits.reason) == (0, "send_rate")
        assert ask(gate, platform="apns", send_id=uuid.uuid4()).permits == 500

    @pytest.mark.parametrize(("want", "rate"), [(0, None), (-1, None), (1, 0)])
    def test_nonsense_is_refused(self, open_gate: OpenGates, want: int, rate: int | None) -> None:
        with pytest.raises(ValueError, match="begin at 1"):
            ask(open_gate(), want, rate=rate)


class TestPause:
    def test_one_worker_is_told_and_all_wait(self, open_gate: OpenGates) -> None:
        one, two = open_gate(), open_gate()
        assert ask(one, platform="apns").permits == 500
        one.hold_off(APP, "apns", 30.0)
        told = ask(one, platform="apns")
        assert (told.permits, told.reason) == (0, "retry_after")
        assert 29 < told.wait_s <= 30
        other = ask(two, platform="apns", transactional=True)
        assert (other.permits, other.reason) == (0, "retry_after")
        assert 29 < other.wait_s <= 30
        assert ask(two, platform="fcm").reason in (None, "rate")

    def test_a_lot_of_before_lasts_no_longer_than_a_lot(self, open_gate: OpenGates) -> None:
        one, two = open_gate(), open_gate()
        assert ask(two, platform="apns").permits == 500
        one.hold_off(APP, "apns", 30.0)
        time.sleep(0.26)
        assert ask(two, platform="apns").permits == 0

    def test_hundreds_of_answers_are_one_call(self, open_gate: OpenGates, redis_server: RedisServer) -> None:
        gate = open_gate()
        with redis_server.client() as client:
            gate.hold_off(APP, "apns", 30.0)
            asked = calls(client)
            for _ in range(300):
                gate.hold_off(APP, "apns", 30.0)
            assert calls(client) == asked

    def test_an_absurd_pause_has_a_ceiling(self, open_gate: OpenGates) -> None:
        gate = open_gate()
        gate.hold_off(APP, "apns", 86_400.0)
        assert ask(gate, platform="apns").wait_s <= 600


class TestBreaker:
    def test_it_opens_for_the_fleet_and_one_probe_closes_it(
        self, open_gate: OpenGates, redis_server: RedisServer
    ) -> None:
        ahead = [0.0]
        one, two = (open_gate(clock=lambda: time.monotonic() + ahead[0]) for _ in range(2))
        one.report(APP, "apns", answered=10, failed=90)
        assert [ask(gate, platform="apns").reason for gate in (one, two)] == ["breaker_open"] * 2
        assert value("pushq_breaker_state", "apns") == 2
        with redis_server.client() as client:
            (key,) = client.keys("pushq:limit:apns:*")
            client.hset(key, "until", 0)
        ahead[0] = 10.0
        grants = [ask(gate, platform="apns").permits for gate in (two, one, two, one)]
        assert grants == [1, 0, 0, 0]
        assert value("pushq_breaker_state", "apns") == 1
        two.report(APP, "apns", answered=1, failed=0, probe=True)
        assert ask(two, platform="apns").permits == 500
        assert value("pushq_breaker_state", "apns") == 0

    @pytest.mark.parametrize("succeeds", [True, False])
    def test_only_the_probe_decides(
        self, open_gate: OpenGates, redis_server: RedisServer, succeeds: bool
    ) -> None:
        ahead = [0.0]
        gate = open_gate(clock=lambda: time.monotonic() + ahead[0])
        gate.report(APP, "apns", answered=10, failed=90)
        with redis_server.client() as client:
            (key,) = client.keys("pushq:limit:apns:*")
            client.hset(key, "until", 0)
            ahead[0] = 10.0
            grant = ask(gate, platform="apns")
            assert (grant.permits, grant.probe) == (1, True)
            # Time-outs and late answers of what was sent before it opened.
            gate.report(APP, "apns", answered=0, failed=500)
            gate.report(APP, "apns", answered=7, failed=0)
            assert float(client.hget(key, "open") or 0) == 5
            assert ask(gate, platform="apns").reason == "breaker_open"
            gate.report(APP, "apns", answered=int(succeeds), failed=int(not succeeds) + 300, probe=succeeds)
            assert float(client.hget(key, "open") or 0) == (0 if succeeds else 10)
        assert value("pushq_breaker_state", "apns") == (0 if succeeds else 2)

    def test_what_is_reported_in_small_steps_adds_up(self, open_gate: OpenGates) -> None:
        gate = open_gate()
        for _ in range(30):
            gate.report(APP, "apns", answered=0, failed=2)
        assert ask(gate, platform="apns").reason == "breaker_open"


class TestWithoutRedis:
    def test_each_process_keeps_to_its_share(
        self, open_gate: OpenGates, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = open_gate()
        drawn(gate, 0.2)
        local = value("pushq_rate_limit_local_total")
        crash(redis_server)
        with caplog.at_level(logging.INFO, logger="pushq.limits"):
            drawn(gate, 0.3)
            total = drawn(gate, 1.5)
            assert 60 < total <= 125 * 1.5 + 63
            assert value("pushq_rate_limit_local_total") > local
            gate.report(APP, "fcm", answered=0, failed=10_000)
            gate.hold_off(APP, "apns", 30.0)
            assert ask(gate, platform="apns").reason == "retry_after"
            redis_server.launch()
            redis_server.wait_ready()
            time.sleep(1.1)
            drawn(gate, 0.3)
        messages = [record.message for record in caplog.records]
        assert messages.count("rate_limit_local") == 1
        assert messages.count("rate_limit_shared_again") == 1

    def test_apps_that_share_a_limit_share_the_share(
        self, open_gate: OpenGates, redis_server: RedisServer
    ) -> None:
        now = [1000.0]
        gate = open_gate(clock=lambda: now[0])
        crash(redis_server)

        def both() -> list[int]:
            lanes = {"transactional": True, "send_id": SEND, "rate": None, "want": 500}
            return [gate.ask(app, "fcm", **lanes).permits for app in (APP, TWIN)]  # type: ignore[arg-type]

        assert both() == [0, 0]
        now[0] += 10.0  # the bucket is full: half a second of an eighth of the limit
        assert both() == [62, 0]

    def test_a_redis_that_hangs_costs_its_timeout_once(
        self, open_gate: OpenGates, redis_server: RedisServer
    ) -> None:
        """Asked again each time, it would cost minutes, and the test's own time-out."""
        now = [1000.0]
        gate = open_gate(clock=lambda: now[0])
        pause(redis_server)
        try:
            assert {ask(gate, platform="apns").permits for _ in range(400)} == {500}
        finally:
            resume(redis_server)


def calls(client: object) -> int:
    stats = client.info("commandstats")  # type: ignore[attr-defined]
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))
