"""``pushq bench broadcast`` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.world import shell_environment


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pushq", "bench", "broadcast", *arguments],
        env=shell_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    ("broker", "more"),
    [("redis", ("--platforms", "apns,fcm,hms")), ("rabbitmq", ())],
    ids=["redis", "rabbitmq"],
)
def test_a_small_broadcast_with_transactional_calls_beside_it(broker: str, more: tuple[str, ...]) -> None:
    done = bench(
        "--devices", "3000", "--latency-ms", "20", "--broker", broker, "--transactional-rate", "20", "--json", *more
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["duplicated"], report["missing"]) == (0, 0)
    outcomes = report["outcomes"]
    # A transactional call may have met a dead token first: before the device's batch was sent, or before it was planned.
    assert 2910 <= report["devices"] <= 3000
    assert (outcomes["accepted"], outcomes["dead"] + outcomes["suppressed"]) == (
        2910,
        report["devices"] - 2910,
    )
    assert report["stages"]["planned"] <= report["stages"]["last_batch"] <= report["seconds"] + 0.001
    calls = report["transactional"]
    assert calls["calls"] > 0
    assert calls["refused"] == {}
    # Only who had no device but a dead one.
    assert all("device" in error for error in calls["failed"])
    assert 20 <= calls["ms"]["p50"] <= calls["ms"]["max"]
    assert {"core-1", "apns-1", "fcm-transactional-1", "postgresql", "redis", "mock"} <= report[
        "cpu_s"
    ].keys()
    assert sum(report["cpu_s"].values()) > 0
    assert report["database_growth_mb"] >= 0
    assert set(report["answers"]) == ({"apns", "fcm", "hms"} if more else {"apns", "fcm"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--workers", "apns=1"), "found no core"),
        (("--workers", "core=1,typo=2"), "found 'typo=2'"),
        (("--workers", "core=1,apns=0"), "found 'apns=0'"),
        (("--connections", "fcm=65"), "expected a count of 1 to 64"),
        (("--connections", "hms=1"), "found 'hms=1'"),
        (("--platforms", "apns,web"), "found 'apns,web'"),
        (("--setting", "BATCH=1"), "found 'BATCH=1'"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], words: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
