"""What a connection makes of a transport that fails: which requests were surely not sent, and which may have been."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import AsyncResult
from gevent.queue import Queue

from pushq.http2.burst import Burst, Code
from pushq.http2.errors import ConnectionLost
from pushq.http2.frames import settings_frame
from pushq.http2.pool import Pool
from pushq.http2.reasons import Reason
from pushq.http2.settings import Origin, PoolSettings
from tests.unit.http2_referee import burst_of

PATIENT = 30.0
OK_TO_FIRST = b"\0\0\2\1\5\0\0\0\1\x20\x88"


class Line:
    """A transport that lets the first request through and answers it; the write after that fails part-way.

    Attributes:
        delivered: octets of the failing write that the peer may have read.
    """

    has_output = False
    peer = "a line"

    def __init__(self, share: float) -> None:
        self.delivered = 0
        self.to_client: Queue[bytes | ConnectionLost] = Queue()
        self.to_client.put(settings_frame([(3, 100)]))
        self.answered = False
        self.closed = False
        self._share = share

    def receive(self) -> bytes:
        data = self.to_client.get()
        if isinstance(data, ConnectionLost):
            raise data
        assert isinstance(data, bytes)
        return data

    def send(self, data: bytes) -> None:
        if self.answered:
            self.delivered = int(len(data) * self._share)
            broken = ConnectionLost(Reason.CONNECTION_LOST, "broken pipe")
            self.to_client.put(broken)
            raise broken
        if b"com.example.shop" in data:
            self.answered = True
            self.to_client.put(OK_TO_FIRST)

    def close(self, last_words: bytes = b"") -> None:
        self.closed = True
        self.to_client.put(ConnectionLost(Reason.CONNECTION_LOST, "closed"))


class Lines:
    """Hands out one line, and then none."""

    def __init__(self, line: Line) -> None:
        self._line: Line | None = line
        self.asked_again: AsyncResult[None] = AsyncResult()

    def connect(self, timeout_s: float) -> Line:
        line, self._line = self._line, None
        if line is None:
            self.asked_again.set()
            gevent.sleep(PATIENT)
            raise AssertionError("the pool was not closed")
        return line


@pytest.mark.parametrize(("share", "unknown"), [(0.0, 0), (0.5, 9), (1.0, 19)])
def test_a_write_that_fails(share: float, unknown: int) -> None:
    """What the peer may have read is unknown, and what lies behind it was surely not sent."""
    line = Line(share)
    lines = Lines(line)
    # Long enough for a loaded machine to hand over the first request.
    settings = PoolSettings(tick_s=0.02, queue_timeout_s=2.0, backoff_min_s=0.01)
    pool = Pool("test", Origin("localhost", 443), settings, connector=lines)
    pool.start()
    burst: Burst = burst_of(20)
    pool.submit(burst, PATIENT)
    assert burst.wait(PATIENT)
    assert burst.codes[0] == Code.OK
    codes = list(burst.codes[1:])
    assert codes == [Code.UNKNOWN] * codes.count(Code.UNKNOWN) + [Code.NOT_SENT] * codes.count(Code.NOT_SENT)
    assert codes.count(Code.UNKNOWN) == pytest.approx(unknown, abs=1 if 0 < share < 1 else 0)
    assert set(burst.reasons.values()) == {"connection_lost"}
    assert line.closed
    lines.asked_again.get(timeout=PATIENT)
    pool.close(0)
    gevent.sleep(0)
