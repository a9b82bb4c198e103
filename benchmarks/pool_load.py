"""How much one process can send through a pool, what that costs on both sides, and whether its memory stays flat.

Examples, each against a mock provider in another process, over TLS:

    python -m benchmarks.pool_load --connections 4 --latency-ms 80 --requests 1000000
    python -m benchmarks.pool_load --connections 20 --latency-ms 80 --requests 2000000
    python -m benchmarks.pool_load --connections 4 --latency-ms 0 --requests 10000000

The sender uses the workers' classes in the workers' way: bursts of one header template, a token and an ``apns-id`` per request, one
outcome per request, and a bounded number of bursts at a time. Tokens are made burst by burst and repeat after ``--distinct``,
because the mock remembers every token it has seen (200 bytes each). What making them costs is measured and printed apart.

``--server bare`` is the server of ``benchmarks/fast_lane.py``: it decodes nothing and has no latency, so that it can be outrun by no
client. It is also what ``--bodies distinct`` needs, as the mock reads every body that it has not seen.

The exit code is 1 when a request was not answered 200.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import gevent
import jwt

from benchmarks import fast_lane
from pushq.http2 import Burst, Code, HeaderTemplate, Origin, Pool, PoolSettings
from pushq.mock.process import MockProcess
from pushq.notification import Notification
from pushq.providers.apns import request

SAMPLE_S: Final = 1.0
SUBMIT_TIMEOUT_S: Final = 120.0
PAGE: Final = resource.getpagesize()
#: CPU seconds per tick in /proc/PID/stat.
TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
MIB: Final = 1 << 20
#: 64 hexadecimal digits; odd, so that multiplying by it modulo 2**256 gives every number another token.
SCATTER: Final = 0x9E3779B97F4A7C15F39CC0605CEDC8341082276BF3A27251F86C6A11D0C18E95
TOKEN_SPACE: Final = 1 << 256
BODIES: Final = 1000
NOTIFICATION: Final = Notification(
    title="Sale",
    body="20% off until midnight",
    sound="default",
    data={"campaign": "c-42", "link": "https://shop.example.com/sale/42"},
)


class RunFailed(Exception):
    """Requests did not end as they must."""


@dataclass(frozen=True)
class Server:
    """What is sent to. ``pids``: the processes whose CPU time is the server's; empty when they are not known."""

    url: str
    ca_file: Path
    authorization: bytes
    pids: Sequence[int] = ()


