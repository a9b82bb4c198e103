"""What every embedded server has: a process, a port, a log, and a bounded start and stop."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress

from pushq.embedded.errors import EmbeddedError, log_tail
from pushq.embedded.sandbox import Sandbox

#: A start takes about a second; a machine that is busy with something else may take many times that.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.05
#: Between choosing a free port and binding it, another process may take it.
_PORT_ATTEMPTS = 3


#: How those say it that found their port taken; RabbitMQ in Erlang's way.
_TAKEN = ("address already in use", "eaddrinuse")
#: Where no connection gets its own port from: Linux gives them 32768 and above, other systems 49152, unless told otherwise.
_PORTS = range(20_000, 32_768)
_PORT_TRIES = 100


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment, and that no connection is given meanwhile."""
    for port in [*(secrets.choice(_PORTS) for _ in range(_PORT_TRIES)), 0]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            bound: int = listener.getsockname()[1]
            return bound
    raise EmbeddedError("No TCP port of 127.0.0.1 is free.", "Is there a limit on this process' sockets?")


class Server(ABC):
    """A server in a sandbox. ``launch`` and ``wait_ready`` are apart so that several can start at the same time.

    Attributes:
        title: what messages call it.
        port: TCP port on 127.0.0.1; kept over a restart.
        folder: its private folder: data, configuration, log.
    """

    title: str

    def __init__(self, sandbox: Sandbox, folder: str) -> None:
        self.sandbox = sandbox
        self.folder = sandbox.folder(folder)
        self.log = sandbox.file(self.folder / "server.log", "")
        self._choose_ports()
        self.process: subprocess.Popen[bytes] | None = None

    def _choose_ports(self) -> None:
        """Set ``port``, and what else the server listens on."""
        self.port = free_port()

    @abstractmethod
    def _prepare(self) -> None:
        """Write configuration for ``self.port``; make the data on the first call."""

    @abstractmethod
    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the process."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server serves requests; must return or raise within a few seconds."""

    def launch(self) -> None:
        """Start the process and return at once."""
        self._prepare()
        self.process = self._spawn()

    def wait_ready(self, timeout: float = START_TIMEOUT_S) -> None:
        """Return when the server answers.

        Raises:
            EmbeddedError: it ended, or does not answer within ``timeout`` seconds; with the tail of its log.
        """
        deadline = time.monotonic() + timeout
        attempts = 1
        while not self._answers():
            ended = None if self.process is None else self.process.poll()
            if (
                ended is not None
                and attempts < _PORT_ATTEMPTS
                and any(sign in self.log_tail().lower() for sign in _TAKEN)
            ):
                attempts += 1
                self._choose_ports()
                self.launch()
            elif ended is not None:
                raise self._failure(f"ended with exit code {ended} instead of starting")
            elif time.monotonic() >= deadline:
                raise self._failure(f"did not answer within {timeout:.0f} seconds")
            time.sleep(_POLL_S)

    def start(self, timeout: float = START_TIMEOUT_S) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait_ready(timeout)

    def stop(self) -> None:
        """Shut it down in order; its data stays for the next ``start``. SIGKILL after a time."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash would end it. Returns when the process is gone."""
        self._end(signal.SIGKILL)

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        return log_tail(self.log)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)  # a paused process would not see the signal before
        try:
            self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=STOP_TIMEOUT_S)
        self.process = None

    def _failure(self, what: str) -> EmbeddedError:
        return EmbeddedError(
            f"{self.title} {what} (port {self.port}, folder {self.folder}).",
            "Read its log above. Common causes: no space left in the temporary folder (TMPDIR chooses another), too little memory, "
            "a security module that forbids servers.",
            self.log_tail(),
        )
