"""Messages that a dead worker had taken from Redis, put back.

RabbitMQ does that by itself. kombu does it for Redis only when a poll of 2 s finds nothing at all, which under gevent never
happens: its BRPOP comes back after 1 s and counts as an event. Longer polls would cure that and make a busy worker sleep, so the
sweep asks for it. The ledger covers batches, shards and dead letters anyway; this is for calls that are not in the ledger yet.
"""

from __future__ import annotations

import logging

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from pushq.app import app

log = logging.getLogger("pushq.redelivery")

LIMIT = 1000


def restore_unacknowledged() -> None:
    """Put back what has been unacknowledged for longer than the visibility timeout; nothing to do on RabbitMQ."""
    try:
        with app.connection_for_write() as connection:
            if connection.transport.driver_type == "redis":
                connection.default_channel.qos.restore_visible(num=LIMIT, interval=1)
    except (OperationalError, OSError, RedisError) as exc:
        # Asked directly, redis-py speaks for itself; the sweep of the ledger must go on all the same.
        log.warning("restore_failed", extra={"error": type(exc).__name__})
