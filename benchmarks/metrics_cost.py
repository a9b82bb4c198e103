"""What counting costs a delivery, as a share of the worker's CPU time.

Example: .venv/bin/python -m benchmarks.metrics_cost --devices 20000 --rounds 60 --json

One process delivers the same broadcast again and again, as a worker does: eight batches at a time under gevent, through real Redis and
PostgreSQL, to the APNs mock. In every pair of rounds one counts and one does not, in turn: without, all metrics are replaced by objects that do
nothing, and nobody times answers. What stays in both are two counts of bytes in each look at a chunk. Printed are the
median of the pairs' ratios of CPU time and the interval that holds it with 95 % (by ranks, so outliers do not matter), the ratio of
the fastest quarters of both (what the others on the machine disturb least), and what a scrape costs.

A busy machine moves the CPU time of the same work by more than counting costs. So the counting is timed alone as well: the CPU time within it as a share
of the worker's, in rounds of their own. Exit code 1 when that share is above 2 %, or the whole interval above 1.02.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import uuid  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import ExitStack, contextmanager  # noqa: E402
from typing import Any, Final, Self  # noqa: E402
from unittest.mock import patch  # noqa: E402

import gevent.pool  # noqa: E402
from prometheus_client import REGISTRY, generate_latest  # noqa: E402
from prometheus_client.metrics import MetricWrapperBase  # noqa: E402

from pushq import metrics  # noqa: E402
from pushq.app_settings import load_apps  # noqa: E402
from pushq.delivery.counting import Counting  # noqa: E402
from pushq.embedded import Services  # noqa: E402
from pushq.http2.connection import Connection  # noqa: E402
from pushq.http2.core import Chunk, Core  # noqa: E402
from pushq.ledger.schema import upgrade  # noqa: E402
from pushq.mock import MockProcess  # noqa: E402
from pushq.service_urls import ServiceUrl  # noqa: E402
from tests.integration.ledger_world import DEAD_PREFIX, Worker, World, open_worker, open_world  # noqa: E402

LIMIT: Final = 1.02
#: Rounds in which the counting itself is timed.
TIMED: Final = 5
CONCURRENCY: Final = 8
DEAD: Final = 0.05
#: Pairs below which there is no interval worth the name.
FEWEST: Final = 8


class _Nothing:
    """Stands for a metric, and does nothing."""

    def labels(self, *values: object) -> Self:
        return self

    def inc(self, *values: object) -> None: ...
    def set(self, *values: object) -> None: ...
    def observe(self, *values: object) -> None: ...


def _finish_chunk(core: Core, chunk: Chunk) -> None:
    """Core's own without what it keeps for the latency."""
    del core._chunks[chunk]
    chunk.burst.settle((chunk.last_id - chunk.first_id) // 2 + 1)


@contextmanager
def uncounted() -> Iterator[None]:
    """Nothing is counted within the block."""
    with ExitStack() as stack:
        for name, value in vars(metrics).items():
            if isinstance(value, MetricWrapperBase | metrics.Histogram):
                stack.enter_context(patch.object(metrics, name, _Nothing()))
        stack.enter_context(patch.object(Counting, "answers", lambda *_: None))
        stack.enter_context(patch.object(Counting, "settled", lambda *_: None))
        stack.enter_context(patch.object(Connection, "_time_answers", lambda _: None))
        stack.enter_context(patch.object(Core, "_finish_chunk", _finish_chunk))
        yield


@contextmanager
def timed() -> Iterator[list[float]]:
    """CPU seconds spent in counting within the block; nothing in there waits, so nobody else's time is in it."""
    spent = [0.0]

    def around(call: Callable[..., None]) -> Callable[..., None]:
        def run(*values: Any) -> None:
            started = time.process_time()
            call(*values)
            spent[0] += time.process_time() - started

        return run

    with ExitStack() as stack:
        for owner, name in ((Counting, "answers"), (Counting, "settled"), (Connection, "_time_answers")):
            stack.enter_context(patch.object(owner, name, around(getattr(owner, name))))
        yield spent


def deliver(world: World, worker: Worker, devices: int) -> float:
    """CPU seconds of this process for one broadcast, from the first batch to the last settlement."""
    send_id = world.send(audience={"segments": ["all"]}, guarantee="at_least_once")
    gc.collect()
    started = time.process_time()
    pool = gevent.pool.Pool(CONCURRENCY)
    while batches := world.queued(send_id):
        pool.map(lambda batch_no, send_id=send_id: worker.run(send_id, batch_no), batches)
    spent = time.process_time() - started
    _check(world, send_id, devices)
    return spent


def _check(world: World, send_id: uuid.UUID, devices: int) -> None:
    totals = world.totals(send_id)
    if totals.get("accepted", 0) + totals.get("dead", 0) != devices:
        raise SystemExit(f"not everybody was reached: {totals}")


def measure(devices: int, rounds: int, seconds: float) -> dict[str, Any]:
    dead = int(devices * DEAD)
    with ExitStack() as stack:
        services = stack.enter_context(Services())
        upgrade(ServiceUrl(services.database_url))
        mock = stack.enter_context(MockProcess(services.folder / "mock", latency_ms=40.0))
        app = load_apps(mock.config_file)["shop"]
        world = stack.enter_context(open_world(services.database_url, app, release_window=10_000))
        world.add_devices("apns", devices - dead)
        world.add_devices("apns", dead, first=devices + 1, prefix=DEAD_PREFIX)
        worker = stack.enter_context(open_worker(world, services.redis_url))
        for _ in range(2):  # everything is loaded, connected and cached
            deliver(world, worker, devices)
        ratios, counted, plain = [], [], []
        until = time.monotonic() + seconds
        for number in range(rounds):
            if number >= FEWEST and time.monotonic() > until:
                break
            if number % 2:
                with uncounted():
                    without = deliver(world, worker, devices)
                with_ = deliver(world, worker, devices)
            else:
                with_ = deliver(world, worker, devices)
                with uncounted():
                    without = deliver(world, worker, devices)
            ratios.append(with_ / without)
            counted.append(with_)
            plain.append(without)
        shares = []
        for _ in range(TIMED):
            with timed() as spent:
                total = deliver(world, worker, devices)
            shares.append(spent[0] / total)
        started = time.process_time()
        for _ in range(50):
            size = len(generate_latest(REGISTRY))
        scrape = (time.process_time() - started) / 50
    low, high = interval(sorted(ratios))
    return {
        "devices": devices,
        "rounds": len(ratios),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_of_fastest": round(_fastest(counted) / _fastest(plain), 4),
        "interval": [round(low, 4), round(high, 4)],
        "share": round(statistics.median(shares), 5),
        "us_per_recipient": {
            "counted": round(statistics.median(counted) / devices * 1e6, 2),
            "not": round(statistics.median(plain) / devices * 1e6, 2),
        },
        "scrape_ms": round(scrape * 1000, 2),
        "scrape_bytes": size,
    }


def _fastest(figures: list[float]) -> float:
    """The mean of the lowest quarter."""
    return statistics.fmean(sorted(figures)[: max(len(figures) // 4, 1)])


def interval(ordered: list[float]) -> tuple[float, float]:
    """Between these the median lies with 95 %: ranks of the sign test (normal approximation)."""
    count = len(ordered)
    away = 0.98 * math.sqrt(count)
    low, high = math.floor((count - 1) / 2 - away), math.ceil((count - 1) / 2 + away)
    return ordered[max(low, 0)], ordered[min(high, count - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=60, help="pairs, at most")
    parser.add_argument("--seconds", type=float, default=400.0, help="no pair begins later than this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = measure(options.devices, options.rounds, options.seconds)
    if options.json:
        print(json.dumps(found))
    else:
        low, high = found["interval"]
        print(
            f"{found['us_per_recipient']['counted']} us CPU a recipient, without metrics {found['us_per_recipient']['not']};"
            f" ratio {found['ratio']} (95 %: {low} to {high}), of the fastest {found['ratio_of_fastest']};"
            f" timed alone {found['share']:.2%}; a scrape {found['scrape_ms']} ms"
        )
    return int(found["interval"][0] > LIMIT or found["share"] > LIMIT - 1)


if __name__ == "__main__":
    sys.exit(main())
