"""A real ``pushq web`` for a test: a process of its own on a free port, with API keys made for the test."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from pushq.access import keys
from pushq.access.local import local
from pushq.database import Database
from pushq.service_urls import ServiceUrl

START_S = 60.0
STOP_S = 25.0
ANSWER_S = 60.0


@dataclass
class Web:
    """A running process.

    Attributes:
        address: such as ``http://127.0.0.1:41234``.
        log: what it writes.
    """

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    database: Database
    _clients: list[httpx.Client] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def key(self, *scopes: str, apps: Collection[str] | None = None, rate: int | None = None) -> str:
        """A new API key; without scopes one that may do everything."""
        _, text = keys.issue(
            self.database, local(), name="test", scopes=scopes or ("admin",), apps=apps, rate=rate
        )
        return text

    def client(
        self, *scopes: str, apps: Collection[str] | None = None, rate: int | None = 100_000
    ) -> httpx.Client:
        """A client with a new key; closed with the process."""
        made = httpx.Client(
            base_url=self.address,
            headers={"Authorization": f"Bearer {self.key(*scopes, apps=apps, rate=rate)}"},
            timeout=ANSWER_S,
            trust_env=False,
        )
        self._clients.append(made)
        return made

    def raw(
        self, data: bytes, *, timeout: float = ANSWER_S, half_close: bool = False, answers: int = 1
    ) -> bytes:
        """Send bytes as they are, and read until the server closes or has given so many answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := connection.recv(65_536):
                received += chunk
                if _whole(received) and received.count(b"HTTP/1.1 ") >= answers:
                    break
            return received

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def _whole(received: bytes) -> bool:
    """Whether the last answer is all there."""
    head, _, body = received[received.rfind(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and len(body) >= int(lengths[0].partition(b":")[2])


@contextmanager
def open_web(environment: Mapping[str, str], folder: Path, *options: str) -> Iterator[Web]:
    """Start ``pushq web`` with these settings, and wait until it answers.

    Args:
        environment: the PUSHQ_ variables, the three URLs among them; this process's own are not inherited.
    """
    log = folder / "web.log"
    own = {name: value for name, value in os.environ.items() if not name.startswith("PUSHQ_")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-m", "pushq", "web", "--port", "0", "--json"),
                *("--parent-pid", str(os.getpid()), *options),
            ],
            env=own | dict(environment) | {"PUSHQ_LOG_FORMAT": "json"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=file,
        )
    try:
        database = Database(ServiceUrl(environment["PUSHQ_DATABASE_URL"]), pool_size=2)
        try:
            web = Web(_address(process, log), process, log, database)
            _await_live(web)
            try:
                yield web
            finally:
                for client in web._clients:
                    client.close()
        finally:
            database.close()
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        ready = selector.select(START_S)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise AssertionError(f"pushq web did not start:\n{log.read_text()}")
    return str(json.loads(line)["address"])


def _await_live(web: Web) -> None:
    deadline = time.monotonic() + START_S
    with httpx.Client(base_url=web.address, timeout=5.0, trust_env=False) as client:
        while True:
            try:
                if client.get("/healthz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if web.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"pushq web does not answer:\n{web.log.read_text()}")
            time.sleep(0.05)


def urls(database: str, redis: str, broker: str) -> dict[str, str]:
    """The settings that it needs."""
    return {"PUSHQ_DATABASE_URL": database, "PUSHQ_REDIS_URL": redis, "PUSHQ_BROKER_URL": broker}
