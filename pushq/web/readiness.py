"""What the web process needs from others."""

from __future__ import annotations

from typing import Any, Final

from celery import Celery
from kombu.exceptions import OperationalError

from pushq.app import app as celery
from pushq.database import Database
from pushq.observe.health import Health

#: Seconds for the broker's answer; below a probe's patience.
BROKER_S: Final = 1.5


def health_of(database: Database, redis: Any, *, broker: Celery = celery) -> Health:
    """Ready is a process whose PostgreSQL, Redis and broker answer. Without the broker nothing is accepted."""

    def ask_redis() -> None:
        redis.ping()

    def ask_broker() -> str | None:
        try:
            with broker.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=BROKER_S)
        except (OperationalError, OSError) as error:
            return type(error).__name__
        return None

    return Health("web", ready={"database": database.ping, "redis": ask_redis, "broker": ask_broker})
