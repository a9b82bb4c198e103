"""What a private broker holds, looked at again and again while something is measured."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import httpx
import redis

from pushq.embedded.rabbitmq import RabbitMqServer

LOOK_S: Final = 0.25
REDIS_TIMEOUT_S: Final = 5.0
#: kombu's tables of bindings, no messages.
_BINDINGS: Final = b"_kombu"


class BrokerWatch:
    """Looks at a broker in a thread of its own, for the life of a ``with`` block.

    A broker that does not answer is counted and asked again; any other error ends the watch, and is raised when the block ends.

    Args:
        megabytes: what the broker holds now, see :func:`redis_megabytes` and :func:`rabbitmq_megabytes`.

    Attributes:
        peak_mb: the most that it held, MiB; None when it never answered.
        looks: how often it answered.
        failed: how often it did not, by error.
    """

    def __init__(self, megabytes: Callable[[], float], *, every_s: float = LOOK_S) -> None:
        self.peak_mb: float | None = None
        self.looks = 0
        self.failed: Counter[str] = Counter()
        self._megabytes, self._every_s = megabytes, every_s
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                held = self._megabytes()
            except (redis.RedisError, httpx.HTTPError, OSError) as error:
                self.failed[type(error).__name__] += 1
            except Exception as error:  # noqa: BLE001 - raised where somebody hears of it
                self._error = error
                return
            else:
                self.looks += 1
                self.peak_mb = held if self.peak_mb is None else max(self.peak_mb, held)


def redis_megabytes(url: str) -> float:
    """What the queues and the unacknowledged messages occupy.

    Raises:
        redis.RedisError: no answer within five seconds.
    """
    with redis.Redis.from_url(
        url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
    ) as client:
        return (
            sum(
                client.memory_usage(key, samples=0) or 0
                for key in client.scan_iter(count=100)
                if not key.startswith(_BINDINGS)
            )
            / 2**20
        )


def rabbitmq_megabytes(server: RabbitMqServer) -> float:
    """The bodies of all messages.

    Raises:
        httpx.HTTPError: the management API does not answer.
    """
    held: int = sum(queue.get("message_bytes", 0) for queue in server.api("GET", "/queues"))
    return held / 2**20
