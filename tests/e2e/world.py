"""A whole pushq for one test: servers from the fixtures, a mock provider, workers as processes, and our own commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pushq.database import Database
from pushq.demo.devices import DEFAULT_PLATFORMS, Device, generate, write_csv
from pushq.demo.fleet import WORKERS, Fleet
from pushq.ledger.progress import Progress, progress, waiting_dead_letters
from pushq.ledger.sends import UnknownSend
from pushq.mock import MockProcess
from pushq.platforms import PLATFORMS
from pushq.service_urls import ServiceUrl

COMMAND_TIMEOUT_S = 90.0
SEND_TIMEOUT_S = 60.0


@dataclass
class World:
    """One test's pushq. ``environment`` is what a user would have exported."""

    environment: dict[str, str]
    folder: Path
    mock: MockProcess
    database: Database
    fleet: Fleet | None = None
    devices: list[Device] = field(default_factory=list)

    def run(
        self, *arguments: str, check: bool = True, timeout: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run ``pushq ARGUMENTS`` as a user would."""
        done = subprocess.run(
            [sys.executable, "-m", "pushq", *arguments],
            env=shell_environment() | self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"pushq {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def python(self, code: str, timeout: float = COMMAND_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a piece of an application that uses pushq."""
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=shell_environment() | self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def import_devices(
        self,
        count: int,
        dead_ratio: float = 0.03,
        *,
        app: str = "shop",
        platforms: Sequence[str] = DEFAULT_PLATFORMS,
    ) -> list[Device]:
        self.devices = list(generate(count, dead_ratio, platforms=platforms))
        path = self.folder / "devices.csv"
        with path.open("w", encoding="utf-8") as file:
            write_csv(file, iter(self.devices), app=app, now=datetime.now(UTC))
        report = json.loads(self.run("tokens", "import", str(path), "--json").stdout.splitlines()[-1])
        assert (report["records"], report["rejected"]) == (count, 0)
        return self.devices

    def send(self, *arguments: str) -> uuid.UUID:
        out = self.run("send", "--app", "shop", "--title", "Sale", "--json", *arguments).stdout
        return uuid.UUID(json.loads(out.splitlines()[-1])["send_id"])

    def progress(self, send_id: uuid.UUID) -> Progress | None:
        try:
            return progress(self.database, send_id)
        except UnknownSend:
            return None

    def until(
        self, send_id: uuid.UUID, reached: Callable[[Progress], bool], timeout: float = SEND_TIMEOUT_S
    ) -> Progress:
        """Wait until the send is in a state; fails with where it stands and what the workers logged."""
        deadline = time.monotonic() + timeout
        state = self.progress(send_id)
        while state is None or not reached(state):
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {n}\n{self.fleet.log_tail(n)}" for n in WORKERS) if self.fleet else ""
                raise AssertionError(f"not reached within {timeout:g} s: {state}\n{logs}")
            time.sleep(0.1)
            state = self.progress(send_id)
        return state

    def finished(self, send_id: uuid.UUID, timeout: float = SEND_TIMEOUT_S) -> Progress:
        state = self.until(send_id, lambda p: p.finished, timeout)
        deadline = time.monotonic() + timeout
        while waiting_dead_letters(self.database, send_id):
            assert time.monotonic() < deadline, "dead letters were not processed"
            time.sleep(0.1)
        return state

    def provider_counts(self) -> dict[str, dict[str, int]]:
        """How often each token was accepted, by platform, as the providers counted."""
        return {platform: self.mock.accepted(platform) for platform in PLATFORMS}

    def alive(self, platform: str) -> set[str]:
        return {device.token for device in self.devices if device.platform == platform and not device.dead}


def shell_environment() -> dict[str, str]:
    """This process's environment without pushq's settings, as an ordinary shell would have it."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PUSHQ_")}


@contextmanager
def open_world(
    folder: Path,
    *,
    database_url: str,
    redis_url: str,
    broker_url: str,
    workers: Sequence[str] = WORKERS,
    beat: bool = True,
    mock: dict[str, Any] | None = None,
    settings: dict[str, str] | None = None,
    own: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[World]:
    """Start mock and workers (none with ``workers=()``); ``own``: settings of single workers, by name."""
    with ExitStack() as stack:
        provider = stack.enter_context(MockProcess(folder / "mock", **({"latency_ms": 20.0} | (mock or {}))))
        environment = {
            "PUSHQ_DATABASE_URL": database_url,
            "PUSHQ_REDIS_URL": redis_url,
            "PUSHQ_BROKER_URL": broker_url,
            "PUSHQ_CONFIG": str(provider.config_file),
            "PUSHQ_SWEEP_SECONDS": "1",
            **(settings or {}),
        }
        database = Database(ServiceUrl(database_url), pool_size=3)
        stack.callback(database.close)
        world = World(environment, folder, provider, database)
        if workers:
            world.fleet = stack.enter_context(Fleet(environment, folder, workers=workers, beat=beat, own=own))
        yield world
