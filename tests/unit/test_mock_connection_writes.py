"""What the mock says last stays last, also while the network takes its time with it, and what comes after it is not processed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from pushq.mock.connection import serve_http2
from pushq.mock.due_answers import DueAnswers
from pushq.mock.engine import End
from pushq.mock.frames import DATA, END_STREAM, frame


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


class Leaves(Ends):
    """An engine that says goodbye by itself as its answers fall due."""

    def __init__(self) -> None:
        super().__init__("close")
        self.read: list[bytes] = []

    def receive(self, data: bytes, tick: float, now: float) -> bytes:
        self.read.append(data)
        return b""

    def release(self, tick: float) -> bytes:
        self.ended = "close"
        return b"goodbye"

    def rest(self, tick: float) -> float:
        return 0.12


class LateRequest(Slow):
    """Brings a request while the goodbye is being written."""

    def receive(self) -> bytes:
        gevent.sleep(0.05)
        return b"a request"


def test_a_request_that_comes_behind_the_goodbye_is_not_processed() -> None:
    channel, engine = LateRequest(), Leaves()
    endpoint: Any = SimpleNamespace(latency=SimpleNamespace(seconds=0.5))
    with gevent.Timeout(10):
        serve_http2(channel, engine, endpoint)  # type: ignore[arg-type]
    assert (channel.sent, engine.read) == ([b"opening", b"goodbye"], [])


def test_a_goaway_takes_back_answers_that_the_window_holds_up() -> None:
    answers = DueAnswers()
    answers.window = 0
    for stream in (1, 3, 5):
        answers.add(0.0, frame(DATA, END_STREAM, stream, b"x"), b"token %d" % stream)
    assert answers.release(1.0) == []
    assert answers.retract(3) == [b"token 5"]
    assert answers.cancel(1)
    assert not answers.cancel(5)
    answers.window = 10
    assert answers.release(2.0) == [frame(DATA, END_STREAM, 3, b"x")]
