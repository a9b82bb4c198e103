"""The processes of one pushq, each to be signalled, killed and replaced by itself."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 150.0
LOG_TAIL_BYTES = 3000
ROOT = Path(__file__).resolve().parents[2]


class CrewError(Exception):
    """A process did not do what a case needs; the message ends with what it logged."""


class Crew:
    """Workers, beat and callers. A name is a kind (``apns``) or a kind and a number (``beat-2``)."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.environment, self._folder = dict(environment), folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str) -> None:
        """Start a process, without waiting until it is ready."""
        kind = name.partition("-")[0]
        self._ready_file(name).unlink(missing_ok=True)
        parent = ["--parent-pid", str(os.getpid())]
        if kind == "beat":
            arguments = ["-m", "pushq", "beat", *parent]
        else:
            arguments = ["-m", "pushq", "worker", kind, "--ready-file", str(self._ready_file(name)), *parent]
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment() | self.environment,
                start_new_session=True,
            )

    def heal(self, names: Iterable[str]) -> None:
        """All of these run and are ready; those that run beyond them are stopped."""
        wanted = list(names)
        self.stop([name for name in self._processes if name not in wanted])
        for name in wanted:
            if not self.lives(name):
                self.kill(name)
                self.start(name)
        self.await_ready(wanted)

    def await_ready(self, names: Iterable[str]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        for name in names:
            while not (name.startswith("beat") or self._ready_file(name).exists()):
                code = self._processes[name].poll()
                if code is not None or time.monotonic() > deadline:
                    raise CrewError(f"{name} is not ready (exit code {code}):\n{self.log_tail(name)}")
                time.sleep(0.05)

    def lives(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def ended(self) -> list[str]:
        """Who ended by itself, a sentence each: neither killed nor stopped by this crew."""
        return [
            f"{name} ended by itself with code {process.returncode}"
            for name, process in self._processes.items()
            if process.poll() is not None
        ]

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    def await_end(self, name: str, timeout: float) -> float | None:
        """Seconds until the process was gone, or None when it is still there."""
        began = time.monotonic()
        try:
            self._processes[name].wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return time.monotonic() - began

    def kill(self, *names: str) -> None:
        """SIGKILL to all of these at once, whether or not they run."""
        processes = [self._processes.pop(name) for name in names if name in self._processes]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()

    def stop(self, names: Iterable[str] | None = None) -> None:
        """SIGTERM, and after a time SIGKILL."""
        processes = [self._processes.pop(n) for n in list(self._processes if names is None else names)]
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log_tail(self, name: str) -> str:
        path = self._log(name)
        content = path.read_bytes()[-LOG_TAIL_BYTES:] if path.exists() else b""
        return content.decode(errors="replace") or "(it logged nothing)"

    def log_size(self, name: str) -> int:
        return self._log(name).stat().st_size

    def logged(self, name: str, since: int) -> bytes:
        """What a process has logged after the first ``since`` bytes."""
        return self._log(name).read_bytes()[since:]

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _ready_file(self, name: str) -> Path:
        return self._folder / f"{name}.ready"


class Caller:
    """An application: a process that calls ``send_broadcast.delay`` and ``send_notification.delay`` when told to."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.caller"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=clean_environment() | dict(environment),
                cwd=ROOT,
                bufsize=0,  # select must not be told of an answer that already lies in a buffer
                start_new_session=True,
            )
        self._log = log

    def ask(self, task: str, **arguments: Any) -> None:
        """Have the call made; :meth:`answer` says what came of it."""
        line = json.dumps({"task": task, "arguments": arguments}).encode() + b"\n"
        pipe = self._pipe(self._process.stdin)
        pipe.write(line)
        pipe.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer: ``{"send_id": ...}`` or ``{"error": ..., "seconds": ...}``.

        Raises:
            CrewError: there is none within 150 s, or the process has ended.
        """
        pipe = self._pipe(self._process.stdout)
        ready, _, _ = select.select([pipe], [], [], CALL_TIMEOUT_S)
        line = pipe.readline() if ready else b""
        if not line:
            raise CrewError(f"the caller gave no answer:\n{self._log.read_text()[-LOG_TAIL_BYTES:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def call(self, task: str, **arguments: Any) -> dict[str, Any]:
        self.ask(task, **arguments)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a question that nobody will read
                self._pipe(pipe).close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def run_python(code: str, environment: Mapping[str, str]) -> None:
    """Run a piece of an application that uses pushq.

    Raises:
        CrewError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment() | dict(environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise CrewError(f"ended with {done.returncode}:\n{done.stderr}")


def clean_environment() -> dict[str, str]:
    """This process's environment without pushq's settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PUSHQ_")}
