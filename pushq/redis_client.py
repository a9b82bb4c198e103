"""The one way to open a connection pool to Redis: every call has a timeout, and a pool that is empty makes callers wait, not fail."""

from __future__ import annotations

from queue import Empty
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pushq.service_urls import ServiceUrl

CONNECT_TIMEOUT_S: Final = 3.0
#: A bulk command takes milliseconds; what takes this long is stuck.
COMMAND_TIMEOUT_S: Final = 5.0
POOL_TIMEOUT_S: Final = 10.0


#: Commands of the hot path whose answers are used as they come. All may be run twice.
_PLAIN: Final = frozenset({"EVALSHA", "MGET"})
_TRIES: Final = 2


class _Pool(redis.BlockingConnectionPool):
    """Hands connections out without asking the kernel about each: one that died while idle shows that when it is used."""

    def take(self) -> Any:
        self._checkpid()
        try:
            connection = self.pool.get(block=True, timeout=self.timeout)
        except Empty:
            raise redis.ConnectionError("No connection available.") from None
        return self.make_connection() if connection is None else connection  # type: ignore[no-untyped-call]

    def put_back(self, connection: Any) -> None:
        if connection.pid != self.pid:  # taken before a fork
            self.release(connection)  # type: ignore[no-untyped-call]
        else:
            self.pool.put_nowait(connection)


class _Client(redis.Redis):
    """Runs a script or an MGET for a third of the library's price, most of which are its own metrics and a poll of the socket.

    What else happens is the same: a command that meets a broken connection is tried once more on a new one.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        pool = self.connection_pool
        if args[0] not in _PLAIN or not isinstance(pool, _Pool):
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        connection = pool.take()
        try:
            connection.connect()
            for left in reversed(range(_TRIES)):
                try:
                    connection.send_command(*args)
                    return connection.read_response()
                except (redis.ConnectionError, redis.TimeoutError):
                    connection.disconnect()
                    if not left:
                        raise
        finally:
            pool.put_back(connection)


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
    pool = _Pool.from_url(
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
    return _Client.from_pool(pool)
