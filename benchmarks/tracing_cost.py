"""What tracing costs a delivery: nothing to speak of while it is off, and little while it is on.

Example: .venv/bin/python -m benchmarks.tracing_cost --devices 300000 --rounds 3 --json

Off: the calls that a batch of 2,500 recipients in five bursts makes into the tracing code are timed alone, and set against the CPU time
that the worker spent for a batch. On: the same worker, started with PUSHQ_TRACING=true and a collector that answers, against one
without, in turn; CPU seconds of the worker process for the same number of recipients. Exit code 1 when off costs more than 0.1 % of a
batch, or on more than 10 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any, Final

import psutil

from benchmarks.ground import Ground, ground
from pushq import tracing
from pushq.delivery.spans import RequestSpans
from pushq.demo.fleet import Fleet
from tests.e2e.collector import Collector

BATCH: Final = 2500
BURSTS: Final = 5
#: Looks at the answers of one batch; more than a batch at 80 ms latency takes.
LOOKS: Final = 20
EXPORTED_S: Final = 7.0
LIMITS: Final = {"off": 0.001, "on": 0.10}


def off_seconds(repetitions: int = 20_000) -> float:
    """Seconds that one batch spends in the tracing code while it is off."""
    assert not tracing.on()
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(repetitions):
            tracing.on()  # the task's hooks
            spans = RequestSpans("shop", "apns")
            for _ in range(BURSTS):
                spans.begin(None, "apns/shop")  # type: ignore[arg-type]
            for _ in range(LOOKS):
                spans.look()
            tracing.note(recipients=BATCH, attempt=1, retry_in=None, dead_letters=0, error=None)
            tracing.send_headers()
        best = min(best, (time.perf_counter() - started) / repetitions)
    return best


def worker_seconds(place: Ground, devices: int, *, traced: bool) -> float:
    """CPU seconds of a fresh APNs worker for one send to all devices."""
    environment = place.environment | {"PUSHQ_TRACING": "true" if traced else "false"}
    folder = place.mock.config_file.parent
    with Fleet(environment, folder, workers=("apns",), beat=False) as fleet:
        place.finished(
            place.send("--guarantee", "at_least_once"), timeout=300
        )  # everything is loaded and connected
        process = psutil.Process(fleet.pids()["apns"])
        before = sum(process.cpu_times()[:2])
        state = place.finished(place.send("--guarantee", "at_least_once"), timeout=300)
        if state.total("accepted") != devices:
            raise SystemExit(f"not everybody was reached: {state}")
        return float(sum(process.cpu_times()[:2]) - before)


def measure(devices: int, rounds: int) -> dict[str, Any]:
    figures: dict[bool, list[float]] = {False: [], True: []}
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        place = stack.enter_context(
            ground(
                mock={"latency_ms": 80.0},
                settings={"PUSHQ_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
            )
        )
        place.fleet.end("apns")
        place.add_devices("apns", devices, first=1)
        for number in range(rounds):
            for traced in (False, True) if number % 2 == 0 else (True, False):
                figures[traced].append(worker_seconds(place, devices, traced=traced))
        spans = len(collector.spans())
    batches, calls = devices / BATCH, off_seconds()
    off, on = (statistics.median(figures[traced]) for traced in (False, True))
    return {
        "devices": devices,
        "worker_cpu_s": {"off": figures[False], "on": figures[True]},
        "batch_cpu_ms": round(off / batches * 1000, 3),
        "off_us_per_batch": round(calls * 1e6, 2),
        "off_share": round(calls / (off / batches), 6),
        "on_share": round(on / off - 1, 4),
        "spans": spans,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure(options.devices, options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['batch_cpu_ms']} ms CPU a batch of {BATCH:,}; tracing off {result['off_us_per_batch']} us of it"
            f" ({result['off_share']:.4%}), on {result['on_share']:+.1%} ({result['spans']} spans received)"
        )
    return int(result["off_share"] > LIMITS["off"] or result["on_share"] > LIMITS["on"])


if __name__ == "__main__":
    sys.exit(main())
