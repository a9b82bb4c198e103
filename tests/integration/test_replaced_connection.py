"""A worker whose connection was closed by one of its tasks subscribes anew."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from kombu import Connection

from pushq.tasks.replaced_connection import NoticeReplacedConnection


@dataclass
class Consumer:
    """What the step uses of Celery's consumer."""

    connection: Connection
    performed: list[int] = field(default_factory=list)

    def perform_pending_operations(self) -> None:
        self.performed.append(1)


def started(connection: Connection) -> Consumer:
    consumer = Consumer(connection)
    NoticeReplacedConnection(consumer).start(consumer)
    return consumer


def test_a_connection_closed_elsewhere_counts_as_lost(rabbitmq_url: str) -> None:
    """Also when kombu has opened another one since."""
    with Connection(rabbitmq_url) as connection:
        consumer = started(connection)
        consumer.perform_pending_operations()
        assert consumer.performed == [1]
        connection.connection.collect()  # as py-amqp does when an acknowledgement cannot be written
        with pytest.raises(ConnectionResetError):
            consumer.perform_pending_operations()
        assert connection.connection.connected
        with pytest.raises(ConnectionResetError):
            consumer.perform_pending_operations()
        assert consumer.performed == [1]
        again = started(connection)
        again.perform_pending_operations()
        assert again.performed == [1]


def test_redis_is_left_alone(redis_url: str) -> None:
    with Connection(redis_url) as connection:
        consumer = started(connection)
        assert "perform_pending_operations" not in vars(consumer)
