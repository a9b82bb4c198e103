"""Calls on their way through Redis, remembered until the ledger has them.

A worker takes a message from Redis and notes it as taken in two steps. Killed in between, it takes the message with it, and of a call
nothing else exists yet. So who calls leaves a copy beside the queues (published first, then remembered: a caller that dies before
that has not been told that its call was accepted), who accepts it takes the copy away, and the sweep publishes again what stays.
RabbitMQ keeps every message until it is acknowledged: nothing to do there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, Final, NamedTuple, cast

import orjson
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from pushq.app import BROADCAST, TRANSACTIONAL, app
from pushq.errors import InvalidRequest, ServiceUnavailable

log = logging.getLogger("pushq.calls")

#: A call that was not accepted for so long is published again; doubles with each time. A busy worker merely finds some twice.
AGAIN_S: Final = 30.0
AGAIN_MOST_S: Final = 600.0
#: More doublings than the longest wait needs; without a bound the number would outgrow a float within days.
_DOUBLINGS: Final = 10
#: Calls that one sweep publishes again at most.
LIMIT: Final = 1000

_CALLS: Final = "pushq:calls"  # send id -> the call as JSON
_DUE: Final = "pushq:calls:due"  # send id, by the UNIX time at which to publish it again

_FAILURES: Final = (OperationalError, OSError, RedisError)


class Remembered(NamedTuple):
    """A published call.

    Attributes:
        times: how often it was published before.
    """

    send_id: str
    task: str
    submission: Mapping[str, Any]
    times: int = 0
    headers: Mapping[str, str] | None = None


def remember(*published: Remembered) -> None:
    """Keep published calls. Failing is no error of the calls: they are in their queue, only not twice."""
    try:
        with _redis() as redis:
            if redis is not None:
                now = time.time()
                with redis.pipeline(transaction=True) as both:
                    for one in published:
                        due = now + min(AGAIN_MOST_S, AGAIN_S * 2 ** min(one.times, _DOUBLINGS))
                        call = one._asdict() | {"headers": one.headers or {}}
                        del call["send_id"]
                        both.hset(_CALLS, one.send_id, orjson.dumps(call))
                        both.zadd(_DUE, {one.send_id: due})
                    both.execute()
    except _FAILURES as exc:
        for one in published:
            log.warning("call_not_remembered", extra={"send_id": one.send_id, "error": type(exc).__name__})


def forget(*send_ids: str) -> None:
    """The ledger has them, or has refused them. Left there, they would be accepted once more, which changes nothing."""
    try:
        with _redis() as redis:
            if redis is not None and send_ids:
                _drop(redis, *send_ids)
    except _FAILURES as exc:
        for send_id in send_ids:
            log.warning("call_not_forgotten", extra={"send_id": send_id, "error": type(exc).__name__})


def publish_again(now: float) -> int:
    """Publish what nobody has accepted in time. Returns how many.

    As long as calls wait in a queue, an old one may be among them: what its workers cannot keep up with must not become twice as much. But
    a queue that is never empty does not keep one from being published that is ten minutes late.

    Args:
        now: UNIX seconds.
    """
    published = 0
    try:
        with _redis() as redis:
            if redis is None:
                return 0
            due = cast(
                list[tuple[bytes, float]],
                redis.zrangebyscore(_DUE, "-inf", now, start=0, num=LIMIT, withscores=True),
            )
            calls = cast(list[bytes | None], redis.hmget(_CALLS, [key for key, _ in due]) if due else [])
            backlog = bool(due) and any(redis.llen(queue) for queue in (BROADCAST, TRANSACTIONAL))
            for (key, since), call in zip(due, calls, strict=True):
                send_id = key.decode()
                if call is None:
                    _drop(redis, send_id)
                    continue
                if backlog and now - since < AGAIN_MOST_S:
                    continue
                match _publish(send_id, call):
                    case Fate.PUBLISHED:
                        published += 1
                    case Fate.UNREADABLE:
                        _drop(redis, send_id)
                    case Fate.UNKNOWN:
                        redis.zadd(_DUE, {send_id: now + AGAIN_MOST_S}, xx=True)
    except (*_FAILURES, ServiceUnavailable) as exc:
        # The sweep of the ledger must go on all the same, and the next one finds the rest.
        log.warning("calls_not_published_again", extra={"error": type(exc).__name__})
    return published


def refuse(send_id: str, error: Exception) -> None:
    """Say that nobody can take this call."""
    said = str(error) if isinstance(error, InvalidRequest) else f"{type(error).__name__}: {error}"
    log.error("call_refused", extra={"send_id": send_id, "error": said})


class Fate(Enum):
    """What became of a remembered call: UNREADABLE, nobody could take it; UNKNOWN, another version of pushq may."""

    PUBLISHED = auto()
    UNREADABLE = auto()
    UNKNOWN = auto()


def _publish(send_id: str, remembered: bytes) -> Fate:
    try:
        call = orjson.loads(remembered)
        name, submission, times = str(call["task"]), call["submission"], int(call["times"]) + 1
        headers = dict(call.get("headers") or {})
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        refuse(send_id, exc)
        return Fate.UNREADABLE
    task = app.tasks.get(name)
    if task is None:
        log.error("call_of_another_version", extra={"send_id": send_id, "task": name})
        return Fate.UNKNOWN
    try:
        task.apply_async((submission,), task_id=send_id, remembered=times, headers=headers)
    except InvalidRequest as refusal:
        refuse(send_id, refusal)
        return Fate.UNREADABLE
    log.warning("call_published_again", extra={"send_id": send_id, "times": times})
    return Fate.PUBLISHED


def _drop(redis: Redis, *send_ids: str) -> None:
    with redis.pipeline(transaction=True) as both:
        both.hdel(_CALLS, *send_ids)
        both.zrem(_DUE, *send_ids)
        both.execute()


@contextmanager
def _redis() -> Iterator[Redis | None]:
    """The broker, if it is Redis."""
    url = app.conf.broker_url or ""
    if not url.startswith(("redis", "sentinel", "unix")):
        yield None
        return
    with app.pool.acquire(block=True) as connection:
        yield connection.default_channel.client
