"""A consumer that notices when its connection was replaced behind its back.

Under gevent a task that acknowledges may be the first to see that RabbitMQ has gone: it closes the connection. kombu then opens another
at the next use (``Connection.connection``), the consumer's loop reads from that one, on which nothing was subscribed, and takes no
message ever again. Seen by the chaos suite after kill -9 of a node: a worker that lived and did nothing.
"""

from __future__ import annotations

from typing import Any

from celery.bootsteps import StartStopStep


class NoticeReplacedConnection(StartStopStep):  # type: ignore[misc]
    """A step of the consumer, for ``app.steps["consumer"]``: a replaced connection counts as a lost one, so Celery subscribes anew."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        if consumer.connection.transport.driver_type != "amqp":
            return  # kombu's Redis transport subscribes with every poll
        subscribed = consumer.connection.connection
        perform = type(consumer).perform_pending_operations

        def check_and_perform() -> None:
            # The attribute, not the property: that one would connect.
            if consumer.connection._connection is not subscribed or not consumer.connection.connected:
                raise ConnectionResetError("the consumer's connection was closed by a task")
            perform(consumer)

        # Called in every cycle of the loop, right before it reads.
        consumer.perform_pending_operations = check_and_perform
