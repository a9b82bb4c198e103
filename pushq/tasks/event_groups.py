"""Task events published in groups, for workers that Flower watches.

Three events tell of each task. Celery groups them where its own event loop runs, and under gevent publishes every one as a message of
its own ("This excludes eventlet/gevent, which should actually buffer", celery/worker/consumer/events.py), on RabbitMQ each with a
confirmation to wait for. That costs about half of what a worker can take: 664 against 1,592 tasks/s on RabbitMQ, 402 against 802 on
Redis (a task that does nothing, medians of four rounds in turn, 2 cores).
"""

from __future__ import annotations

import threading
from typing import Any, Final

from celery.bootsteps import StartStopStep

#: Flower shows a task this much later at most.
FLUSH_S: Final = 0.5
#: Events in one message at most; about 300 bytes each.
GROUP: Final = 100


class EventGroups(StartStopStep):  # type: ignore[misc]
    """A step of the consumer, for ``app.steps["consumer"]``: lets the dispatcher of a gevent worker collect task events.

    Where Celery has its own event loop, or sends no events, nothing is changed.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._over = threading.Event()
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        # Again after every lost connection, which gives the consumer a new dispatcher.
        self._over.set()
        dispatcher = consumer.event_dispatcher
        if dispatcher is None or not dispatcher.enabled or consumer.hub is not None:
            return
        dispatcher.buffer_group = frozenset({"task"})
        dispatcher.buffer_limit = GROUP
        self._over = threading.Event()
        # Not the consumer's timer: its repeated entries cannot be cancelled under gevent.
        arguments = dispatcher, self._over
        threading.Thread(target=_flush_until, args=arguments, name="pushq-events", daemon=True).start()

    def stop(self, consumer: Any) -> None:
        """Nothing: tasks that are still running have yet to tell how they end."""

    def shutdown(self, consumer: Any) -> None:
        """The pool has ended its tasks; the dispatcher's connection is still open."""
        self._over.set()
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()


def _flush_until(dispatcher: Any, over: threading.Event) -> None:
    while not over.wait(FLUSH_S):
        dispatcher.flush()
