"""Figures of a measured broadcast: quantiles, the line over time, and what a report may not say."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.cli.bench_broadcast import sparkline
from pushq.loadtest.broadcast import crew, problems
from pushq.loadtest.broker import BrokerWatch
from pushq.loadtest.processes import Usage, Watch
from pushq.loadtest.quantiles import ENDS, histogram, quantile, summary


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1))
def test_a_quantile_occurred_and_covers_its_share(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-9
    assert sum(value < found for value in ordered) < max(1.0, share * len(ordered))


def test_a_summary_names_its_quantiles() -> None:
    assert summary([float(n) for n in range(1000, 0, -1)]) == {
        "p50": 500,
        "p95": 950,
        "p99": 990,
        "p99.9": 999,
        "max": 1000,
    }
    assert summary([]) == {}


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_a_histogram_has_every_value_in_its_bin(values: list[float]) -> None:
    found = dict(histogram(values))
    assert sum(found.values()) == len(values)
    for low, end in itertools.pairwise((-1.0, *ENDS[:-1])):
        assert found.get(end, 0) == sum(low < value <= end for value in values)


def test_a_line_over_time_shows_rates_not_sums() -> None:
    assert sparkline([(0, 0), (1, 100), (2, 150), (3, 150)]) == "█▄   at most 100/s"
    assert sparkline([]) == ""
    assert sparkline([(0, 5), (1, 5)]) == ""


@pytest.mark.parametrize(("platforms", "transactional"), [(("apns",), False), (("apns", "fcm"), True)])
def test_a_crew_has_one_of_each_kind(platforms: tuple[str, ...], transactional: bool) -> None:
    kinds = {"core", *platforms}
    kinds |= {f"{kind}-transactional" for kind in kinds} if transactional else set()
    assert crew(platforms, transactional=transactional) == dict.fromkeys(kinds, 1)


def test_a_report_complains_of_what_must_not_be() -> None:
    looks: dict[str, object] = {"answered": 9, "failed": {"TimeoutError": 1}}
    clean = {"duplicated": 0, "missing": 0, "outcomes": {"pending": 0}, "transactional": {"open": 0}}
    assert problems(clean | {"broker_looks": looks}) == []
    dirty = {"duplicated": 1, "missing": 2, "outcomes": {"pending": 3}, "transactional": {"open": 4}}
    assert problems(dirty | {"broker_looks": looks | {"answered": 0}}) == [
        "duplicated: 1, not 0",
        "missing: 2, not 0",
        "nobody knows what the broker held: {'TimeoutError': 1}",
        "3 recipients pending",
        "4 transactional sends without an end 60 s after the broadcast's",
    ]


def test_a_watch_counts_a_process_with_its_children() -> None:
    busy = (
        "import time\nx = bytearray(50 << 20)\nwhile time.process_time() < 0.2: sum(range(10_000))\ninput()"
    )
    code = f"import subprocess, sys; child = subprocess.run([sys.executable, '-c', {busy!r}]); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as parent:
        watch = Watch({"both": parent.pid})
        usage = watch.usage()["both"]
        try:
            if not Path("/proc/self/stat").exists():
                assert usage == Usage(None, None)
                return
            deadline = time.monotonic() + 60
            while usage.cpu_s is None or usage.cpu_s < 0.05 or usage.peak_mb is None or usage.peak_mb < 50:
                assert parent.poll() is None
                assert time.monotonic() < deadline, usage
                watch.look()
                usage = watch.usage()["both"]
            # The child alone has the 50 MB.
            assert usage.largest_mb is not None
            assert usage.largest_mb > 50
            assert usage.growth_mb is not None
        finally:
            assert parent.stdin is not None
            parent.stdin.write(b"\n\n")
            parent.stdin.close()


def test_a_broker_that_does_not_answer_is_counted_and_asked_again() -> None:
    answers: list[float | Exception] = [1.0, ConnectionError("gone"), 3.0, 2.0]
    done = threading.Event()

    def megabytes() -> float:
        if not answers:
            done.set()
            return 0.0
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with BrokerWatch(megabytes, every_s=0.001) as watch:
        assert done.wait(60)
    assert (watch.peak_mb, watch.failed) == (3.0, {"ConnectionError": 1})
    assert watch.looks >= 4


def test_an_error_of_the_watch_itself_is_heard_of() -> None:
    asked = threading.Event()

    def megabytes() -> float:
        asked.set()
        raise KeyError("message_bytes")

    watch = BrokerWatch(megabytes, every_s=0.001)
    with pytest.raises(KeyError, match="message_bytes"), watch:
        assert asked.wait(60)
    assert (watch.peak_mb, watch.looks) == (None, 0)
