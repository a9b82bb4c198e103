"""What becomes of requests and memory when a provider stalls while they wait, and when it comes back.

    python -m benchmarks.stall                                   # both kinds, 60 s, 50,000 requests
    python -m benchmarks.stall --kind deaf --seconds 5 --requests 10000

``deaf``: the provider's process is stopped (SIGSTOP). The kernel takes what fits into its buffers, nothing is read, and a new connection
finds a listener that says nothing. ``mute``: it reads everything, acknowledges it, echoes PINGs, and answers nothing.

Greenlets submit bursts as the workers do. What surely was not sent is submitted again, what may have been processed is not. Every
request must end, as accepted or as unknown; the exit code is 1 if one does not, or if a token was accepted twice.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import gevent
import jwt

from benchmarks.pool_load import Server, source
from pushq.bench.memory import peak_rss_mb, rss_mb
from pushq.http2 import Burst, Code, Origin, Pool, PoolSaturated, PoolSettings
from pushq.mock.process import MockProcess

BURST: Final = 2500
SAMPLE_S: Final = 0.1
#: After so many seconds beyond the stall nothing can be waiting any more: queue, request and connect time-outs are 30 s at most.
PATIENCE_S: Final = 180.0
#: The first half of a minute of a stalled provider is also the time in which a fleet's other requests would pile up.
STALL_FAULT: Final = {"platform": "apns", "every": 1, "stall": True}


@dataclass
class Tally:
    """What became of the requests, and how long after the beginning the last of them ended."""

    ended: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def begin(mock: MockProcess, kind: str) -> None:
    if kind == "deaf":
        os.kill(mock.pid, signal.SIGSTOP)
    else:
        mock.set_faults([STALL_FAULT])


def end(mock: MockProcess, kind: str) -> None:
    if kind == "deaf":
        os.kill(mock.pid, signal.SIGCONT)
    else:
        mock.set_faults([])


@contextmanager
def provider(latency_ms: float) -> Iterator[tuple[MockProcess, Server]]:
    with MockProcess(engine="fast", latency_ms=latency_ms) as mock:
        apns = mock.ready["apns"]
        token = jwt.encode(
            {"iss": apns["team_id"], "iat": int(time.time())},
            Path(apns["key_file"]).read_text(encoding="ascii"),
            algorithm="ES256",
            headers={"kid": apns["key_id"]},
        )
        try:
            yield (
                mock,
                Server(apns["url"], Path(mock.ready["ca_file"]), f"bearer {token}".encode(), [mock.pid]),
            )
        finally:
            os.kill(mock.pid, signal.SIGCONT)  # a stopped process does not hear that it should end


def send(pool: Pool, server: Server, topic: str, numbers: range, tally: Tally, started: float) -> None:
    """One batch: again and again until each of its requests is accepted or unknown."""
    made_of = source(server, topic, distinct=1 << 40, body_per_request=False)
    whole = made_of.burst(numbers.start, len(numbers))
    left = list(range(len(numbers)))
    while left:
        assert whole.targets is not None
        assert whole.values is not None
        burst = Burst(
            made_of.template,
            len(left),
            targets=[whole.targets[index] for index in left],
            bodies=made_of.bodies,
            values=[whole.values[index] for index in left],
        )
        try:
            pool.submit(burst, 30.0)
        except PoolSaturated:
            tally.attempts["no room in the queue"] += len(left)
            continue
        if not burst.wait(PATIENCE_S):
            tally.ended["HANGS"] += len(left)
            return
        again: list[int] = []
        for position, index in enumerate(left):
            code = Code(burst.codes[position])
            if code in (Code.NOT_SENT, Code.REFUSED):
                tally.attempts[f"{code.name}, {burst.reasons[position]}"] += 1
                again.append(index)
            elif code is Code.UNKNOWN:
                tally.ended[f"UNKNOWN, {burst.reasons[position]}"] += 1
            else:
                tally.ended[code.name] += 1
        left = again
        tally.seconds = time.monotonic() - started


def run(kind: str, arguments: argparse.Namespace) -> bool:
    """True if every request ended, and none was accepted twice."""
    with provider(arguments.latency_ms) as (mock, server):
        topic = mock.ready["apns"]["topic"]
        parts = urlsplit(server.url)
        settings = PoolSettings(
            min_connections=arguments.connections,
            max_connections=arguments.connections,
            request_timeout_s=arguments.request_timeout,
        )
        pool = Pool("stall", Origin(parts.hostname or "", parts.port or 443, server.ca_file), settings)
        warm = Tally()
        for first in range(0, 50_000, BURST):
            send(pool, server, topic, range(10**9 + first, 10**9 + first + BURST), warm, time.monotonic())
        before, peak = rss_mb() or 0.0, 0.0
        tally = Tally()
        begin(mock, kind)
        started = time.monotonic()
        jobs = [
            gevent.spawn(
                send,
                pool,
                server,
                topic,
                range(first, min(first + BURST, arguments.requests)),
                tally,
                started,
            )
            for first in range(0, arguments.requests, BURST)
        ]
        stalled, queued, deadline = True, 0, arguments.seconds + PATIENCE_S
        while any(not job.ready() for job in jobs) and time.monotonic() - started < deadline:
            gevent.sleep(SAMPLE_S)
            peak = max(peak, rss_mb() or 0.0)
            queued = max(queued, pool.stats().queued)
            if stalled and time.monotonic() - started >= arguments.seconds:
                end(mock, kind)
                stalled = False
        gevent.joinall(jobs, timeout=0)
        failures = [job.exception for job in jobs if job.exception is not None]
        if stalled:
            gevent.sleep(max(0.0, arguments.seconds - (time.monotonic() - started)))
            end(mock, kind)
        stats = pool.stats()
        after = Tally()
        recovered = time.monotonic()
        send(pool, server, topic, range(2 * 10**9, 2 * 10**9 + 10_000), after, recovered)
        accepted = mock.accepted("apns")
        pool.close(5)
    twice = sum(count > 1 for count in accepted.values())
    ended = sum(tally.ended.values())
    print(
        f"\n{kind}: {arguments.requests:,} requests, {arguments.seconds:g} s, {arguments.connections} connections"
    )
    for name, count in tally.ended.most_common():
        print(f"  ended {count:>9,}  {name}")
    for name, count in tally.attempts.most_common():
        print(f"  again {count:>9,}  {name}")
    print(
        f"  all had ended after {tally.seconds:.1f} s, {tally.seconds - arguments.seconds:.1f} s after the stall"
    )
    print(f"  10,000 more took {after.seconds:.2f} s: {dict(after.ended)}")
    print(
        f"  resident before {before:.1f} MiB, during {peak:.1f} MiB at most (process peak {peak_rss_mb():.1f} MiB)"
    )
    print(
        f"  most in the queue {queued:,}; attempts to connect that failed {stats.failed}, connections lost {stats.lost}"
    )
    print(f"  tokens accepted twice: {twice}")
    for failure in failures:
        print(f"  FAILED: {failure!r}")
    return not failures and not twice and ended == arguments.requests and "HANGS" not in tally.ended


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("deaf", "mute"), action="append", help="default: both")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the stall")
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--latency-ms", type=float, default=80.0)
    parser.add_argument("--request-timeout", type=float, default=30.0)
    arguments = parser.parse_args(argv)
    good = [run(kind, arguments) for kind in arguments.kind or ("deaf", "mute")]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
