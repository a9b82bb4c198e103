"""Small batches of several transactional sends delivered in one go: the same outcomes as one by one, whatever happens to some of them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from pushq.delivery.gate import Grant, OpenGate
from pushq.errors import PushqError
from pushq.http2 import Burst
from pushq.ledger import brake, prompt, sweeper
from pushq.ledger.orders import DeliverBatch, ProcessDeadLetters
from pushq.mock import MockProcess
from tests.integration.ledger_world import APP, DEAD_PREFIX, Worker, World, open_worker, token

UNAVAILABLE = {"status": 503, "reason": "ServiceUnavailable"}
Key = tuple[uuid.UUID, int]


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {
        "batch_size": 4,
        "plan_page": 100,
        "request_timeout": 1.0,
        "retry_max_attempts": 3,
        "release_window": 2,
    }


def keys(world: World, users: range, **call: Any) -> list[Key]:
    """A send to each of these users."""
    return [key for user in users for key in world.taken_in([user], **call)]


def accepted(mock: MockProcess, platform: str = "apns") -> dict[str, int]:
    return dict(mock.accepted(platform))


def outcomes(world: World, which: list[Key]) -> list[str]:
    """State of the send, and what is not zero of its totals."""
    return [f"{world.progress(key[0]).state} {world.totals(key[0])}" for key in which]


DONE = "done {'devices': 1, 'accepted': 1}"


@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
def test_everybody_once_and_every_send_is_done(
    world: World, worker: Worker, mock: MockProcess, guarantee: Any
) -> None:
    world.add_devices("apns", 12)
    which = keys(world, range(1, 13), guarantee=guarantee)
    steps = worker.run_together(*which)
    assert set(steps) == set(which)
    assert all(step.orders == [] and step.retry_in is None for step in steps.values())
    assert outcomes(world, which) == [DONE] * 12
    assert accepted(mock) == {token("apns", user): 1 for user in range(1, 13)}
    assert worker.redis.keys("pushq:journal:*") == []
    assert (
        world.value("SELECT count(*) FROM send_batches WHERE lease_token IS NOT NULL OR due_at IS NOT NULL")
        == 0
    )
    assert world.value("SELECT min(attempt) FROM send_batches") == 1


def test_the_last_of_two_platforms_ends_the_send(world: World, worker: Worker, mock: MockProcess) -> None:
    world.add_devices("apns", 1)
    world.add_devices("fcm", 1)
    first, second = world.taken_in([1])
    worker.run_together(first)
    assert world.progress(first[0]).state == "sending"
    worker.run_together(second)
    assert world.progress(first[0]).state == "done"
    assert (accepted(mock), accepted(mock, "fcm")) == ({token("apns", 1): 1}, {token("fcm", 1): 1})


def test_a_repetition_sends_nothing(world: World, worker: Worker, mock: MockProcess) -> None:
    world.add_devices("apns", 3)
    which = keys(world, range(1, 4))
    worker.run_together(*which, *which)
    worker.run_together(*which)
    assert accepted(mock) == {token("apns", user): 1 for user in range(1, 4)}


def test_each_gets_the_message_of_its_own_send(world: World, worker: Worker, mock: MockProcess) -> None:
    world.add_devices("apns", 3)
    which = [
        *world.taken_in([1], notification={"title": "One"}),
        *world.taken_in([2], notification={"title": "Hi {name|you}"}, values={2: {"name": "Ben"}}),
        *world.taken_in([3], notification={"title": "Hi {name|you}"}),
    ]
    worker.run_together(*which)
    said = {request["path"].rpartition("/")[2]: request["body"] for request in mock.requests("apns")}
    assert [
        f'"{text}"' in said[token("apns", user)] for user, text in ((1, "One"), (2, "Hi Ben"), (3, "Hi you"))
    ] == [True] * 3


def test_who_can_get_no_message_is_refused_alone(world: World, worker: Worker, mock: MockProcess) -> None:
    world.add_devices("apns", 2)
    which = [
        *world.taken_in([1], notification={"title": "Hi {name}"}),
        *world.taken_in([2], notification={"title": "Hi {name}"}, values={2: {"name": "Ben"}}),
    ]
    steps = worker.run_together(*which)
    assert outcomes(world, which) == ["done {'devices': 1, 'rejected': 1}", DONE]
    assert steps[which[0]].orders == [ProcessDeadLetters(*which[0])]
    assert accepted(mock) == {token("apns", 2): 1}


def test_a_dead_token_among_living_ones(world: World, worker: Worker, mock: MockProcess) -> None:
    world.add_devices("apns", 4)
    world.add_devices("apns", 1, first=5, prefix=DEAD_PREFIX)
    which = keys(world, range(1, 6))
    steps = worker.run_together(*which)
    assert outcomes(world, which) == [DONE] * 4 + ["done {'devices': 1, 'dead': 1}"]
    assert steps[which[4]].orders == [ProcessDeadLetters(*which[4])]
    assert [step.orders for step in steps.values()][:4] == [[]] * 4


def test_a_device_that_went_away_meanwhile_is_suppressed(
    world: World, worker: Worker, mock: MockProcess
) -> None:
    world.add_devices("apns", 2)
    which = keys(world, range(1, 3))
    world.change("DELETE FROM device_tokens WHERE user_id = 2")
    worker.run_together(*which)
    assert outcomes(world, which) == [DONE, "done {'devices': 1, 'suppressed': 1}"]
    assert accepted(mock) == {token("apns", 1): 1}


def test_what_the_provider_could_not_take_comes_again(
    world: World, worker: Worker, mock: MockProcess
) -> None:
    world.add_devices("apns", 3)
    which = keys(world, range(1, 4))
    mock.set_faults([{"platform": "apns", "token": token("apns", 2), "answer": UNAVAILABLE, "times": 1}])
    steps = worker.run_together(*which)
    assert [steps[key].retry_in is None for key in which] == [True, False, True]
    assert outcomes(world, which)[1] == "sending {'devices': 1, 'pending': 1}"
    world.let_time_pass(which[1][0])
    worker.run(*which[1])
    assert outcomes(world, which) == [DONE] * 3
    assert accepted(mock) == {token("apns", user): 1 for user in range(1, 4)}


def test_more_batches_than_the_window_are_released_as_these_end(
    world: World, worker: Worker, mock: MockProcess
) -> None:
    world.add_devices("apns", 14)
    which = world.taken_in(list(range(1, 15)))
    assert len(which) == 2
    waiting = which
    while waiting:
        steps = worker.run_together(*waiting)
        waiting = [
            (order.send_id, order.batch_no)
            for step in steps.values()
            for order in step.orders
            if isinstance(order, DeliverBatch)
        ]
    assert world.progress(which[0][0]).state == "done"
    assert accepted(mock) == {token("apns", user): 1 for user in range(1, 15)}


@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
def test_what_a_vanished_worker_held_is_left_to_a_run_of_its_own(
    world: World, worker: Worker, mock: MockProcess, guarantee: Any
) -> None:
    """It had claimed and nobody knows what it sent: unknown under at_most_once, sent again under at_least_once."""
    world.add_devices("apns", 2)
    which = keys(world, range(1, 3), guarantee=guarantee)
    lease = world.acquire(*which[0])
    worker.journal.begin([lease], [b"\x01"])
    world.let_leases_end(which[0][0])
    worker.run_together(*which)
    expected = DONE if guarantee == "at_least_once" else "done {'devices': 1, 'unknown': 1}"
    assert outcomes(world, which) == [expected, DONE]


def test_a_journal_that_should_not_be_there_is_left_to_a_run_of_its_own(
    world: World, worker: Worker, mock: MockProcess
) -> None:
    world.add_devices("apns", 2)
    which = keys(world, range(1, 3))
    worker.redis.set(f"pushq:journal:{which[0][0]}:{which[0][1]}", b"x" * 80)
    steps = worker.run_together(*which)
    assert steps[which[0]].orders == [DeliverBatch(*which[0], "apns", transactional=True)]
    assert outcomes(world, which) == ["sending {'devices': 1, 'pending': 1}", DONE]
    assert accepted(mock) == {token("apns", 2): 1}
    worker.redis.delete(f"pushq:journal:{which[0][0]}:{which[0][1]}")
    worker.run(*which[0])
    assert outcomes(world, which) == [DONE] * 2


class Dry(OpenGate):
    """Has so many permits, all in all."""

    def __init__(self, permits: int, *, probe: bool = False) -> None:
        self.permits, self.probe = permits, probe
        self.probed: list[bool] = []

    def ask(self, app: str, platform: str, *, want: int, **_: Any) -> Grant:
        granted, self.permits = min(want, self.permits), max(self.permits - want, 0)
        return Grant(granted, 0.0 if granted else 60.0, probe=self.probe and granted > 0)

    def report(
        self, app: str, platform: str, *, answered: int, failed: int, probe: bool | None = None
    ) -> None:
        if probe is not None:
            self.probed.append(probe)


def test_without_permits_for_all_the_others_come_again(
    world: World, redis_url: str, mock: MockProcess
) -> None:
    world.add_devices("apns", 4)
    which = keys(world, range(1, 5))
    with open_worker(world, redis_url, gate=Dry(3)) as worker:
        steps = worker.run_together(*which)
    assert outcomes(world, which) == [DONE] * 3 + ["sending {'devices': 1, 'pending': 1}"]
    assert steps[which[3]].orders == [DeliverBatch(*which[3], "apns", transactional=True)]
    assert world.queued(which[3][0]) == [which[3][1]]


def test_a_probe_is_one_request_and_its_answer_is_told(
    world: World, redis_url: str, mock: MockProcess
) -> None:
    world.add_devices("apns", 3)
    which = keys(world, range(1, 4))
    gate = Dry(1, probe=True)
    with open_worker(world, redis_url, gate=gate) as worker:
        worker.run_together(*which)
    assert gate.probed == [True]
    assert accepted(mock) == {token("apns", 1): 1}


def test_a_send_with_a_rate_of_its_own_is_left_to_a_run_of_its_own(
    world: World, worker: Worker, mock: MockProcess
) -> None:
    world.add_devices("apns", 1)
    (key,) = world.taken_in([1], rate=5)
    assert worker.run_together(key)[key].orders == [DeliverBatch(*key, "apns", transactional=True)]
    worker.run(*key)
    assert outcomes(world, [key]) == [DONE]


def test_a_paused_send_waits_and_a_cancelled_one_is_over(
    world: World, worker: Worker, mock: MockProcess
) -> None:
    world.add_devices("apns", 3)
    which = keys(world, range(1, 4))
    with world.database.begin() as connection:
        brake.pause(connection, which[0][0])
        brake.stop(connection, which[1][0], state="cancelled", error=None)
    worker.run_together(*which)
    assert outcomes(world, which) == [
        "paused {'devices': 1, 'pending': 1}",
        "cancelled {'devices': 1, 'cancelled': 1}",
        DONE,
    ]
    assert accepted(mock) == {token("apns", 3): 1}


def test_without_redis_nothing_that_must_be_claimed_is_sent(world: World, mock: MockProcess) -> None:
    world.add_devices("apns", 2)
    which = keys(world, range(1, 3), guarantee="at_most_once")
    with open_worker(world, "redis://127.0.0.1:1/0") as worker:
        steps = worker.run_together(*which)
    assert [steps[key].orders for key in which] == [
        [DeliverBatch(*key, "apns", transactional=True)] for key in which
    ]
    assert accepted(mock) == {}


def test_a_database_that_goes_away_before_the_settlement_leaves_the_outcomes_in_the_journal(
    world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_devices("apns", 2)
    which = keys(world, range(1, 3))

    def gone(*_: Any) -> None:
        raise PushqError("PostgreSQL is gone")

    with monkeypatch.context() as patched:
        patched.setattr(prompt, "settle", gone)
        with pytest.raises(PushqError, match="gone"):
            worker.run_together(*which)
    for send_id, _ in which:
        world.let_leases_end(send_id)
    sweeper.sweep(world.database, world.settings, lambda orders: len(list(orders)))
    for key in which:
        worker.run(*key)
    assert outcomes(world, which) == [DONE] * 2
    assert accepted(mock) == {token("apns", 1): 1, token("apns", 2): 1}, "nobody got it twice"


def test_a_lease_that_was_lost_meanwhile_writes_nothing(
    world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_devices("apns", 2)
    which = keys(world, range(1, 3))
    mock.set_latency(300)

    pool = worker.clients[APP, "apns"].pool("production")
    submit = pool.submit

    def stolen(burst: Burst, timeout: float) -> None:
        world.change(
            "UPDATE send_batches SET lease_token = gen_random_uuid() WHERE send_id = :id", id=which[0][0]
        )
        submit(burst, timeout)

    monkeypatch.setattr(pool, "submit", stolen)
    steps = worker.run_together(*which)
    assert steps[which[0]].orders == []
    assert outcomes(world, which) == ["sending {'devices': 1, 'pending': 1}", DONE]
