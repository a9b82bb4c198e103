"""The demo: one command, one JSON object, and nothing left behind however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from pushq.embedded.server import free_port
from tests.e2e.console_browser import browser, console
from tests.e2e.world import shell_environment

KEYS = [
    "send_id",
    "devices",
    "accepted",
    "dead",
    "rejected",
    "exhausted",
    "unknown",
    "pending",
    "seconds",
    "per_second",
    "provider_accepted",
    "provider_duplicates",
    "provider_missing",
    "tokens_deactivated",
]


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """``pushq demo`` with a temporary folder of its own, so that what it leaves can be seen."""
    return subprocess.Popen(
        [sys.executable, "-m", "pushq", "demo", *arguments],
        # As root the servers run as another user, who must be able to reach the folder.
        env=shell_environment() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's: another run of pytest closes the folder of all runs again, and the servers of root's demo are another user.
    with tempfile.TemporaryDirectory(prefix="pushq-demo-") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


def left_behind(folder: Path) -> tuple[list[Path], list[psutil.Process]]:
    """Sandboxes and processes that belong to the folder."""
    processes = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in argument for argument in process.cmdline()):
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return list(folder.glob("pushq-*/sandbox-*")), processes


@pytest.mark.parametrize("dead_ratio", ["0.03", "0"])
def test_the_demo_reports_what_the_providers_counted(folder: Path, dead_ratio: str) -> None:
    process = start(folder, "--devices", "2000", "--dead-ratio", dead_ratio, "--latency-ms", "10", "--json")
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    report = json.loads(out.splitlines()[-1])
    assert list(report) == KEYS
    dead = int(2000 * float(dead_ratio))
    assert (report["devices"], report["accepted"], report["dead"]) == (2000, 2000 - dead, dead)
    assert report["provider_accepted"]["apns"] + report["provider_accepted"]["fcm"] == 2000 - dead
    assert (report["provider_duplicates"], report["provider_missing"]) == (0, 0)
    assert report["tokens_deactivated"] == dead
    assert left_behind(folder) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demo_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    """Ctrl-C, a kill, and a kill -9, after which the guardian and the workers' own watch clean up."""
    process = start(folder, "--devices", "1000000")
    try:
        deadline = time.monotonic() + 60
        while not any(folder.glob("pushq-*/sandbox-*/pushq/devices.csv")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the demo has not come to its devices"
            time.sleep(0.1)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        if number is signal.SIGINT:
            assert errors.strip().endswith("interrupted")
        deadline = time.monotonic() + 30
        while left_behind(folder) != ([], []):
            assert time.monotonic() < deadline, left_behind(folder)
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_a_newcomer_sends_a_first_broadcast_from_the_demo_that_stays(folder: Path) -> None:
    """With nothing but the link that is printed, and the words on the pages."""
    process = start(
        folder, "--keep", "--devices", "300", "--latency-ms", "10", "--port", str(free_port()), "--json"
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C" in line:
                break
        link = re.search(r"(http://\S+)/login/link/\S+", "".join(said))
        assert link is not None, "".join(said)
        with browser() as opened, console(opened, link[1]) as shown:
            page = shown.page
            page.goto(link[0])
            page.get_by_role("link", name="New message").click()
            page.get_by_label("Title").fill("My first")
            page.get_by_role("button", name="Review").click()
            # The dead ones of the demo's own broadcast are out of use.
            page.get_by_role("button", name="Send to 291 devices").click()
            expect(page.locator(".lead .badge")).to_have_text("Done")
            expect(page.get_by_role("progressbar")).to_contain_text("291 of 291 settled")
            # The link has been used up.
            page.context.clear_cookies()
            assert page.goto(link[0]).status == 401  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert json.loads(out)["accepted"] == 291
        assert left_behind(folder) == ([], [])
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
