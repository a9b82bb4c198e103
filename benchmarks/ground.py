"""What benchmarks of whole sends start from: servers, mock providers, workers, and devices made by SQL."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from pushq.database import Database
from pushq.demo.fleet import Fleet
from pushq.embedded import Services
from pushq.ledger.progress import Progress, progress, waiting_dead_letters
from pushq.ledger.schema import upgrade
from pushq.mock import MockProcess
from pushq.service_urls import ServiceUrl
from tests.chaos.crew import clean_environment

_INSERT = """
INSERT INTO device_tokens (user_id, app, platform, environment, token, token_hash, registered_at)
SELECT u, 'shop', :platform, 'production', t.token, md5(:platform || t.token)::uuid, now() - interval '1 day'
  FROM generate_series(cast(:first AS bigint), cast(:last AS bigint)) AS u,
       LATERAL (SELECT CASE :platform WHEN 'apns' THEN :prefix || lpad(to_hex(u), 64 - length(:prefix), '0')
                                      ELSE :prefix || 'fcm-' || lpad(u::text, 140, '0') END AS token) t
"""


@dataclass
class Ground:
    """Running servers, providers and workers."""

    environment: dict[str, str]
    mock: MockProcess
    database: Database
    fleet: Fleet

    def add_devices(self, platform: str, count: int, *, first: int, dead: bool = False) -> None:
        """Users from ``first`` on, one device each."""
        with self.database.begin() as connection:
            connection.execute(
                text(_INSERT),
                {
                    "platform": platform,
                    "first": first,
                    "last": first + count - 1,
                    "prefix": "deaddeaddead" if dead else "",
                },
            )
        with self.database.begin() as connection:
            connection.execute(text("ANALYZE device_tokens"))

    def send(self, *arguments: str) -> uuid.UUID:
        """``pushq send`` to everybody."""
        command = ["send", "--app", "shop", "--title", "Sale", "--segment", "all", "--json", *arguments]
        done = subprocess.run(
            [sys.executable, "-m", "pushq", *command],
            env=clean_environment() | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"pushq send ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return uuid.UUID(json.loads(done.stdout.splitlines()[-1])["send_id"])

    def finished(self, send_id: uuid.UUID, timeout: float) -> Progress:
        """Wait for the last outcome and the last processed dead letter."""
        deadline = time.monotonic() + timeout
        while self.scalar("SELECT 1 FROM sends WHERE id = :id", id=send_id) is None:
            self._wait(deadline, "accepted")
        while not (state := progress(self.database, send_id)).finished:
            self._wait(deadline, f"finished: {state}")
        while waiting_dead_letters(self.database, send_id):
            self._wait(deadline, "all dead letters processed")
        return state

    def _wait(self, deadline: float, what: str) -> None:
        self.fleet.check_alive()
        if time.monotonic() > deadline:
            raise SystemExit(f"not in time: {what}")
        time.sleep(0.2)

    def scalar(self, sql: str, **values: Any) -> Any:
        with self.database.begin() as connection:
            return connection.execute(text(sql), values).scalar_one_or_none()


@contextmanager
def ground(
    *, mock: Mapping[str, Any], settings: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[Ground]:
    """Everything with the product's defaults, but for ``settings`` (PUSHQ_ variables)."""
    with ExitStack() as stack:
        services = stack.enter_context(Services())
        place = folder or services.folder / "pushq"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        upgrade(ServiceUrl(services.database_url))
        provider = stack.enter_context(MockProcess(place / "mock", **mock))
        environment = {
            **services.environment(),
            "PUSHQ_CONFIG": str(provider.config_file),
            **(settings or {}),
        }
        database = Database(ServiceUrl(services.database_url), pool_size=3, application_name="benchmark")
        stack.callback(database.close)
        fleet = stack.enter_context(Fleet(environment, place))
        yield Ground(environment, provider, database, fleet)


@contextmanager
def peaks(pids: Mapping[str, int], every_s: float = 0.5) -> Iterator[Callable[[], dict[str, int]]]:
    """Watch resident memory while the block runs; the value gives the highest of each process, in MB."""
    highest = dict.fromkeys(pids, 0)
    over = threading.Event()

    def watch() -> None:
        processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        while not over.wait(every_s):
            for name, process in processes.items():
                try:
                    highest[name] = max(highest[name], process.memory_info().rss >> 20)
                except psutil.NoSuchProcess:
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: dict(highest)
    finally:
        over.set()
        thread.join()
