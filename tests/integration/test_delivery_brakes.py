"""What holds a delivery up or ends it: a gate, a pause, a cancel, a provider's Retry-After, a shutdown, a batch that kills."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gevent
import pytest

from pushq.app_settings import AppSettings
from pushq.delivery import run as delivery_run
from pushq.delivery.gate import Grant
from pushq.http2 import PoolSettings
from pushq.ledger import batches, brake, sweeper
from pushq.ledger.orders import DeliverBatch
from pushq.ledger.outcomes import Outcome
from pushq.mock import MockProcess
from pushq.providers.apns import client as apns_client
from tests.integration.ledger_world import APP, Worker, World, open_worker, token

BATCH = 30
GUARANTEES = ("at_most_once", "at_least_once")
SERVER_ERROR = {"status": 503, "reason": "ServiceUnavailable"}


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"batch_size": BATCH, "plan_page": 100, "request_timeout": 10.0}


@dataclass
class Turnstile:
    """A gate that gives out what the test put into it, and remembers what it was asked and told. Empty, it lets all through."""

    grants: list[Grant] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0
    failed: int = 0
    probes: list[bool] = field(default_factory=list)
    pauses: list[tuple[str, str, float]] = field(default_factory=list)
    then: Callable[[], None] | None = None

    def ask(self, app: str, platform: str, **call: Any) -> Grant:
        self.asked.append({"app": app, "platform": platform, **call})
        if self.then is not None and not self.grants:
            self.then()
        grant = self.grants.pop(0) if self.grants else Grant(call["want"])
        return replace(grant, permits=min(grant.permits, call["want"]))

    def report(
        self, app: str, platform: str, *, answered: int, failed: int, probe: bool | None = None
    ) -> None:
        self.answered += answered
        self.failed += failed
        if probe is not None:
            self.probes.append(probe)

    def hold_off(self, app: str, platform: str, seconds: float) -> None:
        self.pauses.append((app, platform, seconds))


@pytest.fixture
def gate() -> Turnstile:
    return Turnstile()


@pytest.fixture
def worker(world: World, redis_url: str, gate: Turnstile) -> Iterator[Worker]:
    with open_worker(world, redis_url, gate=gate) as worker:
        yield worker


def send_to(world: World, count: int = BATCH, platform: str = "apns", **call: Any) -> tuple[uuid.UUID, int]:
    world.add_devices(platform, count)
    send_id = world.send(audience={"user_ids": list(range(1, count + 1))}, **call)
    (batch_no,) = world.queued(send_id)
    return send_id, batch_no


def send_to_one(world: World, user_id: int) -> tuple[uuid.UUID, int]:
    world.add_devices("apns", 1, first=user_id)
    send_id = world.send(audience={"user_ids": [user_id]})
    return send_id, world.queued(send_id)[0]


def every(platform: str, count: int = BATCH) -> dict[str, int]:
    return {token(platform, user): 1 for user in range(1, count + 1)}


def row(world: World, send_id: uuid.UUID, batch_no: int) -> Any:
    return world.rows(
        "SELECT *, due_at <= now() AS due FROM send_batches WHERE send_id = :id AND batch_no = :no",
        id=send_id,
        no=batch_no,
    )[0]


def change(world: World, step: Callable[..., object], send_id: uuid.UUID, **options: Any) -> None:
    with world.database.begin() as connection:
        assert step(connection, send_id, **options)


class TestGate:
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_no_more_is_sent_than_is_granted(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess, guarantee: Any
    ) -> None:
        waiting = Grant(0, 0.05, "rate")
        gate.grants = [Grant(10), waiting, Grant(1), waiting, Grant(7)]
        found: list[int] = []
        gate.then = lambda: found.append(mock.stats()["platforms"]["apns"]["requests"])
        send_id, batch_no = send_to(world, guarantee=guarantee)
        assert worker.run(send_id, batch_no).retry_in is None
        assert [asked["want"] for asked in gate.asked] == [30, 20, 20, 19, 19, 12]
        assert len(found) == 1
        assert found[0] <= 18
        assert mock.accepted("apns") == every("apns")
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}

    def test_what_it_is_asked(self, world: World, worker: Worker, gate: Turnstile) -> None:
        send_id, batch_no = send_to(world, kind="transactional", guarantee="at_least_once")
        world.change("UPDATE sends SET rate = 25 WHERE id = :id", id=send_id)
        worker.run(send_id, batch_no)
        assert gate.asked == [
            {
                "app": APP,
                "platform": "apns",
                "transactional": True,
                "send_id": send_id,
                "rate": 25,
                "want": BATCH,
            }
        ]

    def test_a_new_rate_reaches_a_running_batch(self, world: World, worker: Worker, gate: Turnstile) -> None:
        gate.grants = [Grant(5), *[Grant(0, 0.2, "rate")] * 8]
        send_id, batch_no = send_to(world)
        change_rate = gevent.spawn_later(
            0.1, world.change, "UPDATE sends SET rate = 7 WHERE id = :id", id=send_id
        )
        worker.run(send_id, batch_no)
        change_rate.get(timeout=5)
        assert (gate.asked[0]["rate"], gate.asked[-1]["rate"]) == (None, 7)

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_long_wait_is_left_to_the_ledger(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess, guarantee: Any
    ) -> None:
        gate.grants = [Grant(10), Grant(0, 45.0, "breaker_open")]
        send_id, batch_no = send_to(world, guarantee=guarantee)
        assert worker.run(send_id, batch_no).retry_in == 45.0
        found = row(world, send_id, batch_no)
        assert (found.state, found.error) == ("retry", "apns: not sent (breaker_open); will be tried again")
        assert bytes(found.attempts) == bytes([1] * 10 + [0] * 20)
        world.let_time_pass(send_id, 50)
        worker.run(send_id, batch_no)
        assert mock.accepted("apns") == every("apns")

    def test_a_send_s_own_rate_does_not_occupy_the_worker(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess
    ) -> None:
        gate.grants = [Grant(3), *[Grant(0, 0.3, "send_rate")] * 20]
        send_id, batch_no = send_to(world)
        assert worker.run(send_id, batch_no).retry_in == 3.75  # of 5 s half is jitter
        assert len(gate.asked) == 7  # once for the three, and then for 1.5 s
        assert len(mock.accepted("apns")) == 3

    def test_what_the_breaker_hears(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess
    ) -> None:
        """5xx and lost answers are failures; a refusal is an answer like any other."""
        mock.set_faults(
            [
                {"platform": "apns", "token": token("apns", 1), "answer": SERVER_ERROR},
                {
                    "platform": "apns",
                    "token": token("apns", 2),
                    "answer": {"status": 400, "reason": "BadDeviceToken"},
                },
                {
                    "platform": "apns",
                    "token": token("apns", 3),
                    "answer": {"status": 429, "reason": "TooManyRequests"},
                },
                {"platform": "apns", "token": token("apns", 4), "rst": "CANCEL"},
            ]
        )
        worker.run(*send_to(world))
        assert (gate.answered, gate.failed) == (BATCH - 2, 2)
        assert gate.pauses == []  # APNs' 429 is about one device

    @pytest.mark.parametrize(
        ("fault", "works"),
        [
            ({}, True),
            ({"answer": {"status": 400, "reason": "BadDeviceToken"}}, True),
            ({"answer": SERVER_ERROR}, False),
            ({"rst": "CANCEL"}, False),
        ],
    )
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_what_becomes_of_a_probe(
        self,
        world: World,
        worker: Worker,
        gate: Turnstile,
        mock: MockProcess,
        fault: dict[str, Any],
        works: bool,
        guarantee: Any,
    ) -> None:
        """The other requests of its batch say nothing about it."""
        gate.grants = [Grant(5), Grant(1, probe=True), Grant(0, 0.3, "breaker_open")]
        mock.set_faults(
            [{"platform": "apns", "token": token("apns", user), "answer": SERVER_ERROR} for user in (2, 8)]
            + ([{"platform": "apns", "token": token("apns", 6), **fault}] if fault else [])
        )
        worker.run(*send_to(world, guarantee=guarantee))
        assert gate.probes == [works]

    def test_no_connection_is_a_failure(
        self,
        world: World,
        redis_url: str,
        app: AppSettings,
        gate: Turnstile,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert app.apns is not None

        def impatient(**options: Any) -> PoolSettings:
            return PoolSettings(**options | {"queue_timeout_s": 0.5})

        monkeypatch.setattr(apns_client, "PoolSettings", impatient)
        nowhere = app.model_copy(update={"apns": app.apns.model_copy(update={"url": "https://localhost:9"})})
        with open_worker(world, redis_url, app=nowhere, gate=gate) as cut_off:
            gate.grants = [Grant(1, probe=True)]
            cut_off.run(*send_to(world))
        assert (gate.answered, gate.failed, gate.probes) == (0, BATCH, [False])

    def test_a_project_s_quota_pauses_everybody(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess
    ) -> None:
        answer = {"status": 429, "reason": "QUOTA_EXCEEDED", "retry_after": 17}
        mock.set_faults(
            [
                {"platform": "fcm", "token": token("fcm", user), "times": 1, "answer": answer}
                for user in (2, 3)
            ]
        )
        assert worker.run(*send_to(world, platform="fcm")).retry_in == 17.0
        assert set(gate.pauses) == {(APP, "fcm", 17.0)}

    @pytest.mark.parametrize("shape", [None, "m"])
    def test_one_device_s_quota_pauses_nobody_else(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess, shape: str | None
    ) -> None:
        """Where FCM says that it is the device's, and where it says nothing but took the message for all others."""
        answer = {"status": 429, "reason": "QUOTA_EXCEEDED"} | ({"shape": shape} if shape else {})
        mock.set_faults([{"platform": "fcm", "token": token("fcm", 2), "times": 1, "answer": answer}])
        step = worker.run(*send_to(world, platform="fcm"))
        assert step.retry_in is not None
        assert gate.pauses == []


