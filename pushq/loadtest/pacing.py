"""Transactional notifications at a steady rate, as an application would call them, beside a broadcast."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pushq.errors import PushqError


class PacedCalls:
    """Calls ``send_notification.delay`` for one user at a time, for the life of a ``with`` block.

    Calls do not wait for each other's answers; a publisher that falls behind makes up for it, so that a slow broker shows in the
    latencies and not in a lower rate.

    Attributes:
        calls: users by send.
        late: the longest that a call began after its time, seconds.
        failed: calls that the broker did not take, by error.
    """

    def __init__(
        self,
        rate: float,
        users: int,
        app: str,
        *,
        seed: int = 0,
        guarantee: Callable[[int], str] = lambda user: "at_least_once",
    ) -> None:
        """``users``: they are numbered from 1. ``guarantee``: of a call to this user."""
        self.calls: dict[uuid.UUID, int] = {}
        self.failed: Counter[str] = Counter()
        self.late = 0.0
        self._rate, self._users, self._app = rate, users, app
        self._guarantee = guarantee
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paced-calls")

    def __enter__(self) -> Self:
        if self._rate > 0:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        from pushq.tasks.entry import send_notification  # noqa: PLC0415 - Celery asks for its broker when it is imported

        begin, number = time.monotonic(), 0
        while not self._over.wait(max(0.0, begin + number / self._rate - time.monotonic())):
            self.late = max(self.late, time.monotonic() - begin - number / self._rate)
            number += 1
            user = self._random.randint(1, self._users)
            try:
                result = send_notification.delay(
                    [user],
                    {"title": "Your code", "body": f"{number:06d}"},
                    app=self._app,
                    guarantee=self._guarantee(user),
                )
            except PushqError as exc:
                self.failed[type(exc).__name__] += 1
            else:
                self.calls[uuid.UUID(result.id)] = user
