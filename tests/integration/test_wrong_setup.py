"""A wrong topic, environment or project must never cost a token: broadcasts stop, single sends keep theirs."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from pushq.app_settings import AppSettings
from pushq.ledger import brake
from pushq.mock import MockProcess
from pushq.tokens.invalidation import invalidate_from_dead_letters
from tests.integration.ledger_world import APP, Worker, World, open_worker, token

DEVICES = 10_000
#: One that the mock knows the bundle of, but not for such messages: every token is refused by itself.
NOT_FOR_TOPIC = "com.example.shop.voip"
DISALLOWED = "com.example.other"
WRONG = {"status": 400, "reason": "DeviceTokenNotForTopic"}


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"request_timeout": 10.0}


def misled(right: AppSettings, topic: str) -> AppSettings:
    assert right.apns is not None
    return right.model_copy(update={"apns": right.apns.model_copy(update={"topic": topic})})


def with_topic(world: World, redis_url: str, topic: str) -> AbstractContextManager[Worker]:
    return open_worker(world, redis_url, app=misled(world.settings.apps[APP], topic))


def run(worker: Worker, send_id: uuid.UUID) -> None:
    """Run what is queued, while the send is not held."""
    for batch_no in worker.world.queued(send_id):
        worker.run(send_id, batch_no)


def active(world: World) -> int:
    count: int = world.value("SELECT count(*) FROM device_tokens WHERE is_active")
    return count


def bury(world: World) -> None:
    """Do to the tokens what the dead letters of all sends say."""
    for letter in world.rows("SELECT DISTINCT send_id, batch_no FROM dead_letters"):
        invalidate_from_dead_letters(world.database, letter.send_id, letter.batch_no)


def held() -> float | None:
    return REGISTRY.get_sample_value("pushq_mass_invalidation_held", {"app": APP, "platform": "apns"})


def reasons(world: World) -> set[tuple[str, str]]:
    return {
        (row.outcome, row.reason) for row in world.rows("SELECT DISTINCT outcome, reason FROM dead_letters")
    }


def resume(world: World, send_id: uuid.UUID, *, trust_rejections: bool = False) -> None:
    with world.database.begin() as connection:
        assert brake.resume(connection, send_id, trust_rejections=trust_rejections)
    # As the sweeper would publish them, a minute later.
    world.let_time_pass(send_id, 60)
    world.change(
        "UPDATE send_batches SET state = 'queued' WHERE send_id = :id AND state = 'retry'", id=send_id
    )


@pytest.mark.parametrize(
    ("guarantee", "topic", "reason"),
    [
        ("at_least_once", NOT_FOR_TOPIC, "DeviceTokenNotForTopic"),
        ("at_most_once", NOT_FOR_TOPIC, "DeviceTokenNotForTopic"),
        ("at_most_once", DISALLOWED, "TopicDisallowed"),
    ],
)
def test_a_broadcast_under_a_wrong_topic_stops_and_goes_on_when_it_is_mended(
    world: World, mock: MockProcess, redis_url: str, guarantee: Any, topic: str, reason: str
) -> None:
    world.add_devices("apns", DEVICES)
    send_id = world.send(guarantee=guarantee)
    with with_topic(world, redis_url, topic) as worker:
        run(worker, send_id)
        # What is held ends with the worker.
        assert held() == (1 if topic == NOT_FOR_TOPIC else 0)
    stopped = world.progress(send_id)
    assert stopped.state == "paused"
    assert stopped.error is not None
    assert reason in stopped.error
    assert "apps.shop.apns.topic" in stopped.error
    assert "pushq resume" in stopped.error
    assert world.totals(send_id) == {"devices": DEVICES, "pending": DEVICES}
    assert mock.stats()["platforms"]["apns"]["requests"] < DEVICES / 2
    bury(world)
    assert active(world) == DEVICES
    resume(world, send_id)
    with open_worker(world, redis_url) as worker:
        run(worker, send_id)
        assert held() == 0
    assert world.totals(send_id) == {"devices": DEVICES, "accepted": DEVICES}
    assert set(mock.accepted("apns").values()) == {1}


def test_a_resume_without_mending_stops_it_again(world: World, mock: MockProcess, redis_url: str) -> None:
    world.add_devices("apns", 100)
    send_id = world.send()
    with with_topic(world, redis_url, NOT_FOR_TOPIC) as worker:
        run(worker, send_id)
        resume(world, send_id)
        run(worker, send_id)
    assert world.progress(send_id).state == "paused"
    assert world.totals(send_id) == {"devices": 100, "pending": 100}
    bury(world)
    assert active(world) == 100


def test_an_operator_may_say_that_the_tokens_are_wrong(
    world: World, mock: MockProcess, redis_url: str
) -> None:
    world.add_devices("apns", 100)
    mock.set_faults([{"platform": "apns", "answer": WRONG}])
    send_id, other = world.send(), world.send()
    with open_worker(world, redis_url) as worker:
        run(worker, send_id)
        assert world.progress(send_id).state == "paused"
        resume(world, send_id, trust_rejections=True)
        run(worker, send_id)
        assert world.totals(send_id) == {"devices": 100, "dead": 100}
        assert world.progress(send_id).state == "done"
        run(worker, other)
        assert world.progress(other).state == "paused"  # it was said of one send
    bury(world)
    assert active(world) == 0


@pytest.mark.parametrize("worked_before", [False, True])
def test_single_sends_under_a_wrong_topic_cost_no_token(
    world: World, mock: MockProcess, redis_url: str, worked_before: bool
) -> None:
    """The small-batch hole: each send is a batch of one, of which no share can be taken."""
    world.add_devices("apns", 24)
    everybody = [world.send(kind="transactional", audience={"user_ids": [user]}) for user in range(1, 25)]
    if worked_before:
        with open_worker(world, redis_url) as worker:
            for _ in range(3):
                run(worker, world.send(kind="transactional", audience={"user_ids": [1]}))
    with with_topic(world, redis_url, NOT_FOR_TOPIC) as worker:
        for send_id in everybody:
            run(worker, send_id)
            assert world.totals(send_id) == {"devices": 1, "rejected": 1}
        assert held() == 1
    assert reasons(world) == {("rejected", "guarded_unproven_DeviceTokenNotForTopic")}
    bury(world)
    assert active(world) == 24


def test_single_dead_tokens_are_believed_where_others_are_accepted(
    world: World, mock: MockProcess, redis_url: str
) -> None:
    world.add_devices("apns", 10)
    mock.set_faults([{"platform": "apns", "token": token("apns", user), "answer": WRONG} for user in (4, 5)])
    with open_worker(world, redis_url) as worker:
        for user in range(1, 11):
            run(worker, world.send(kind="transactional", audience={"user_ids": [user]}))
    assert reasons(world) == {("dead", "DeviceTokenNotForTopic")}
    bury(world)
    assert active(world) == 8


def test_a_set_up_that_stops_working_costs_fewer_tokens_than_a_share_would_say(
    world: World, mock: MockProcess, redis_url: str
) -> None:
    """Nothing of ours changed, and yesterday a million were accepted: twenty in a row are enough all the same."""
    world.add_devices("apns", 200)
    with open_worker(world, redis_url) as worker:
        run(worker, world.send())
        mock.set_faults([{"platform": "apns", "answer": WRONG}])
        for user in range(1, 25):
            run(worker, world.send(kind="transactional", audience={"user_ids": [user]}))
    bury(world)
    assert active(world) == 200 - 19


def test_the_last_small_batches_of_a_held_broadcast_stay_pending(
    world: World, mock: MockProcess, redis_url: str
) -> None:
    """Those that were in flight in other workers when it was held, each too few for a share of its own."""
    world.add_devices("apns", 100)
    first, second = (
        world.send(audience={"user_ids": list(range(1, 91))}),
        world.send(audience={"user_ids": list(range(91, 101))}),
    )
    with with_topic(world, redis_url, NOT_FOR_TOPIC) as worker:
        run(worker, first)
        run(worker, second)
    assert world.totals(second) == {"devices": 10, "pending": 10}
    assert world.progress(second).state == "paused"


def test_a_burst_of_bad_luck_does_not_hold_a_send(world: World, mock: MockProcess, redis_url: str) -> None:
    """The first twenty tokens of a batch are dead, the other 2,480 are not."""
    world.add_devices("apns", 2500)
    mock.set_faults(
        [{"platform": "apns", "token": token("apns", user), "answer": WRONG} for user in range(1, 26)]
    )
    send_id = world.send(audience={"user_ids": list(range(1, 2501))})
    with open_worker(world, redis_url) as worker:
        for _ in range(5):
            run(worker, send_id)
            world.let_time_pass(send_id, 60)
            world.change(
                "UPDATE send_batches SET state = 'queued' WHERE send_id = :id AND state = 'retry'", id=send_id
            )
    assert world.totals(send_id) == {"devices": 2500, "accepted": 2475, "dead": 25}
    assert set(mock.accepted("apns").values()) == {1}


def test_the_guard_of_fcm(world: World, mock: MockProcess, redis_url: str) -> None:
    world.add_devices("fcm", 500)
    mock.set_faults([{"platform": "fcm", "answer": {"status": 403, "reason": "SENDER_ID_MISMATCH"}}])
    send_id = world.send()
    with open_worker(world, redis_url) as worker:
        run(worker, send_id)
    stopped = world.progress(send_id)
    assert stopped.state == "paused"
    assert stopped.error is not None
    assert "apps.shop.fcm.project_id" in stopped.error
    bury(world)
    assert active(world) == 500
