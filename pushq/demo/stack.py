"""PostgreSQL, Redis, mock providers and workers, started together and gone together."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

from pushq.embedded import Services
from pushq.errors import PushqError
from pushq.ledger import schema
from pushq.mock import MockProcess

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 25.0
LOG_TAIL_BYTES: Final = 3000
WORKERS: Final = ("core", "apns", "fcm")


class StackFailed(PushqError):
    """A part of the stack did not start, or ended by itself; the message ends with what it logged."""


class Stack:
    """A whole pushq on this machine, for the life of a ``with`` block.

    Args:
        parent: folder below which the private folder is made.
        latency_ms: how long the mock providers take for an answer.
        broker_url: another broker than the embedded Redis.
        settings: further PUSHQ_ variables for the workers.
        say: called with what is going on, for people.

    Raises:
        EmbeddedError, MockFailed, StackFailed: on entering, when a part does not start.
    """

    def __init__(
        self,
        *,
        parent: Path | None = None,
        latency_ms: float = 80.0,
        broker_url: str | None = None,
        settings: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._parent, self._latency_ms, self._broker_url = parent, latency_ms, broker_url
        self._settings, self._say = dict(settings or {}), say
        self._open = ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Stack:
        with ExitStack() as opening:
            self._say("starting PostgreSQL and Redis")
            self.services = opening.enter_context(Services(self._parent))
            self.folder = self.services.folder / "pushq"
            self.folder.mkdir(mode=0o700)
            self._say("starting the mock providers: APNs and FCM over TLS and HTTP/2")
            self.mock = opening.enter_context(MockProcess(self.folder / "mock", latency_ms=self._latency_ms))
            self.environment = {
                **self.services.environment(),
                "PUSHQ_CONFIG": str(self.mock.config_file),
                **self._settings,
            }
            if self._broker_url is not None:
                self.environment["PUSHQ_BROKER_URL"] = self._broker_url
            schema.upgrade(self.environment["PUSHQ_DATABASE_URL"])
            self._say(f"starting workers: {', '.join(WORKERS)}")
            opening.callback(self._stop_processes)
            for kind in WORKERS:
                ready = self.folder / f"{kind}.ready"
                self._spawn(kind, ["worker", kind, "--ready-file", str(ready)])
            self._spawn("beat", ["beat"])
            self._await_workers()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def check_alive(self) -> None:
        """Raise StackFailed when a part has ended by itself."""
        for name, process in self._processes.items():
            code = process.poll()
            if code is not None:
                raise StackFailed(f"{name} ended with code {code}:\n{self.log_tail(name)}")

    def exports(self) -> str:
        """Lines for a shell that point pushq's commands at this stack."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.environment.items()))

    def log_tail(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        content = path.read_bytes()[-LOG_TAIL_BYTES:] if path.exists() else b""
        return content.decode(errors="replace") or "(it logged nothing)"

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def _spawn(self, name: str, arguments: list[str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PUSHQ_")}
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "pushq", *arguments, "--parent-pid", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=inherited | self.environment,
                cwd=self.folder,
                # The terminal's Ctrl-C is for us; we then stop the workers in order.
                start_new_session=True,
            )

    def _await_workers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = set(WORKERS)
        while waiting:
            self.check_alive()
            waiting = {kind for kind in waiting if not (self.folder / f"{kind}.ready").exists()}
            if waiting and time.monotonic() > deadline:
                name = sorted(waiting)[0]
                raise StackFailed(f"worker {name} was not ready after {START_TIMEOUT_S:g} s:\n{self.log_tail(name)}")
            time.sleep(0.05)

    def _stop_processes(self) -> None:
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in self._processes.values():
            try:
                process.wait(timeout=max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