@dataclass
class Result:
    """``*_cpu_us`` are microseconds of CPU per request; ``making`` is the tokens and ids, and is not in ``sender``."""

    requests: int
    ok: int
    wall_seconds: float
    per_second: float
    sender_cpu_us: float
    making_cpu_us: float
    server_cpu_us: float
    connections: int
    streams: int
    peak_rss_mb: float
    rss_after_first_million_mb: float | None = None
    rss_maximum_after_that_mb: float | None = None
    rss_mb: list[tuple[float, int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """Makes bursts, one at a time."""

    template: HeaderTemplate
    bodies: bytes | Sequence[bytes]
    distinct: int

    def burst(self, start: int, count: int) -> Burst:
        numbers = range(start, start + count)
        tokens = [b"%064x" % ((n % self.distinct + 1) * SCATTER % TOKEN_SPACE) for n in numbers]
        ids = [(b"00000000-0000-4000-8000-%012x" % n,) for n in numbers]
        bodies = self.bodies
        if not isinstance(bodies, bytes):
            bodies = [bodies[n % BODIES] for n in numbers]
        return Burst(self.template, count, targets=tokens, bodies=bodies, values=ids)


def source(server: Server, topic: str, *, distinct: int, body_per_request: bool) -> Source:
    """Requests as the APNs client makes them."""
    headers = request.headers(
        NOTIFICATION, topic=topic, authorization=server.authorization, expires_at=0, collapse_id=None
    )
    template = HeaderTemplate(
        request.PATH_PREFIX, headers, varying=(b"apns-id",), unindexed=request.UNINDEXED
    )
    body = request.payload(NOTIFICATION)
    if not body_per_request:
        return Source(template, body, distinct)
    return Source(template, [body[:-1] + b',"user":%d}' % n for n in range(BODIES)], distinct)


def drive(pool: Pool, bursts: Iterator[Burst], outstanding: int, progress: list[int]) -> int:
    """Keep ``outstanding`` bursts with the pool until there are no more; how many requests were answered 200.

    ``progress[0]`` counts requests that ended.

    Raises:
        RunFailed: some did not end, with the pool's state.
    """
    running: deque[Burst] = deque()
    ok = 0
    for burst in bursts:
        pool.submit(burst, SUBMIT_TIMEOUT_S)
        running.append(burst)
        while len(running) >= outstanding or (running and running[0].done):
            ok += _outcome(pool, running.popleft(), progress)
    while running:
        ok += _outcome(pool, running.popleft(), progress)
    return ok


def _outcome(pool: Pool, burst: Burst, progress: list[int]) -> int:
    if not burst.wait(SUBMIT_TIMEOUT_S):
        raise RunFailed(f"{burst} did not end in {SUBMIT_TIMEOUT_S:g} s: {pool.stats()}")
    progress[0] += burst.count
    return burst.codes.count(Code.OK)


def run(server: Server, made_of: Source, arguments: argparse.Namespace) -> Result:
    parts = urlsplit(server.url)
    capacity = arguments.connections * arguments.streams
    settings = PoolSettings(
        min_connections=arguments.connections,
        max_connections=arguments.connections,
        max_streams=arguments.streams,
        stream_ceiling=arguments.stream_ceiling,
        open_spacing_s=0.01,
        queue_limit=2 * capacity,
        queue_timeout_s=SUBMIT_TIMEOUT_S,
    )
    size = arguments.burst
    pool = Pool("benchmark", Origin(parts.hostname or "", parts.port or 443, server.ca_file), settings)
    progress = [0]
    samples: list[tuple[float, int, float]] = []
    making = 0.0
    sampler: gevent.Greenlet | None = None

    def bursts() -> Iterator[Burst]:
        nonlocal making
        for start in range(0, arguments.requests, size):
            before = time.process_time()
            burst = made_of.burst(start, min(size, arguments.requests - start))
            making += time.process_time() - before
            yield burst

    pool.start()
    try:
        _open_all(pool, made_of, arguments.connections)
        started = time.perf_counter()

        def sample() -> None:
            while True:
                samples.append((round(time.perf_counter() - started, 1), progress[0], _rss_mb()))
                gevent.sleep(SAMPLE_S)

        sampler = gevent.spawn(sample)
        cpu, server_cpu = time.process_time(), _cpu_seconds(server.pids)
        # All streams busy, and as much again in the queue.
        ok = drive(pool, bursts(), 2 * capacity // size + 2, progress)
        wall = time.perf_counter() - started
        cpu, server_cpu = time.process_time() - cpu - making, _cpu_seconds(server.pids) - server_cpu
    finally:
        if sampler is not None:
            sampler.kill()
        pool.close(5)
    count = arguments.requests
    samples.append((round(wall, 1), progress[0], _rss_mb()))
    result = Result(
        requests=count,
        ok=ok,
        wall_seconds=round(wall, 2),
        per_second=round(count / wall),
        sender_cpu_us=round(1e6 * cpu / count, 2),
        making_cpu_us=round(1e6 * making / count, 2),
        server_cpu_us=round(1e6 * server_cpu / count, 2),
        connections=arguments.connections,
        streams=arguments.streams,
        peak_rss_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB, 1),
        rss_mb=samples,
    )
    later = [rss for _, done, rss in samples if done >= 1_000_000]
    if len(later) > 1:
        result.rss_after_first_million_mb, result.rss_maximum_after_that_mb = later[0], max(later[1:])
    return result


def _open_all(pool: Pool, made_of: Source, connections: int) -> None:
    """Until every connection has answered its first request, which it writes alone."""
    deadline = time.monotonic() + SUBMIT_TIMEOUT_S
    while pool.stats().connections < connections:
        if time.monotonic() > deadline:
            raise RunFailed(f"not all connections are open: {pool.stats()}")
        gevent.sleep(0.01)
    warm = made_of.burst(0, 20 * connections)
    pool.submit(warm, SUBMIT_TIMEOUT_S)
    if not warm.wait(SUBMIT_TIMEOUT_S) or warm.codes.count(Code.OK) != warm.count:
        raise RunFailed(f"the first requests ended as {warm} {dict(warm.answers)}: {pool.stats()}")


def _rss_mb() -> float:
    with Path("/proc/self/statm").open() as file:
        return round(int(file.read().split()[1]) * PAGE / MIB, 1)


def _cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time so far of these processes and their descendants."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * TICK + _cpu_seconds(_children(pid))
    return total


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def mock_server(arguments: argparse.Namespace, topic: str) -> Iterator[Server]:
    with MockProcess(
        engine="fast", latency_ms=arguments.latency_ms, apns_streams=arguments.streams
    ) as process:
        apns: Mapping[str, Any] = process.ready["apns"]
        token = jwt.encode(
            {"iss": apns["team_id"], "iat": int(time.time())},
            Path(apns["key_file"]).read_text(encoding="ascii"),
            algorithm="ES256",
            headers={"kid": apns["key_id"]},
        )
        if apns["topic"] != topic:
            raise RunFailed(f"the mock's topic is {apns['topic']}; expected {topic}")
        yield Server(apns["url"], Path(process.ready["ca_file"]), f"bearer {token}".encode(), [process.pid])


@contextlib.contextmanager
def bare_server(folder: Path) -> Iterator[Server]:
    with fast_lane.own_server(folder) as (url, certificate):
        yield Server(url, certificate, fast_lane.AUTHORIZATION.encode(), _children(os.getpid()))


@contextlib.contextmanager
def chosen_server(arguments: argparse.Namespace, topic: str) -> Iterator[Server]:
    if arguments.server == "mock":
        with mock_server(arguments, topic) as server:
            yield server
    elif arguments.server == "bare":
        with tempfile.TemporaryDirectory() as folder, bare_server(Path(folder)) as server:
            yield server
    else:
        yield Server(arguments.server, arguments.ca_file, fast_lane.AUTHORIZATION.encode())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=1000, help="per connection")
    parser.add_argument(
        "--stream-ceiling",
        type=float,
        default=PoolSettings().stream_ceiling,
        help="share of the streams that is used; the default is the workers', 1 is safe where the server never lowers its limit",
    )
    parser.add_argument("--latency-ms", type=float, default=80.0, help="of the mock")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--burst", type=int, default=1000, help="requests per burst")
    parser.add_argument("--distinct", type=int, default=1_000_000, help="tokens before they repeat")
    parser.add_argument("--bodies", choices=("shared", "distinct"), default="shared")
    parser.add_argument(
        "--server", default="mock", help="mock, bare, or the URL of a server that answers 200"
    )
    parser.add_argument("--ca-file", type=Path, help="what the certificate of a URL is verified with")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.bodies == "distinct" and arguments.server == "mock":
        parser.error("--bodies distinct needs --server bare or a URL")
    if arguments.server not in ("mock", "bare") and arguments.ca_file is None:
        parser.error("--server URL needs --ca-file")
    for name in ("connections", "streams", "requests", "burst", "distinct"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}; expected 1 or more")
    return arguments


def show(result: Result) -> None:
    print(f"{result.requests:,} requests, {result.ok:,} answered 200, {result.wall_seconds} s")
    print(
        f"{result.per_second:,} requests/s over {result.connections} connections of {result.streams} streams"
    )
    print(
        f"CPU per request: sender {result.sender_cpu_us} us, making tokens and ids {result.making_cpu_us} us, "
        f"server {result.server_cpu_us} us"
    )
    print(f"peak RSS {result.peak_rss_mb} MB")
    if result.rss_maximum_after_that_mb is not None:
        print(
            f"RSS after the first million {result.rss_after_first_million_mb} MB, "
            f"at most {result.rss_maximum_after_that_mb} MB from then on"
        )


def main() -> None:
    arguments = parse()
    topic = "com.example.shop"
    with chosen_server(arguments, topic) as server:
        made_of = source(
            server, topic, distinct=arguments.distinct, body_per_request=arguments.bodies == "distinct"
        )
        result = run(server, made_of, arguments)
    if arguments.json:
        print(json.dumps(asdict(result)))
    else:
        show(result)
    if result.ok != result.requests:
        sys.exit(1)


if __name__ == "__main__":
    main()
