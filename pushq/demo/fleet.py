"""Worker processes of one machine, started together and gone together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pushq.errors import PushqError

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 25.0
LOG_TAIL_BYTES: Final = 3000
WORKERS: Final = ("core", "apns", "fcm")


class FleetFailed(PushqError):
    """A worker did not start, or ended by itself; the message ends with what it logged."""


class Fleet:
    """Workers and beat as processes, for the life of a ``with`` block. They end with this process, however it ends.

    Args:
        environment: the PUSHQ_ variables; this process's own are not inherited.
        folder: for their logs (``core.log`` and so on).
        workers: which of ``core``, ``apns``, ``fcm``, ``hms``.
        beat: whether the clock runs as well; without it nothing is swept.
        own: more PUSHQ_ variables of single processes, by their name: ports cannot be shared.

    Raises:
        FleetFailed: on entering, when one is not ready within 60 s.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        *,
        workers: Sequence[str] = WORKERS,
        beat: bool = True,
        own: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._environment, self._folder = dict(environment), folder
        self._own = {} if own is None else own
        self._workers, self._beat = tuple(workers), beat
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        #: Processes that are no workers, and have no file that says they are ready.
        self._others: set[str] = set()

    def __enter__(self) -> Self:
        try:
            for kind in self._workers:
                self.spawn(kind)
            if self._beat:
                self.launch("beat", "beat")
            self.await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def spawn(self, kind: str, *options: str, name: str | None = None) -> None:
        """Start a worker, without waiting for it.

        Args:
            options: more of ``pushq worker``.
            name: for :meth:`kill` and the like, where one of a kind is not enough; default: its kind.
        """
        name = name or kind
        ready = self._ready_file(name)
        ready.unlink(missing_ok=True)
        self._start(name, ["worker", kind, "--ready-file", str(ready), *options])

    def launch(self, name: str, *arguments: str) -> None:
        """Start another ``pushq ARGUMENTS`` that ends with the others; nobody waits for it."""
        self._others.add(name)
        self._start(name, list(arguments))

    def await_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = {kind for kind in self._processes if kind not in self._others}
        while waiting:
            self.check_alive()
            waiting = {kind for kind in waiting if not self._ready_file(kind).exists()}
            if waiting and time.monotonic() > deadline:
                name = min(waiting)
                raise FleetFailed(
                    f"worker {name} was not ready after {START_TIMEOUT_S:g} s:\n{self.log_tail(name)}"
                )
            time.sleep(0.05)

    def check_alive(self) -> None:
        """Raise FleetFailed when a process has ended by itself."""
        for name, process in self._processes.items():
            code = process.poll()
            if code is not None:
                raise FleetFailed(f"{name} ended with code {code}:\n{self.log_tail(name)}")

    def kill(self, name: str) -> None:
        """SIGKILL, for those who want to see what happens then."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def end(self, name: str) -> int:
        """SIGTERM, which lets running batches finish. Returns the exit code, negative for a signal."""
        process = self._processes.pop(name)
        _end([process])
        return process.wait()

    def stop(self) -> None:
        """SIGTERM to all; who is still there after 25 s is killed."""
        _end(list(self._processes.values()))
        self._processes.clear()

    def log_tail(self, name: str) -> str:
        path = self._folder / f"{name}.log"
        content = path.read_bytes()[-LOG_TAIL_BYTES:] if path.exists() else b""
        return content.decode(errors="replace") or "(it logged nothing)"

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def _ready_file(self, kind: str) -> Path:
        return self._folder / f"{kind}.ready"

    def _start(self, name: str, arguments: list[str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PUSHQ_")}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "pushq", *arguments, "--parent-pid", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, **self._environment, **self._own.get(name, {})},
                # The terminal's Ctrl-C is for us; we then stop the workers in order.
                start_new_session=True,
            )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for process in processes:
        try:
            process.wait(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
