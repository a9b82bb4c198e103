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
from typing import Any, Final, cast

import orjson
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from pushq.app import app
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


def remember(
    send_id: str,
    task: str,
    submission: Mapping[str, Any],
    times: int = 0,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Keep a published call. Failing is no error of the call: it is in its queue, only not twice."""
    try:
        with _redis() as redis:
            if redis is not None:
                due = time.time() + min(AGAIN_MOST_S, AGAIN_S * 2 ** min(times, _DOUBLINGS))
                call = {"task": task, "submission": submission, "times": times, "headers": headers or {}}
                with redis.pipeline(transaction=True) as both:
                    both.hset(_CALLS, send_id, orjson.dumps(call))
                    both.zadd(_DUE, {send_id: due})
                    both.execute()
    except _FAILURES as exc:
        log.warning("call_not_remembered", extra={"send_id": send_id, "error": type(exc).__name__})


def forget(send_id: str) -> None:
    """The ledger has it, or has refused it. Left there, it would be accepted once more, which changes nothing."""
    try:
        with _redis() as redis:
            if redis is not None:
                _drop(redis, send_id)
    except _FAILURES as exc:
        log.warning("call_not_forgotten", extra={"send_id": send_id, "error": type(exc).__name__})


def publish_again(now: float) -> int:
    """Publish what nobody has accepted in time. Returns how many.

    Args:
        now: UNIX seconds.
    """
    published = 0
    try:
        with _redis() as redis:
            if redis is None:
                return 0
            due = cast(list[bytes], redis.zrangebyscore(_DUE, "-inf", now, start=0, num=LIMIT))
            calls = cast(list[bytes | None], redis.hmget(_CALLS, due) if due else [])
            for key, call in zip(due, calls, strict=True):
                send_id = key.decode()
                if call is None:
                    _drop(redis, send_id)
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
        log.error("call_refused", extra={"send_id": send_id, "error": f"{type(exc).__name__}: {exc}"})
        return Fate.UNREADABLE
    task = app.tasks.get(name)
    if task is None:
        log.error("call_of_another_version", extra={"send_id": send_id, "task": name})
        return Fate.UNKNOWN
    try:
        task.apply_async((submission,), task_id=send_id, remembered=times, headers=headers)
    except InvalidRequest as refusal:
        log.error("call_refused", extra={"send_id": send_id, "error": str(refusal)})
        return Fate.UNREADABLE
    log.warning("call_published_again", extra={"send_id": send_id, "times": times})
    return Fate.PUBLISHED


def _drop(redis: Redis, send_id: str) -> None:
    with redis.pipeline(transaction=True) as both:
        both.hdel(_CALLS, send_id)
        both.zrem(_DUE, send_id)
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
