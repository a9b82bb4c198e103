"""The script that the fleet shares, on a real Redis, at times that the test says."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from pushq.embedded.redis import RedisServer
from pushq.limits.bucket import Bucket, Limit, limit
from pushq.limits.fleet import Breaker, FleetLimits, Ramp, Reply

AT_ONCE = Ramp(1.0, 0.0)


@dataclass
class Fleet:
    """The shared limits and a clock that the test turns."""

    limits: FleetLimits
    now: float = 1_000_000.0
    limit: Limit | None = None
    ramp: Ramp = AT_ONCE
    send: tuple[uuid.UUID, Limit] | None = field(default=None)

    def ask(self, want: int = 1, *, transactional: bool = False, name: str = "fcm:one") -> Reply:
        return self.limits.ask(
            name, want, limit=self.limit, ramp=self.ramp, transactional=transactional, send=self.send
        )

    def report(self, answered: int, failed: int, *, probed: bool = False, random: float = 0.0) -> Breaker:
        return self.limits.report(
            "fcm:one",
            answered=answered,
            failed=failed,
            probed=probed,
            share=0.5,
            minimum=50,
            ramp=self.ramp,
            random=random,
        ).breaker

    def hold(self, seconds: float) -> float:
        return self.limits.hold("fcm:one", seconds, self.ramp).wait_s

    def drawn(self, seconds: float, want: int = 10**6, step: float = 0.05) -> int:
        """Permits that somebody gets who asks every ``step`` for so long."""
        total = 0
        for _ in range(round(seconds / step)):
            self.now += step
            total += self.ask(want).permits
        return total


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    with redis_server.client() as client:
        made: list[Fleet] = []
        made.append(Fleet(FleetLimits(client, clock=lambda: made[0].now)))
        yield made[0]


class TestBucket:
    @pytest.mark.parametrize("per_minute", [60, 120, 60_000, 600_000])
    def test_it_does_what_the_model_does(self, fleet: Fleet, per_minute: int) -> None:
        chance = random.Random(per_minute)
        fleet.limit = limit(per_minute, 0.1)
        model = Bucket(fleet.limit, fleet.now)
        fleet.ask(10**9, transactional=True)  # makes the bucket, which begins empty
        some = 0
        for _ in range(300):
            fleet.now += chance.choice([0.0, 0.001, 0.03, 0.2, 1.7])
            want = chance.choice([1, 7, 500, 10**9])
            transactional = chance.random() < 0.3
            reply = fleet.ask(want, transactional=transactional)
            permits, wait = model.take(fleet.now, want, transactional=transactional)
            assert reply.permits == permits
            assert reply.wait_s == pytest.approx(wait, abs=2e-6)
            assert reply.reason == ("" if permits else "rate")
            some += permits
        assert some > 0

    def test_without_a_limit_everybody_gets_what_he_wants(self, fleet: Fleet) -> None:
        assert [fleet.ask(500).permits for _ in range(20)] == [500] * 20

    def test_limits_do_not_touch_each_other(self, fleet: Fleet) -> None:
        fleet.limit = limit(60_000)
        fleet.ask(name="fcm:one")
        fleet.ask(name="fcm:two")
        fleet.now += 1
        assert fleet.ask(10_000, name="fcm:one").permits == 500
        assert fleet.ask(10_000, name="fcm:two").permits == 500

    def test_a_send_with_its_own_rate_draws_on_both(self, fleet: Fleet) -> None:
        fleet.limit = limit(60_000)
        fleet.send = uuid.uuid4(), limit(6_000)
        fleet.ask()
        fleet.now += 10
        assert fleet.ask(10_000).permits == 50
        after = fleet.ask(10_000)
        assert (after.permits, after.reason) == (0, "send_rate")
        assert after.wait_s == pytest.approx(5 / 98.5, rel=1e-3)
        fleet.send = None
        assert fleet.ask(10_000).permits == 450  # what the send did not get is there for the others

    def test_a_send_cannot_exceed_the_limit_of_its_app(self, fleet: Fleet) -> None:
        fleet.limit = limit(6_000)
        fleet.send = uuid.uuid4(), limit(60_000)
        fleet.drawn(1.0)
        assert fleet.drawn(10.0) == pytest.approx(985, abs=60)
        assert fleet.ask(10_000).reason == "rate"

    def test_a_changed_rate_counts_at_once(self, fleet: Fleet) -> None:
        send_id = uuid.uuid4()
        fleet.send = send_id, limit(60_000)
        fleet.drawn(2.0)
        assert fleet.drawn(2.0) == pytest.approx(1970, abs=60)
        fleet.send = send_id, limit(6_000)
        assert fleet.drawn(2.0) == pytest.approx(197, abs=60)


class TestRamp:
    def test_it_grows_to_the_full_rate_while_it_is_used(self, fleet: Fleet) -> None:
        fleet.limit, fleet.ramp = limit(60_000), Ramp(0.1, 60.0)
        fleet.ask()
        seconds = [fleet.drawn(1.0) for _ in range(70)]
        assert seconds[1] == pytest.approx(98.5, abs=60)  # in crumbs of 50
        assert seconds[30] == pytest.approx(985 * 0.55, abs=60)
        assert max(seconds[:50]) < 0.9 * 985
        assert sum(seconds[63:68]) == pytest.approx(5 * 985, rel=0.03)
        assert all(later >= earlier - 60 for earlier, later in itertools.pairwise(seconds))

    def test_a_trickle_does_not_lift_it(self, fleet: Fleet) -> None:
        fleet.limit, fleet.ramp = limit(60_000), Ramp(0.1, 60.0)
        fleet.ask()
        for _ in range(120):
            fleet.drawn(1.0, want=1)
        assert fleet.drawn(1.0) < 200

    def test_it_decays_while_nobody_sends(self, fleet: Fleet) -> None:
        fleet.limit, fleet.ramp = limit(60_000), Ramp(0.1, 60.0)
        fleet.ask()
        for _ in range(65):
            fleet.drawn(1.0)
        fleet.now += 30
        assert fleet.drawn(1.0) == pytest.approx(985 * 0.55 + 260, abs=150)  # and what the bucket held
        fleet.now += 120
        fleet.drawn(1.0)
        assert fleet.drawn(1.0) == pytest.approx(98.5, abs=60)


class TestHold:
    def test_nobody_gets_anything_until_it_is_over(self, fleet: Fleet) -> None:
        assert fleet.ask().permits == 1
        assert fleet.hold(5.0) == 5.0
        told = fleet.ask()
        assert (told.permits, told.reason, told.wait_s) == (0, "retry_after", 5.0)
        fleet.now += 4.999
        assert fleet.ask(transactional=True).permits == 0
        fleet.now += 0.002
        assert fleet.ask().permits == 1

    def test_the_longest_wins(self, fleet: Fleet) -> None:
        fleet.hold(60.0)
        fleet.now += 1
        assert fleet.hold(5.0) == 59.0
        assert fleet.hold(90.0) == 90.0

    def test_afterwards_the_rate_is_halved_and_grows_again(self, fleet: Fleet) -> None:
        fleet.limit, fleet.ramp = limit(60_000), Ramp(0.1, 60.0)
        fleet.ask()
        for _ in range(65):
            fleet.drawn(1.0)
        for _ in range(10):  # every worker of the fleet was told the same
            fleet.hold(60.0)
        fleet.now += 60
        after = [fleet.drawn(1.0) for _ in range(40)]
        assert after[1] == pytest.approx(985 / 2, abs=60)
        assert after[39] == pytest.approx(985, abs=60)

    def test_nothing_accrues_in_the_pause(self, fleet: Fleet) -> None:
        fleet.limit = limit(60_000)
        fleet.drawn(1.0)
        fleet.hold(10.0)
        fleet.now += 10.0
        assert fleet.ask(10_000).permits == 0


class TestBreaker:
    def open(self, fleet: Fleet) -> None:
        assert fleet.report(25, 25) is Breaker.OPEN

    def test_too_few_requests_say_nothing(self, fleet: Fleet) -> None:
        assert fleet.report(0, 49) is Breaker.CLOSED
        assert fleet.ask(500).permits == 500

    def test_the_storm_does_not_open_it(self, fleet: Fleet) -> None:
        """30 % answers of 503, 10 % without an answer; those with 429 are answers."""
        for _ in range(1000):
            fleet.now += 0.05
            assert fleet.report(600, 400) is Breaker.CLOSED

    def test_old_failures_are_forgotten(self, fleet: Fleet) -> None:
        fleet.report(0, 49)
        fleet.now += 20
        assert fleet.report(0, 49) is Breaker.CLOSED
        fleet.now += 10
        assert fleet.report(0, 1) is Breaker.OPEN

    def test_open_lets_nobody_through_and_then_one_probe(self, fleet: Fleet) -> None:
        self.open(fleet)
        told = fleet.ask(500, transactional=True)
        assert (told.permits, told.reason, told.breaker) == (0, "breaker_open", Breaker.OPEN)
        assert told.wait_s == pytest.approx(3.75)
        fleet.now += 3.76
        probe = fleet.ask(500)
        assert (probe.permits, probe.probe, probe.breaker) == (1, True, Breaker.HALF_OPEN)
        others = [fleet.ask(500) for _ in range(10)]
        assert {(other.permits, other.reason, other.probe) for other in others} == {
            (0, "breaker_open", False)
        }
        assert others[0].wait_s == 1.0

    def test_a_probe_that_works_closes_it(self, fleet: Fleet) -> None:
        fleet.limit, fleet.ramp = limit(60_000), Ramp(0.1, 60.0)
        fleet.ask()
        for _ in range(65):
            fleet.drawn(1.0)
        self.open(fleet)
        fleet.now += 5
        assert fleet.ask(500).probe
        assert fleet.report(1, 0, probed=True) is Breaker.CLOSED
        fleet.drawn(1.0)
        assert fleet.drawn(1.0) == pytest.approx(98.5, abs=60)  # the provider has just recovered
        assert fleet.report(0, 49) is Breaker.CLOSED  # what failed before is forgotten

    def test_a_probe_that_fails_opens_it_for_twice_as_long(self, fleet: Fleet) -> None:
        self.open(fleet)
        waits = []
        for _ in range(7):
            fleet.now += 121
            assert fleet.ask().probe
            assert fleet.report(0, 1, probed=True, random=1.0) is Breaker.OPEN
            waits.append(fleet.ask().wait_s)
        assert waits == [10, 20, 40, 80, 120, 120, 120]

    def test_a_probe_that_is_never_heard_of_is_followed_by_another(self, fleet: Fleet) -> None:
        self.open(fleet)
        fleet.now += 5
        assert fleet.ask().probe
        fleet.now += 29
        assert fleet.ask().permits == 0
        fleet.now += 1.1
        assert fleet.ask().probe

    def test_what_others_sent_before_decides_nothing(self, fleet: Fleet) -> None:
        self.open(fleet)
        assert fleet.report(500, 0) is Breaker.OPEN
        assert fleet.report(500, 0, probed=True) is Breaker.OPEN  # nobody can have sent a probe yet
        fleet.now += 5
        assert fleet.ask().probe
        assert fleet.report(500, 0) is Breaker.HALF_OPEN

    def test_the_jitter_shortens_the_pause(self, fleet: Fleet) -> None:
        fleet.report(0, 50, random=1.0)
        assert fleet.ask().wait_s == 5.0


class TestServer:
    def test_it_runs_on_the_clock_of_redis(self, redis_server: RedisServer) -> None:
        with redis_server.client() as client:
            limits = FleetLimits(client)
            held = limits.hold("fcm:one", 100.0, AT_ONCE)
            told = limits.ask("fcm:one", 1, limit=None, ramp=AT_ONCE, transactional=False)
            assert 0 < told.wait_s <= held.wait_s == 100.0

    def test_what_nobody_uses_goes_away(self, redis_server: RedisServer) -> None:
        with redis_server.client() as client:
            limits = FleetLimits(client)
            send = uuid.uuid4(), limit(600)
            limits.ask("fcm:one", 1, limit=limit(600), ramp=AT_ONCE, transactional=False, send=send)
            keys = client.keys("pushq:limit:*")
            assert len(keys) == 2
            assert all(0 < client.ttl(key) <= 3600 for key in keys)
