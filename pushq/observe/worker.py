"""How a worker is."""

from __future__ import annotations

from typing import Any

from pushq.observe.health import Health
from pushq.tasks import runtime
from pushq.tasks.runtime import Runtime


class WorkerHealth(Health):
    """Live is a worker whose event loop turns: the answer itself is the proof, for it comes from a greenlet of that loop.

    Ready is one that takes tasks from the broker, and whose PostgreSQL and Redis answer. Its provider is no part of that: a new worker
    would find it as it is.
    """

    def __init__(self, role: str) -> None:
        self._consumer: Any = None
        super().__init__(
            role,
            ready={
                "broker": self._broker,
                "database": lambda: _started(lambda current: current.database.ping()),
                "redis": lambda: _started(lambda current: current.redis.ping()),
                "shutdown": lambda: "is under way" if runtime.draining() else None,
            },
        )

    def consumes(self, consumer: Any) -> None:
        """Celery's consumer has begun."""
        self._consumer = consumer

    def _broker(self) -> str | None:
        if self._consumer is None:
            return "takes no tasks yet"
        connection = self._consumer.connection
        return None if connection is not None and connection.connected else "not connected"


def _started(ask: Any) -> str | None:
    current: Runtime | None = runtime.started()
    if current is None:
        return "not asked yet: the worker is starting"
    ask(current)
    return None
