"""``pushq bench soak`` as a user types it, for seconds instead of an hour."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e.world import shell_environment

#: Without faults of single requests: their waits, of up to 30 s, would be most of the test.
QUICK = (
    "--devices",
    "300",
    "--every",
    "3",
    "--latency-ms",
    "20",
    "--faults",
    "0",
    "--sample",
    "1",
    "--rest",
    "1",
    "--json",
)


@pytest.mark.timeout(300)
def test_ctrl_c_ends_the_sending_and_tells_what_was_measured() -> None:
    soak = subprocess.Popen(
        [sys.executable, "-m", "pushq", "bench", "soak", "--minutes", "10", *QUICK],
        env=shell_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with soak:
        assert soak.stderr is not None
        said = ""
        for line in soak.stderr:
            said += line
            if line.startswith("sending"):
                break
        assert "sending for 10 minutes" in said
        time.sleep(3)  # something must have been sent; how much does not matter
        soak.send_signal(signal.SIGINT)
        out, err = soak.communicate(timeout=240)
    report = json.loads(out)
    assert (report["interrupted"], report["problems"], soak.returncode) == (True, [], 0), err
    assert report["calls"]["broadcasts"] >= 2
    assert report["agreement"].keys() == {"at_most_once", "at_least_once"}
    for side in report["agreement"].values():
        assert side["recipients"] >= 300
        assert side["missing"] == 0
    assert report["rows_after_cleanup"]["sends"] == 0
    after = report["at_rest"]["after"]
    assert after["open.leases"] == after["streams.in_use.apns"] == 0
    assert {
        "greenlets.apns",
        "memory_mb.postgresql",
        "sockets.fcm",
        "redis_keys.users:*:*:tokens:apns",
    } <= after.keys()
    assert report["providers"]["apns"]["answers"]["200"] > 0