class TestRetryAfter:
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_everybody_waits_for_themselves(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any
    ) -> None:
        """The second comes at once, the third after its two minutes, although their batch runs in between."""
        mock.set_faults(
            [
                {"platform": "apns", "token": token("apns", 2), "times": 1, "answer": SERVER_ERROR},
                {
                    "platform": "apns",
                    "token": token("apns", 3),
                    "times": 1,
                    "answer": SERVER_ERROR | {"retry_after": 120},
                },
            ]
        )
        send_id, batch_no = send_to(world, guarantee=guarantee)
        assert worker.run(send_id, batch_no).retry_in == 1.0
        world.let_time_pass(send_id, 2)
        later = worker.run(send_id, batch_no).retry_in
        assert later == pytest.approx(118, abs=5)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH - 1, "pending": 1}
        assert token("apns", 3) not in mock.accepted("apns")
        assert bytes(row(world, send_id, batch_no).attempts) == bytes([1, 2] + [1] * 28)
        world.let_time_pass(send_id, 60)
        assert worker.run(send_id, batch_no).retry_in is None  # too early: dropped
        assert world.states(send_id) == {"retry": 1}
        world.let_time_pass(send_id, 60)
        worker.run(send_id, batch_no)
        assert mock.accepted("apns") == every("apns")
        assert bytes(row(world, send_id, batch_no).attempts) == bytes([1, 2, 2] + [1] * 27)

    def test_a_message_that_comes_a_little_early_waits_for_the_time(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        send_id, batch_no = send_to(world)
        lease = world.acquire(send_id, batch_no)
        batches.settle(
            world.database, lease, bytes(BATCH), attempts=bytes(BATCH), window=4, retry_in=0.9, waits=None
        )
        due = world.value("SELECT extract(epoch FROM retry_at) FROM send_batches")
        mock.set_faults([])
        worker.run(send_id, batch_no)
        assert time.time() >= due
        assert mock.accepted("apns") == every("apns")


class TestOperator:
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_pause_stops_a_running_batch(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess, guarantee: Any
    ) -> None:
        """What is in flight is settled, what is not sent goes back unharmed, and resuming sends it."""
        mock.set_latency(300)
        gate.grants = [Grant(10), *[Grant(0, 0.5, "rate")] * 20]
        send_id, batch_no = send_to(world, guarantee=guarantee)
        operator = gevent.spawn_later(0.1, change, world, brake.pause, send_id)
        step = worker.run(send_id, batch_no)
        operator.get(timeout=5)
        assert (step.orders, step.retry_in) == ([], None)
        assert gate.grants  # it did not wait for its turn
        assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "pending": 20}
        found = row(world, send_id, batch_no)
        assert (found.state, found.due, found.error) == ("queued", True, None)
        assert bytes(found.attempts) == bytes([1] * 10 + [0] * 20)
        assert worker.run(send_id, batch_no).orders == []
        gate.grants.clear()
        change(world, brake.resume, send_id)
        assert DeliverBatch(send_id, batch_no, "apns", transactional=False) in sweeper.sweep(
            world.database, world.settings
        )
        worker.run(send_id, batch_no)
        assert mock.accepted("apns") == every("apns")
        assert world.progress(send_id).state == "done"

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_cancel_leaves_nothing_open(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess, guarantee: Any
    ) -> None:
        mock.set_latency(300)
        gate.grants = [Grant(10), *[Grant(0, 0.5, "rate")] * 20]
        send_id, batch_no = send_to(world, guarantee=guarantee)
        operator = gevent.spawn_later(0.1, change, world, brake.stop, send_id, state="cancelled", error=None)
        worker.run(send_id, batch_no)
        operator.get(timeout=5)
        assert gate.grants
        assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "cancelled": 20}
        assert world.states(send_id) == {"done": 1}
        assert len(mock.accepted("apns")) == 10

    def test_a_send_without_batches_here_is_not_looked_at(self, world: World, worker: Worker) -> None:
        """The watch sleeps while nothing runs, and wakes up again."""
        for _ in range(2):
            send_id, batch_no = (
                send_to(world) if not world.value("SELECT count(*) FROM sends") else more(world)
            )
            worker.run(send_id, batch_no)
            assert worker.delivery._watch._sends == {}


