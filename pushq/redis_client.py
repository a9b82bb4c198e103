"""The one way to open a connection pool to Redis: every call has a timeout, and a pool that is empty makes callers wait, not fail."""

from __future__ import annotations

from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pushq.settings import ServiceUrl

CONNECT_TIMEOUT_S: Final = 3.0
#: A bulk command takes milliseconds; what takes this long is stuck.
COMMAND_TIMEOUT_S: Final = 5.0
POOL_TIMEOUT_S: Final = 10.0


def open_redis(
    url: ServiceUrl,
    *,
    max_connections: int = 64,
    connect_timeout: float = CONNECT_TIMEOUT_S,
    command_timeout: float = COMMAND_TIMEOUT_S,
) -> redis.Redis:
    """A client of its own pool; answers are bytes. No connection is made before the first command.

    Safe for many threads or greenlets. Close it with ``client.close()``.

    Args:
        url: where Redis is (``PUSHQ_REDIS_URL``).
        max_connections: connections at most; the next caller waits for one, up to 10 s or twice the command's time.
        connect_timeout, command_timeout: seconds.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url.reveal(),
        max_connections=max_connections,
        timeout=min(POOL_TIMEOUT_S, 2 * command_timeout),
        socket_connect_timeout=connect_timeout,
        socket_timeout=command_timeout,
        socket_keepalive=True,
        health_check_interval=30,
        # Once, for a pooled connection that died while idle. The library's default would wait for seconds, several times.
        retry=Retry(NoBackoff(), 1),
    )
    return redis.Redis.from_pool(pool)
