"""Dead letters of several batches in one message.

Each batch of a broadcast has some, and a message for each cost more than what is done about them: publishing it, taking it up, a transaction
of six round trips. Nobody waits for dead letters, so a worker keeps their orders for half a second. What dies with it is not lost: the
sweeper orders what nobody has processed.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from pushq import tracing
from pushq.ledger.orders import ProcessDeadLetters

DELAY_S: Final = 0.5
#: In one message; so many rows are changed in one transaction at most, unless one batch alone has more.
MOST_LETTERS: Final = 1000
MOST_BATCHES: Final = 100


class Publish(Protocol):
    def __call__(
        self, send_id: uuid.UUID, batch_nos: list[int], headers: Mapping[str, str] | None
    ) -> object: ...


@dataclass(slots=True)
class _Waiting:
    """Of one send; its trace goes on from ``headers``."""

    headers: Mapping[str, str] | None
    batch_nos: list[int] = field(default_factory=list)
    letters: int = 0


class Burials:
    """Orders that wait to be published together. Safe for many greenlets or threads.

    Args:
        publish: must not raise.
    """

    def __init__(self, publish: Publish, *, delay_s: float = DELAY_S) -> None:
        self._publish, self._delay_s = publish, delay_s
        self._lock = threading.Lock()
        self._waiting: dict[uuid.UUID, _Waiting] = {}
        self._timer: threading.Timer | None = None
        self._closed = False

    def add(self, order: ProcessDeadLetters) -> None:
        """Publish it within the delay, or at once where a message is full or nothing is gathered any more."""
        with self._lock:
            waiting = self._waiting.get(order.send_id)
            full = None
            if waiting is not None and waiting.letters + order.letters > MOST_LETTERS:
                full, waiting = self._waiting.pop(order.send_id), None
            if waiting is None:
                waiting = self._waiting[order.send_id] = _Waiting(tracing.send_headers() or None)
            waiting.batch_nos.append(order.batch_no)
            waiting.letters += order.letters
            ready = self._closed or waiting.letters >= MOST_LETTERS or len(waiting.batch_nos) >= MOST_BATCHES
            if ready:
                del self._waiting[order.send_id]
            elif self._timer is None:
                self._timer = threading.Timer(self._delay_s, self.flush)
                self._timer.daemon = True
                self._timer.start()
        for each in (full, waiting if ready else None):
            if each is not None:
                self._publish(order.send_id, each.batch_nos, each.headers)

    def flush(self) -> None:
        """Publish all that wait."""
        with self._lock:
            these, self._waiting = self._waiting, {}
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for send_id, each in these.items():
            self._publish(send_id, each.batch_nos, each.headers)

    def close(self) -> None:
        """Gather no longer: publish what waits, and what comes from now on at once."""
        with self._lock:
            self._closed = True
        self.flush()
