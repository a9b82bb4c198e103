"""The sender alone: a pool and bursts, as the workers use them, against any HTTP/2 server.

Nothing of the queue, the database or the ledger runs. What is measured begins when all connections are open and each has had one
answer, and ends when the last request has its outcome.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pushq.bench.memory import peak_rss_mb, rss_mb
from pushq.bench.requests import BURST_REQUESTS, bursts, some_of
from pushq.errors import PushqError
from pushq.http2 import Burst, Code, HeaderTemplate, Origin, Pool, PoolSettings, Reason
from pushq.http2.figures import NullObserver
from pushq.http2.greenlets import pause

#: How often a measurement that waits looks whether there is still hope.
_LOOK_S = 0.25
#: How often a request is sent again after the server refused it or its connection ended before it was written.
_MAX_ATTEMPTS = 20
_UNPROCESSED = frozenset({int(Code.REFUSED), int(Code.NOT_SENT)})
#: A server that answers nothing at all for a request time-out and this is gone.
_GRACE_S = 2.0

_ADVICE: Mapping[Reason, tuple[str, str]] = {
    Reason.DNS: ("--url", "the name has no address; check its spelling"),
    Reason.CONNECT_REFUSED: ("--url", "nothing listens there; check the port, and that the server runs"),
    Reason.CONNECT_TIMEOUT: ("--url", "nobody answers there; check the address and the firewall"),
    Reason.CONNECT_FAILED: ("--url", "check the address and the way to it"),
    Reason.TLS_VERIFY_FAILED: (
        "--cafile",
        "name the PEM file of the authority that signed the server's certificate, and in --url a name that stands in it",
    ),
    Reason.TLS_FAILED: ("--url", "check that this port speaks TLS 1.2 or newer"),
    Reason.NO_ALPN_H2: ("--url", "the server must offer HTTP/2 (nginx: listen ... ssl http2)"),
    Reason.NO_SETTINGS: ("--url", "check that an HTTP/2 server answers on this port"),
}


class TargetUnusable(PushqError):
    """The server cannot be measured. Nothing that counts was sent.

    Attributes:
        field: the option to look at.
        detail: what happened.
        advice: what to do.
    """

    def __init__(self, field: str, detail: str, advice: str) -> None:
        super().__init__(field, detail, advice)
        self.field = field
        self.detail = detail
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}; {self.advice}"


@dataclass(frozen=True, slots=True)
class WireLoad:
    """What to send.

    Attributes:
        connections: opened before the clock starts, and kept.
        streams: requests in flight per connection, if the server allows that many.
        distinct_bodies: each request has a body of its own; all are ``body_bytes`` long.
        request_ids: an ``apns-id`` per request, as the workers send it.
        timeout_s: for one request; a server without any answer for so long ends the measurement.
        duration_s: no more requests are begun after this time; None for no such limit.
    """

    origin: Origin
    path_prefix: str
    headers: tuple[tuple[str, str], ...]
    requests: int
    connections: int = 1
    streams: int = 1000
    body_bytes: int = 150
    distinct_bodies: bool = False
    request_ids: bool = False
    timeout_s: float = 30.0
    duration_s: float | None = None

    def template(self) -> HeaderTemplate:
        """Raises:
        InvalidRequest: a path or header that HTTP/2 cannot carry.
        """
        headers = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in self.headers)
        return HeaderTemplate(
            self.path_prefix.encode(), headers, varying=(b"apns-id",) if self.request_ids else ()
        )


@dataclass(slots=True)
class WireResult:
    """What became of the requests.

    Attributes:
        requests: begun and ended; fewer than asked for after ``duration_s`` or when the server went away.
        ok, failed: status 200; everything else, answered or not.
        cpu_seconds: of this process, user and system, while it sent.
        preparing_cpu_seconds: the part of it in which tokens and bodies were made.
        peak_rss_mb: of the process since its start, MiB.
        rss_mb_at_tenth: when a tenth of the requests was done; None where the system does not tell.
        statuses: answers by status.
        unanswered: requests without an answer, by reason.
        resent: how many times a request was sent again because it was surely not processed (nginx closes a connection after
            keepalive_requests), as the workers do.
        stopped: why the measurement ended early; None if it did not.
    """

    requests: int = 0
    ok: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    preparing_cpu_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    rss_mb_at_tenth: float | None = None
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    resent: int = 0
    stopped: str | None = None

    @property
    def failed(self) -> int:
        return self.requests - self.ok

    @property
    def per_second(self) -> float:
        return self.requests / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def per_cpu_second(self) -> float:
        return self.requests / self.cpu_seconds if self.cpu_seconds else 0.0

    def add(self, burst: Burst, resent: Sequence[int] = ()) -> None:
        """Count the outcomes of a burst that is done, but for the requests that are sent again (by index)."""
        self.requests += burst.count - len(resent)
        self.resent += len(resent)
        accepted = burst.codes.count(Code.OK)
        if accepted:
            self.ok += accepted
            self.statuses[200] += accepted
        if accepted != burst.count:
            self.statuses.update(answer.status for answer in burst.answers.values())
            self.unanswered.update(str(reason) for reason in burst.reasons.values())
            self.unanswered.subtract(str(burst.reasons[index]) for index in resent)
            self.unanswered += Counter()  # leaves out the zeros


def measure(load: WireLoad, progress: Callable[[int], None] | None = None) -> WireResult:
    """Open the connections, send, and count.

    ``progress`` hears how many requests are done, after every burst.

    Raises:
        TargetUnusable: no connection, or no answer to the first request.
        InvalidRequest, SettingsError: the load is wrong.
    """
    template = load.template()
    failures = _Failures()
    pool = Pool("bench", load.origin, _pool_settings(load), observer=failures)
    try:
        _open(pool, load, failures)
        _warm(pool, load, template)
        return _Measurement(pool, load, progress).run(template)
    finally:
        pool.close(1.0)


def _pool_settings(load: WireLoad) -> PoolSettings:
    waiting = _outstanding_limit(load) + BURST_REQUESTS
    return PoolSettings(
        min_connections=load.connections,
        max_connections=load.connections,
        max_streams=load.streams,
        # The share that is kept free is for providers that lower their limit under way.
        stream_ceiling=1.0,
        open_spacing_s=0.001,
        connect_timeout_s=min(10.0, load.timeout_s),
        request_timeout_s=load.timeout_s,
        write_timeout_s=load.timeout_s,
        # Whether the server is still there is decided by its answers, see _Measurement.
        queue_timeout_s=max(600.0, 10 * load.timeout_s),
        queue_limit=waiting,
    )


def _outstanding_limit(load: WireLoad) -> int:
    """Requests that exist at a time: enough that no stream ever waits for the next burst."""
    return 2 * load.connections * load.streams + 2 * BURST_REQUESTS


def _bursts(load: WireLoad, template: HeaderTemplate, total: int, series: str) -> Iterator[Burst]:
    return bursts(
        template,
        total,
        series=series,
        body_bytes=load.body_bytes,
        distinct_bodies=load.distinct_bodies,
    )


class _Failures(NullObserver):
    """Remembers why the first failed attempt to connect failed."""

    def __init__(self) -> None:
        self.first: Reason | None = None

    def connect_failed(self, pool: str, reason: Reason) -> None:
        if self.first is None:
            self.first = reason


def _open(pool: Pool, load: WireLoad, failures: _Failures) -> None:
    """Wait until all connections are open; the first one that fails is reported instead of being tried again."""
    pool.start()
    opened, since = 0, time.monotonic()
    while opened < load.connections:
        time_left = since + 2 * min(10.0, load.timeout_s) - time.monotonic()
        if failures.first is not None or time_left <= 0:
            option, advice = _ADVICE.get(
                failures.first or Reason.CONNECT_TIMEOUT,
                ("--url", "check that an HTTP/2 server answers on this port"),
            )
            detail = pool.stats().last_error or "no connection was made"
            if opened:
                detail = f"{opened} of {load.connections} connections were opened, then {detail}"
            raise TargetUnusable(option, detail, advice)
        pause(0.002)
        now_open = pool.stats().connections
        if now_open != opened:
            opened, since = now_open, time.monotonic()


def _warm(pool: Pool, load: WireLoad, template: HeaderTemplate) -> None:
    """One request on each connection: a new one writes a single request and waits for its answer before it fans out."""
    warm = next(_bursts(load, template, load.connections, "warm"))
    pool.submit(warm, load.timeout_s)
    ended = warm.wait(load.timeout_s + _GRACE_S)
    if not ended or warm.reasons:
        why = next(iter(warm.reasons.values()), "") if warm.reasons else f"none in {load.timeout_s:g} s"
        last = pool.stats().last_error
        raise TargetUnusable(
            "--url",
            f"the first request got no answer ({why}{', ' + last if last else ''})",
            "check that the server answers POST, and --path-prefix",
        )


class _Measurement:
    """A bounded number of bursts on their way, counted in the order in which they were submitted."""

    def __init__(self, pool: Pool, load: WireLoad, progress: Callable[[int], None] | None) -> None:
        self._pool = pool
        self._load = load
        self._progress = progress
        self._result = WireResult()
        #: With the number of the attempt, from 1.
        self._open: deque[tuple[Burst, int]] = deque()
        self._outstanding = 0
        self._answered = 0
        self._answered_at = 0.0

    def run(self, template: HeaderTemplate) -> WireResult:
        load, result = self._load, self._result
        limit = _outstanding_limit(load)
        wall, cpu = time.perf_counter(), time.process_time()
        self._answered_at = time.monotonic()
        ends_at = None if load.duration_s is None else time.monotonic() + load.duration_s
        for burst in self._prepared(template):
            self._submit(burst, 1)
            while self._outstanding > limit and result.stopped is None:
                self._finish_oldest()
            if result.stopped is not None or (ends_at is not None and time.monotonic() >= ends_at):
                break
        while self._open and result.stopped is None:
            self._finish_oldest()
        result.wall_seconds = time.perf_counter() - wall
        result.cpu_seconds = time.process_time() - cpu
        result.peak_rss_mb = peak_rss_mb()
        return result

    def _prepared(self, template: HeaderTemplate) -> Iterator[Burst]:
        """The bursts, with the CPU time that making them takes counted."""
        source = _bursts(self._load, template, self._load.requests, "measured")
        while True:
            before = time.process_time()
            burst = next(source, None)
            self._result.preparing_cpu_seconds += time.process_time() - before
            if burst is None:
                return
            yield burst

    def _submit(self, burst: Burst, attempt: int) -> None:
        self._pool.submit(burst, self._load.timeout_s)
        self._open.append((burst, attempt))
        self._outstanding += burst.count

    def _finish_oldest(self) -> None:
        burst, attempt = self._open[0]
        while not burst.wait(_LOOK_S):
            if self._hopeless():
                self._give_up()
                return
        hopeless = bool(burst.reasons) and self._hopeless()
        self._open.popleft()
        self._outstanding -= burst.count
        again: list[int] = []
        # What is not going to be sent again has to be counted.
        if burst.reasons and not hopeless and attempt < _MAX_ATTEMPTS:
            again = [index for index, code in enumerate(burst.codes) if code in _UNPROCESSED]
        self._result.add(burst, again)
        if hopeless:
            self._give_up()
            return
        if again:
            self._submit(some_of(burst, again), attempt + 1)
        done = self._result.requests
        if self._result.rss_mb_at_tenth is None and done * 10 >= self._load.requests:
            self._result.rss_mb_at_tenth = rss_mb()
        if self._progress is not None:
            self._progress(done)

    def _hopeless(self) -> bool:
        """No answer at all for longer than a request may take."""
        answered = sum(self._result.statuses.values())
        answered += sum(each.codes.count(Code.OK) + each.codes.count(Code.ANSWERED) for each, _ in self._open)
        now = time.monotonic()
        if answered != self._answered:
            self._answered, self._answered_at = answered, now
        return now - self._answered_at > self._load.timeout_s + _GRACE_S

    def _give_up(self) -> None:
        last = self._pool.stats().last_error
        self._pool.close(0.0)  # gives everything that is open its outcome
        while self._open:
            burst, _ = self._open.popleft()
            burst.wait(_GRACE_S)
            self._result.add(burst)
        self._result.stopped = f"the server answered nothing for {self._load.timeout_s + _GRACE_S:g} s{': ' + last if last else ''}"
