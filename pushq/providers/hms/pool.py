"""The connections to HMS: one httpx client each, one request at a time on each.

Requests are large and few: a thousand devices each, so that a handful of connections carries more than any app may send. One request
at a time keeps what is known about them apart: a connection that breaks leaves one request unknown, never its neighbours', whether
the host speaks HTTP/1.1 or HTTP/2 (Huawei does not say; ALPN decides). HTTP/2 costs more CPU (benchmarks/hms_rate.py), far below any
app's limit, and is asked for because its GOAWAY and REFUSED_STREAM say what was not processed, where HTTP/1.1 just closes.

A lane is a greenlet and its connection. In a patched worker lanes run side by side; in a process that is not patched, such as a test,
one after the other.
"""

from __future__ import annotations

import logging
import random as _random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import gevent
import httpx

from pushq.http2 import NO_CONNECTION, Burst, Code, PoolClosed, PoolObserver, PoolSaturated, PoolStats, Reason
from pushq.http2.greenlets import Signal, Task
from pushq.providers.dialling import Dialling
from pushq.providers.hms.burst import Request, TokenBurst
from pushq.providers.hms.network import MAX_ANSWER_BYTES, outcome
from pushq.providers.hms.responses import divide

log = logging.getLogger("pushq.hms")

#: Devices that may wait; ``submit`` blocks beyond.
QUEUE_LIMIT: Final = 20_000
#: So long a request may wait to be written.
QUEUE_TIMEOUT_S: Final = 30.0
BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
#: Between two connections: what is new must not come all at once.
OPEN_SPACING_S: Final = 0.02
#: Beyond the time-outs of httpx, which count from byte to byte: no answer may trickle for ever.
GRACE_S: Final = 1.0
#: Events of httpcore after which bytes of the request may have left, unless they are those of a CONNECT to a proxy.
_WRITES: Final = frozenset({"http11.send_request_headers.started", "http2.send_request_headers.started"})
#: The handshake with Huawei is over. In a tunnel "connection." is the handshake with the proxy, if it has one.
_CONNECTED: Final = "connection.start_tls.complete"
_CONNECTED_IN_TUNNEL: Final = "proxy.start_tls.complete"