def more(world: World) -> tuple[uuid.UUID, int]:
    send_id = world.send(audience={"user_ids": [1]})
    return send_id, world.queued(send_id)[0]


class TestCredential:
    def test_a_young_token_that_is_called_expired_costs_nobody_an_attempt(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        """A clock that is wrong: Apple's rules forbid a new token, so there is nothing but to wait. Nobody is given up."""
        worker.run(*send_to_one(world, 1000))
        mock.expire_credentials("apns")
        time.sleep(1.1)  # tokens tell their age in whole seconds
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        waits = []
        for _ in range(5):
            waits.append(worker.run(send_id, batch_no).retry_in)
            world.let_time_pass(send_id, 60)
        assert waits == [0.75, 1.5, 3.0, 6.0, 12.0]
        found = row(world, send_id, batch_no)
        assert found.attempts is None
        assert found.error == "apns: the credential was refused as expired; will be tried again"
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
        assert world.value("SELECT count(*) FROM dead_letters") == 0


class TestShutdown:
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_what_is_not_sent_goes_back_and_what_is_not_answered_is_judged_by_the_guarantee(
        self, world: World, worker: Worker, gate: Turnstile, mock: MockProcess, guarantee: Any
    ) -> None:
        """Ten answered, five stalled, fifteen that had no permission yet."""
        mock.set_faults(
            [
                {"platform": "apns", "token": token("apns", user), "stall": True, "processed": True}
                for user in range(11, 16)
            ]
        )
        gate.grants = [Grant(15), *[Grant(0, 0.2, "rate")] * 50]
        send_id, batch_no = send_to(world, guarantee=guarantee)

        def end_when_all_are_out() -> None:
            for _ in range(200):
                if len(mock.accepted("apns")) == 15:
                    break
                gevent.sleep(0.05)
            worker.delivery.drain.begin(4.0)

        signal = gevent.spawn(end_when_all_are_out)
        assert worker.run(send_id, batch_no).retry_in is None
        signal.get(timeout=5)
        found = row(world, send_id, batch_no)
        assert (found.state, found.due, found.crashes) == ("queued", True, 0)
        letters = [(d.outcome, d.reason, d.attempt) for d in world.rows("SELECT * FROM dead_letters")]
        if guarantee == "at_most_once":
            assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "unknown": 5, "pending": 15}
            assert letters == [("unknown", "no_answer_shutdown", 1)] * 5
        else:
            assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "pending": 20}
            assert letters == []
            assert bytes(found.attempts) == bytes([1] * 10 + [0] * 20)

    def test_a_message_that_comes_too_late_is_left_to_others_at_once(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        send_id, batch_no = send_to(world)
        assert not row(world, send_id, batch_no).due
        worker.delivery.drain.begin(20)
        assert worker.run(send_id, batch_no).orders == []
        found = row(world, send_id, batch_no)
        assert (found.state, found.due, found.runs) == ("queued", True, 0)
        assert mock.accepted("apns") == {}

    def test_a_batch_that_can_be_finished_is(self, world: World, worker: Worker, mock: MockProcess) -> None:
        mock.set_latency(500)
        send_id, batch_no = send_to(world)
        signal = gevent.spawn_later(0.1, worker.delivery.drain.begin, 20.0)
        worker.run(send_id, batch_no)
        signal.get(timeout=5)
        assert mock.accepted("apns") == every("apns")
        assert world.progress(send_id).state == "done"


class TestPoison:
    def vanish(self, world: World, worker: Worker, send_id: uuid.UUID, batch_no: int) -> None:
        """A worker takes the batch up, claims ten, and is no more."""
        lease = world.acquire(send_id, batch_no)
        before = worker.journal.read(send_id, batch_no)
        outcomes = before.outcomes if before else lease.outcomes
        worker.journal.open(lease, outcomes, replaces=before.raw if before else b"")
        worker.journal.write(lease, [(0, bytes([Outcome.CLAIMED]) * 10)])
        world.let_leases_end(send_id)

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_batch_that_kills_its_workers_is_parked(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any
    ) -> None:
        send_id, batch_no = send_to(world, guarantee=guarantee)
        for _ in range(3):
            self.vanish(world, worker, send_id, batch_no)
        worker.run(send_id, batch_no)
        found = row(world, send_id, batch_no)
        assert found.state == "parked"
        assert found.error.startswith("parked: 3 workers in a row did not settle it")
        assert mock.accepted("apns") == {}
        letters = {
            tuple(d) for d in world.rows("SELECT outcome, reason, count(*) FROM dead_letters GROUP BY 1, 2")
        }
        if guarantee == "at_most_once":
            assert world.totals(send_id).items() >= {"unknown": 10, "exhausted": 20}.items()
            assert letters == {("unknown", "no_answer_worker_lost", 10), ("exhausted", "parked", 20)}
        else:
            assert world.totals(send_id).items() >= {"exhausted": BATCH}.items()
            assert letters == {("exhausted", "parked", BATCH)}
        assert world.progress(send_id).state == "done"
        assert worker.run(send_id, batch_no).orders == []

    def test_a_settlement_clears_the_suspicion(self, world: World, worker: Worker, mock: MockProcess) -> None:
        mock.set_faults([{"platform": "apns", "token": token("apns", 2), "answer": SERVER_ERROR}])
        send_id, batch_no = send_to(world, guarantee="at_least_once")
        for _ in range(2):
            self.vanish(world, worker, send_id, batch_no)
        worker.run(send_id, batch_no)
        assert row(world, send_id, batch_no).crashes == 0
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH - 1, "pending": 1}

    def test_handing_back_is_no_crash(self, world: World, worker: Worker) -> None:
        """A holder that could not read the journal lives: the suspicion stays as it was."""
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        self.vanish(world, worker, send_id, batch_no)
        for _ in range(4):
            lease = world.acquire(send_id, batch_no)
            assert (lease.crashes, lease.interrupted) == (1, True)
            assert batches.hand_back(world.database, lease, delay=0, interrupted=True)

    def test_suspects_run_one_at_a_time_and_the_innocent_beside_them(
        self, world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delivery_run, "SUSPECT_WAIT_S", 0.05)
        mock.set_faults([{"platform": "apns", "token": token("apns", 1), "delay_ms": 4000, "times": 1}])
        world.add_devices("apns", 3 * BATCH)
        send_id = world.send(audience={"user_ids": list(range(1, 3 * BATCH + 1))})
        first, second, third = world.queued(send_id)
        for batch_no in (first, second):
            world.acquire(send_id, batch_no)
        world.let_leases_end(send_id)
        running = gevent.spawn(worker.run, send_id, first)
        while not mock.stats()["platforms"]["apns"]["requests"]:
            gevent.sleep(0.02)
        assert worker.run(send_id, second) == delivery_run.Step([], delivery_run.SUSPECT_AGAIN_S)
        assert row(world, send_id, second).crashes == 0  # it was not even taken up
        worker.run(send_id, third)
        assert row(world, send_id, third).state == "done"
        assert row(world, send_id, first).state == "running"
        running.get(timeout=10)
        worker.run(send_id, second)
        assert world.states(send_id) == {"done": 3}
        assert mock.accepted("apns") == every("apns", 3 * BATCH)
