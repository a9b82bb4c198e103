"""A provider that stalls while requests wait: every one ends, none hangs, none is sent twice. benchmarks/stall.py is the large one."""

from __future__ import annotations

import threading
import time
from collections import Counter

import gevent
import pytest

from pushq.http2 import Burst, Code, Pool
from tests.integration.h2_server import Authority, H2Server, Request
from tests.integration.pool_world import PATIENT, TEMPLATE, Pools, burst_of, number_of, send, tally

STALL_S = 2.0
REQUESTS, BURST, QUEUE = 2000, 100, 600


def deliver(pool: Pool, targets: list[bytes], ended: Counter[Code], queued: list[int]) -> None:
    """What surely was not sent is submitted again, as workers do it later."""
    while targets:
        burst = Burst(TEMPLATE, len(targets), targets=targets, bodies=b"{}")
        pool.submit(burst, PATIENT)
        queued.append(pool.stats().queued)
        assert burst.wait(PATIENT), (burst, pool.stats())
        again = []
        for target, octet in zip(targets, burst.codes, strict=True):
            code = Code(octet)
            if code in (Code.NOT_SENT, Code.REFUSED):
                again.append(target)
            else:
                ended[code] += 1
        targets = again


@pytest.mark.parametrize("kind", ["reads nothing", "answers nothing"])
def test_a_provider_that_stalls(
    kind: str, authority: Authority, pools: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    stall = threading.Event()
    resume = threading.Event()

    def behave(request: Request) -> None:
        if stall.is_set() and number_of(request) > 10:
            if kind == "reads nothing":
                resume.wait(PATIENT)
            elif not resume.is_set():
                return
        request.answer()

    with H2Server(authority, behave) as server:
        pool = pools(
            server.origin,
            min_connections=2,
            max_connections=2,
            queue_limit=QUEUE,
            request_timeout_s=0.5,
            write_timeout_s=0.5,
            queue_timeout_s=0.4,
            connect_timeout_s=0.5,
            ping_after_s=0.2,
            ping_timeout_s=0.3,
            backoff_max_s=0.2,
        )
        assert tally(send(pool, burst_of(10))) == {Code.OK: 10}
        stall.set()
        ended: Counter[Code] = Counter()
        queued: list[int] = []
        targets = [b"%064x" % number for number in range(1000, 1000 + REQUESTS)]
        jobs = [
            gevent.spawn(deliver, pool, targets[start : start + BURST], ended, queued)
            for start in range(0, REQUESTS, BURST)
        ]
        started = time.monotonic()
        gevent.sleep(STALL_S)
        assert pool.stats().lost > 0, "the stall was noticed while it lasted"
        resume.set()
        gevent.joinall(jobs, timeout=PATIENT, raise_error=True)
        assert time.monotonic() - started >= STALL_S
        assert all(job.successful() for job in jobs), pool.stats()
        assert set(ended) == {Code.OK, Code.UNKNOWN}
        assert sum(ended.values()) == REQUESTS
        assert max(queued) <= QUEUE
        seen = Counter(server.tokens())
        assert max(seen.values()) == 1, "what may have been processed was not sent again"
        assert ended[Code.OK] <= len(seen)
        assert tally(send(pool, burst_of(10, start=20))) == {Code.OK: 10}
    assert not [record for record in caplog.records if "fault" in record.getMessage()]
