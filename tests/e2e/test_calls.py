"""A call that a caller was told is accepted reaches the ledger, whatever happens to it on its way."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import redis

from pushq.app import BROADCAST
from pushq.demo.fleet import Fleet
from pushq.embedded.postgres import PostgresServer
from pushq.embedded.redis import RedisServer
from pushq.platforms import PLATFORMS
from tests.e2e.world import SEND_TIMEOUT_S, World, open_world

CALL = """
from pushq import send_broadcast
print(send_broadcast.delay({"title": "Sale"}, {"segments": ["all"]}, app="shop", guarantee="at_least_once").id)
"""


def call(world: World) -> uuid.UUID:
    done = world.python(CALL)
    assert done.returncode == 0, done.stderr
    return uuid.UUID(done.stdout.strip())


def everybody_once(world: World) -> dict[str, dict[str, int]]:
    return {platform: dict.fromkeys(world.alive(platform), 1) for platform in PLATFORMS}


def test_a_call_that_finds_no_postgresql_is_accepted_when_it_is_back(
    database: str, redis_url: str, broker_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    """A task that fails is acknowledged, and until the ledger has the call, its message is all there is of it."""
    with open_world(tmp_path, database_url=database, redis_url=redis_url, broker_url=broker_url) as world:
        world.import_devices(300, 0.0)
        assert world.fleet is not None
        postgres.stop()
        send_id = call(world)
        deadline = time.monotonic() + SEND_TIMEOUT_S
        while "call_not_accepted" not in world.fleet.log_tail("core"):
            assert time.monotonic() < deadline, world.fleet.log_tail("core")
            time.sleep(0.1)
        postgres.start()
        assert world.finished(send_id).total("accepted") == 300
        assert world.provider_counts() == everybody_once(world)


def test_a_call_that_vanished_between_redis_and_the_worker_is_published_again(
    database: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    """As when a worker is killed that has taken a message and not yet noted it as taken."""
    url, broker_url = redis_server.url(0), redis_server.url(1)
    with (
        open_world(
            tmp_path, database_url=database, redis_url=url, broker_url=broker_url, workers=()
        ) as world,
        redis.Redis.from_url(broker_url) as broker,
    ):
        world.import_devices(300, 0.0)
        send_id = call(world)
        assert broker.lpop(BROADCAST) is not None
        assert broker.hkeys("pushq:calls") == [str(send_id).encode()]
        # The time for which a busy worker may let it wait.
        broker.zincrby("pushq:calls:due", -3600, str(send_id))
        with Fleet(world.environment, tmp_path) as world.fleet:
            deadline = time.monotonic() + SEND_TIMEOUT_S
            while world.progress(send_id) is None:
                assert time.monotonic() < deadline, world.fleet.log_tail("core")
                time.sleep(0.1)
            assert world.finished(send_id).total("accepted") == 300
            assert world.provider_counts() == everybody_once(world)
            while broker.exists("pushq:calls", "pushq:calls:due"):
                assert time.monotonic() < deadline, "the call is still remembered"
                time.sleep(0.1)


MANY = """
import uuid
from datetime import UTC, datetime
from pushq.submission import submit
from pushq.tasks.many import send_together

def call(user):
    return uuid.uuid4(), submit("transactional", notification={"title": f"For {user}"}, audience={"user_ids": [user]},
                                guarantee="at_most_once", called_at=datetime.now(UTC), app="shop")

calls = [call(user) for user in USERS]
send_together(calls)
print(*(send_id for send_id, _ in calls))
"""


def test_calls_of_one_message_each_reach_their_user_even_without_postgresql_at_first(
    database: str, redis_url: str, broker_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    with open_world(tmp_path, database_url=database, redis_url=redis_url, broker_url=broker_url) as world:
        devices = world.import_devices(300, 0.0)
        users = sorted({device.user_id for device in devices})[:60]
        assert world.fleet is not None
        postgres.stop()
        done = world.python(MANY.replace("USERS", repr(users)))
        assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + SEND_TIMEOUT_S
        while "calls_not_accepted" not in world.fleet.log_tail("core"):
            assert time.monotonic() < deadline, world.fleet.log_tail("core")
            time.sleep(0.1)
        postgres.start()
        for send_id in map(uuid.UUID, done.stdout.split()):
            assert world.finished(send_id).state == "done"
        wanted = {
            platform: {d.token: 1 for d in devices if d.platform == platform and d.user_id in users}
            for platform in PLATFORMS
        }
        assert world.provider_counts() == wanted
        if broker_url.startswith("redis"):
            with redis.Redis.from_url(broker_url) as broker:
                assert broker.hlen("pushq:calls") == 0


REUSED = """
from datetime import UTC, datetime
from pushq.submission import submit
from pushq.tasks.many import send_together

def call(title):
    one = submit("transactional", notification={"title": title}, audience={"user_ids": [USER]}, guarantee="at_most_once",
                 called_at=datetime.now(UTC), app="shop", idempotency_key="order-1")
    return one.send_id(), one

calls = [call("Paid"), call("Paid"), call("Shipped")]
send_together(calls)
print(calls[0][0])
"""


def test_a_key_that_is_used_for_two_calls_of_one_message_is_the_first_ones_and_is_told(
    database: str, redis_url: str, broker_url: str, tmp_path: Path
) -> None:
    with open_world(tmp_path, database_url=database, redis_url=redis_url, broker_url=broker_url) as world:
        user = world.import_devices(10, 0.0)[0].user_id
        assert world.fleet is not None
        done = world.python(REUSED.replace("USER", str(user)))
        assert done.returncode == 0, done.stderr
        assert world.finished(uuid.UUID(done.stdout.strip())).state == "done"
        deadline = time.monotonic() + SEND_TIMEOUT_S
        while "idempotency_key_reused" not in world.fleet.log_tail("core"):
            assert time.monotonic() < deadline, world.fleet.log_tail("core")
            time.sleep(0.1)
        accepted = [times for counts in world.provider_counts().values() for times in counts.values()]
        assert accepted
        assert set(accepted) == {1}
