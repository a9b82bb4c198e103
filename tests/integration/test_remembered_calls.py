"""Calls that Redis remembers: one that cannot be read keeps neither the others nor the sweep of the ledger from going on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid

import orjson
import pytest

from pushq.app import TRANSACTIONAL
from pushq.embedded.redis import RedisServer
from pushq.ledger import sweeper
from pushq.tasks import calls, runtime
from pushq.tasks.entry import send_notification
from pushq.tasks.runtime import Runtime

CALLS, DUE = "pushq:calls", "pushq:calls:due"
TIMEOUT_S = 60.0


#: As the sweep of a core worker, in a process of its own: the app has its broker from the environment.
SWEEP = "import time; from pushq.tasks import calls, entry; print(calls.publish_again(time.time()))"


def remembered(**changes: object) -> bytes:
    submission = send_notification.checked(([7], {"title": "Sale", "body": "20% off"}), {"app": "shop"})
    call = {"task": "pushq.send_notification", "submission": submission.as_json(), "times": 0}
    return orjson.dumps({**call, **changes})


def sweep(redis_server: RedisServer) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SWEEP],
        env={**os.environ, "PUSHQ_BROKER_URL": redis_server.url(1)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("waiting", "late_s", "published"),
    [(0, 1, 1), (1, 1, 0), (1, 500, 0), (1, 601, 1)],
    ids=["queue empty", "queue not empty", "later", "ten minutes late"],
)
def test_a_call_that_may_still_be_in_its_queue_is_not_published_twice(
    redis_server: RedisServer, waiting: int, late_s: float, published: int
) -> None:
    """Or workers that fall behind would find more to do with each sweep."""
    send_id = str(uuid.uuid4())
    with redis_server.client(1) as client:
        for _ in range(waiting):
            client.lpush(TRANSACTIONAL, "{}")
        client.hset(CALLS, send_id, remembered())
        client.zadd(DUE, {send_id: time.time() - late_s})
        done = sweep(redis_server)
        assert (done.returncode, done.stdout) == (0, f"{published}\n"), done.stderr
        assert client.llen(TRANSACTIONAL) == waiting + published
        assert client.zcard(DUE) == 1


def test_what_cannot_be_read_keeps_nobody_from_being_published(redis_server: RedisServer) -> None:
    texts = {
        "no_json": b"{",
        "no_call": b"[]",
        "no_submission": b'{"task": "pushq.send_notification", "times": 0}',
        "wrong_times": remembered(times="often"),
        "wrong_submission": remembered(submission={"called_at": "soon"}),
        "other_version": remembered(task="pushq.send_other"),
        # After two weeks of trying: doubling without an end would outgrow a float.
        "sound": remembered(times=2000),
    }
    ids = {name: str(uuid.uuid4()) for name in texts}
    with redis_server.client(1) as client:
        client.hset(CALLS, mapping={ids[name]: text for name, text in texts.items()})
        # The sound one last: it comes up after all others.
        now = time.time()
        client.zadd(DUE, {ids[name]: now - 60 + rank for rank, name in enumerate(texts)})
        done = sweep(redis_server)
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
        assert client.llen(TRANSACTIONAL) == 1
        # Another version may know what it is: that one stays, and is not due for a while.
        kept = {ids["other_version"], ids["sound"]}
        assert {key.decode() for key in client.hkeys(CALLS)} == kept
        assert {key.decode() for key in client.zrangebyscore(DUE, now + 1, now + 660)} == kept
        assert client.zcard(DUE) == len(kept)
    assert done.stderr.split() == ["call_refused"] * 5 + ["call_of_another_version", "call_published_again"]


def test_the_ledger_is_swept_whatever_is_in_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[bool] = []
    monkeypatch.setattr(runtime, "restore_unacknowledged", lambda: None)
    monkeypatch.setattr(calls, "publish_again", lambda now: 1 // 0)
    monkeypatch.setattr(sweeper, "sweep", lambda *_: swept.append(True))
    bare = object.__new__(Runtime)
    bare.database = bare.settings = None  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        bare.sweep()
    assert swept
