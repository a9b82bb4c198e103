"""The bursts that wait for a connection, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pushq.http2.burst import Burst


class BurstQueue:
    """One queue for all connections of a pool. It counts requests, and a burst stays at the head until its last one is taken.

    Attributes:
        waiting: requests that no connection has taken.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bursts: deque[Burst] = deque()
        self.waiting = 0

    def has_room(self, count: int) -> bool:
        """A burst larger than the whole queue is let in when it is empty, else it could never run."""
        return self.waiting + count <= self._limit or self.waiting == 0

    def add(self, burst: Burst, now: float) -> None:
        burst.queued_at = now
        self._bursts.append(burst)
        self.waiting += burst.count - burst.cursor

    def withdraw(self, count: int) -> None:
        """That many requests were cancelled in their burst."""
        self.waiting -= count

    def feed(self, write: Callable[[Burst, int], int], limit: int) -> int:
        """Offer the next requests, at most ``limit``, to ``write(burst, at_most)``, which returns how many it took.

        Returns:
            how many were taken; fewer than ``limit`` if the queue ran empty or ``write`` took fewer than it was offered.
        """
        taken = 0
        while taken < limit and self._bursts:
            burst = self._bursts[0]
            open_count = burst.count - burst.cursor
            if open_count == 0:
                self._bursts.popleft()
                continue
            offered = min(open_count, limit - taken)
            written = write(burst, offered)
            taken += written
            self.waiting -= written
            if written < offered:
                break
        return taken

    def expire(self, queued_before: float, reason: str) -> int:
        """Cancel the bursts that were queued before that time. Returns how many requests became NOT_SENT."""
        before = self.waiting
        while self._bursts and self._bursts[0].queued_at < queued_before:
            self._bursts.popleft().cancel(reason)
        return before - self.waiting

    def clear(self, reason: str) -> None:
        while self._bursts:
            self._bursts.popleft().cancel(reason)
