"""What the mock writes last stays last, also while the network takes its time with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from pushq.mock.connection import serve_http2
from pushq.mock.engine import End


class Slow:
    """A channel that takes each write for a while, and brings one piece of data once it was opened."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.was_cut = False
        self._to_read = [b"a request"]

    def receive(self) -> bytes:
        gevent.sleep(0.01)
        return self._to_read.pop() if self._to_read else b""

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        gevent.sleep(0.1)

    def flush(self) -> None: ...

    def cut(self) -> None:
        self.was_cut = True


class Ends:
    """An engine whose last words follow the first data; earlier answers have fallen due by then."""

    def __init__(self, end: End) -> None:
        self.ended: End | None = None
        self.pending = True
        self._end = end

    def opening(self) -> bytes:
        return b"opening"

    def receive(self, data: bytes, tick: float, now: float) -> bytes:
        self.ended = self._end
        return b"half a frame"

    def release(self, tick: float) -> bytes:
        return b"answers" if self.ended else b""

    def rest(self, tick: float) -> float:
        return 0.0


@pytest.mark.parametrize("end", ["cut", "close"])
def test_nothing_is_written_behind_the_last_word(end: End) -> None:
    channel, engine = Slow(), Ends(end)
    endpoint: Any = SimpleNamespace(latency=SimpleNamespace(seconds=0.08))
    with gevent.Timeout(10):
        serve_http2(channel, engine, endpoint)  # type: ignore[arg-type]
    assert channel.sent == [b"opening", b"half a frame"]
    assert channel.was_cut is (end == "cut")