class HmsPool:
    """Sends bursts of :class:`TokenBurst` to one app's address; see :class:`pushq.providers.client.RequestPool`."""

    def __init__(
        self,
        name: str,
        url: str,
        dialling: Dialling,
        *,
        max_connections: int,
        request_timeout_s: float,
        idle_close_s: float,
        observer: PoolObserver,
        http2: bool = True,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.name = name
        self._url, self._dialling, self._observer = url, dialling, observer
        self._connected_event = _CONNECTED_IN_TUNNEL if dialling.proxied else _CONNECTED
        self._max, self._timeout_s, self._idle_close_s = max_connections, request_timeout_s, idle_close_s
        self._http2, self._clock, self._random = http2, clock, random
        self._queue: deque[TokenBurst] = deque()
        self._queued = 0  # devices
        self._room = Signal()
        self._lanes: list[_Lane] = []
        self._idle: list[_Lane] = []
        self._closed = False
        #: After a failed attempt to connect nobody tries before this.
        self._blocked_until = float("-inf")
        self._failures = 0  # in a row
        self._dial_after = float("-inf")
        self._opened = self._failed = self._lost = self._idle_closed = self._exhausted = 0
        self._full = False
        self._latency_s: float | None = None
        self._last_error = ""

    def __repr__(self) -> str:
        return f"<HmsPool {self.name}: {len(self._lanes)} lanes, {self._queued} devices queued>"

    # For the caller

    def submit(self, burst: Burst, timeout: float) -> None:
        assert isinstance(burst, TokenBurst)
        deadline = self._clock() + timeout
        while not self._closed and self._queued and self._queued + burst.count > QUEUE_LIMIT:
            left = deadline - self._clock()
            if left <= 0:
                raise PoolSaturated(self.name, timeout, self._queued)
            self._room.clear()
            self._room.wait(left)
        if self._closed:
            raise PoolClosed(self.name)
        burst.attach(Signal(), self._withdrawn)
        burst.queued_at = self._clock()
        self._queue.append(burst)
        self._queued += burst.count
        for _ in burst.requests:
            self._engage()

    @property
    def queued(self) -> int:
        """Requests that wait for a free connection."""
        return self._queued

    def stats(self) -> PoolStats:
        busy = sum(lane.busy for lane in self._lanes)
        return PoolStats(
            connections=sum(lane.connected for lane in self._lanes),
            draining=0,
            streams=busy,
            stream_limit=self._max,
            queued=self._queued,
            opened=self._opened,
            failed=self._failed,
            lost=self._lost,
            goaways=0,
            idle_closed=self._idle_closed,
            exhausted=self._exhausted,
            latency_s=self._latency_s,
            last_error=self._last_error,
        )

    def close(self, grace: float) -> None:
        """Make what waits NOT_SENT, give what is in flight ``grace`` seconds to finish, and close the connections."""
        if self._closed:
            return
        self._closed = True
        while self._queue:
            self._queue.popleft().cancel(Reason.POOL_CLOSED)
        self._room.set()
        deadline = self._clock() + grace
        for lane in list(self._lanes):
            lane.wake.set()
        for lane in list(self._lanes):
            if not lane.task.join(max(0.0, deadline - self._clock())):
                lane.task.kill()

    # For the lanes

    def next(self) -> tuple[TokenBurst, Request] | None:
        """The next request, in flight from now on; None when there is none."""
        while self._queue:
            burst = self._queue[0]
            if self._clock() - burst.queued_at > QUEUE_TIMEOUT_S:
                burst.cancel(Reason.QUEUE_TIMEOUT)
            request = burst.take()
            if request is None:
                self._queue.popleft()
                continue
            self._withdrawn(len(request.indices))
            if burst.first_written_at is None:
                burst.first_written_at = self._clock()
            return burst, request
        self._full = False
        return None

    def _engage(self) -> None:
        """Have one more request looked after, by a lane that rests or by a new one."""
        if self._idle:
            self._idle.pop().wake.set()
        elif len(self._lanes) < self._max:
            self._full = False
            self._lanes.append(_Lane(self))
        elif not self._full:
            self._full = True
            self._exhausted += 1
            self._observer.exhausted(self.name)

    def _withdrawn(self, devices: int) -> None:
        self._queued -= devices
        self._room.set()


class _Lane:
    """One connection and who uses it."""

    def __init__(self, pool: HmsPool) -> None:
        self._pool = pool
        self._client: httpx.Client | None = None
        self.wake = Signal()
        self.busy = False
        self.connected = False
        self.task = Task(self._run)

    def _run(self) -> None:
        pool = self._pool
        try:
            while not pool._closed:
                self._await_connectable()
                taken = pool.next()
                if taken is not None:
                    try:
                        self._send(*taken)
                    except Exception:
                        # Its devices have heard of it. Without this lane others would wait, perhaps for ever.
                        log.exception("hms_request_crashed", extra={"pool": pool.name})
                elif not self._rest():
                    break
        finally:
            pool._lanes.remove(self)
            if self in pool._idle:
                pool._idle.remove(self)
            self._disconnect(Reason.SURPLUS)

    def _rest(self) -> bool:
        """Wait for work. False: there will be none, or was none for so long that the connection is not worth keeping."""
        pool = self._pool
        if pool._closed:
            return False  # the pool woke everybody when it was closed; nobody would be woken again
        self.wake.clear()
        pool._idle.append(self)
        if self.wake.wait(pool._idle_close_s):
            return True
        # Whoever engages a lane takes it from the list first.
        return self not in pool._idle

    def _await_connectable(self) -> None:
        """Nobody dials while the last failure is fresh; what is queued waits with us, as long as it may."""
        pool = self._pool
        while not self.connected and not pool._closed:
            now = pool._clock()
            left = max(pool._blocked_until, pool._dial_after) - now
            if left <= 0:
                pool._dial_after = now + OPEN_SPACING_S
                return
            self.wake.clear()
            self.wake.wait(min(left, 1.0))

    def _send(self, burst: TokenBurst, request: Request) -> None:
        self.busy = True
        try:
            self._exchange(burst, request)
        finally:
            self.busy = False

    def _exchange(self, burst: TokenBurst, request: Request) -> None:
        pool = self._pool
        written, stream_id = False, 0
        began = wrote = pool._clock()

        def trace(event: str, info: Mapping[str, Any]) -> None:
            nonlocal written, stream_id, wrote
            # The CONNECT to a proxy has the trace of the request that it is for.
            if event in _WRITES and info["request"].method != b"CONNECT":
                written, stream_id, wrote = True, info.get("stream_id", 0), pool._clock()
            elif event == pool._connected_event:
                self._now_connected(pool._clock() - began)

        try:
            with gevent.Timeout(pool._timeout_s + GRACE_S):
                status, headers, body = self._post(burst, request, trace)
            answered_at = pool._clock()
            division = divide(status, headers, body, request.tokens)
        except gevent.Timeout:
            code, reason = (
                (Code.UNKNOWN, Reason.TIMEOUT) if written else (Code.NOT_SENT, Reason.CONNECT_TIMEOUT)
            )
        except (httpx.HTTPError, OSError, UnicodeDecodeError) as exc:
            code, reason = outcome(exc, written=written, stream_id=stream_id)
            pool._last_error = f"{type(exc).__name__}: {reason}"
        except BaseException as exc:
            # Killed, or a fault of ours: whoever waits must hear of it.
            ours = isinstance(exc, Exception)
            burst.finish(
                request,
                Code.UNKNOWN if written else Code.NOT_SENT,
                reason=Reason.INTERNAL_ERROR if ours else Reason.POOL_CLOSED,
            )
            self._disconnect(Reason.INTERNAL_ERROR)
            raise
        else:
            took = answered_at - wrote
            pool._observer.answered(pool.name, ((took, 1),))
            pool._latency_s = took if pool._latency_s is None else 0.8 * pool._latency_s + 0.2 * took
            pool._failures = 0
            burst.finish(request, division.code, answers=division.answers, reason=division.reason)
            return
        burst.finish(request, code, reason=reason)
        if reason in NO_CONNECTION:
            self._connect_failed(Reason(reason))
        else:
            pool._lost += 1
        # Whatever state it is in: the next request gets another connection.
        self._disconnect(Reason(reason))

    def _post(
        self, burst: TokenBurst, request: Request, trace: Callable[[str, Mapping[str, Any]], None]
    ) -> tuple[int, dict[str, str], bytes]:
        pool = self._pool
        if self._client is None:
            self._client = pool._dialling.client(
                pool._timeout_s, http2=pool._http2, idle_close_s=pool._idle_close_s
            )
        url = pool._url + burst.template.path_prefix.decode()
        headers = [*burst.template.headers, (b"accept-encoding", b"identity")]
        with self._client.stream(
            "POST", url, content=request.body, headers=headers, extensions={"trace": trace}
        ) as answer:
            self.connected = True
            body = bytearray()
            for piece in answer.iter_raw():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise httpx.DecodingError("the answer is too long", request=answer.request)
            return answer.status_code, dict(answer.headers), bytes(body)

    def _now_connected(self, seconds: float) -> None:
        pool = self._pool
        self.connected = True
        pool._opened += 1
        pool._failures, pool._blocked_until = 0, float("-inf")
        pool._observer.connection_opened(pool.name, seconds)

    def _connect_failed(self, reason: Reason) -> None:
        pool = self._pool
        pool._failed += 1
        pool._failures += 1
        wait = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(pool._failures - 1, 10))
        pool._blocked_until = pool._clock() + wait * (0.5 + pool._random() / 2)
        pool._observer.connect_failed(pool.name, reason)
        log.warning("hms_connect_failed", extra={"pool": pool.name, "reason": str(reason)})

    def _disconnect(self, reason: Reason) -> None:
        client, self._client = self._client, None
        was, self.connected = self.connected, False
        if client is not None:
            client.close()
        if was:
            self._pool._observer.connection_ended(self._pool.name, reason)
