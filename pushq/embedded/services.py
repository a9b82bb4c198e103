"""PostgreSQL and Redis together, for the life of a ``with`` block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

from pushq.embedded.errors import EmbeddedError
from pushq.embedded.postgres import PostgresServer
from pushq.embedded.redis import RedisServer
from pushq.embedded.sandbox import Sandbox

_Part = TypeVar("_Part", Sandbox, PostgresServer, RedisServer)

#: Signals that by default end Python at once, without leaving any `with` block.
_TERMINATION = (signal.SIGTERM, signal.SIGHUP)


class Services:
    """A private PostgreSQL and a private Redis, on free ports of 127.0.0.1 with random passwords.

    ::

        with Services() as services:
            environment = os.environ | services.environment()

    Both are gone afterwards, data included: after the block, an exception, Ctrl-C, SIGTERM or SIGHUP, and after kill -9 of this
    process (see :mod:`pushq.embedded.sandbox`). Inside the block SIGTERM and SIGHUP raise ``SystemExit``, unless the program
    has handlers of its own or the block runs outside the main thread.

    The servers are set up for throw-away data: they survive the death of any process, not a power cut.

    Args:
        folder: where the private folder is made; default one below the system's temporary folder.

    Raises:
        EmbeddedError: on entering, when a server is missing or does not start.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._sandbox: Sandbox | None = None
        self._postgres: PostgresServer | None = None
        self._redis: RedisServer | None = None

    def __enter__(self) -> Services:
        with ExitStack() as opening:
            opening.enter_context(_TerminationAsExit())
            self._sandbox = opening.enter_context(Sandbox(self._folder))
            self._postgres = PostgresServer(self._sandbox)
            self._redis = RedisServer(self._sandbox)
            self._redis.launch()
            self._postgres.start()
            self._redis.wait_ready()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def folder(self) -> Path:
        """The private folder: logs, data, and room for files that should vanish with the servers."""
        return _entered(self._sandbox).path

    @property
    def sandbox(self) -> Sandbox:
        """Where they live, for further servers that should vanish with them."""
        return _entered(self._sandbox)

    def pids(self) -> dict[str, int]:
        """Process ids by server."""
        servers = {"postgresql": _entered(self._postgres), "redis": _entered(self._redis)}
        return {name: server.process.pid for name, server in servers.items() if server.process is not None}

    @property
    def database_url(self) -> str:
        """``postgresql://`` URL of an empty database."""
        return _entered(self._postgres).url()

    @property
    def redis_url(self) -> str:
        """``redis://`` URL for cache, journals and credentials: database 0."""
        return _entered(self._redis).url(0)

    @property
    def redis_broker_url(self) -> str:
        """``redis://`` URL for Celery: database 1."""
        return _entered(self._redis).url(1)

    def environment(self) -> dict[str, str]:
        """The variables that point pushq at these servers."""
        return {
            "PUSHQ_DATABASE_URL": self.database_url,
            "PUSHQ_REDIS_URL": self.redis_url,
            "PUSHQ_BROKER_URL": self.redis_broker_url,
        }

    def versions(self) -> dict[str, str]:
        """What runs, and where it came from: for a banner or a bug report."""
        return {
            "PostgreSQL": str(_entered(self._postgres).program),
            "Redis": str(_entered(self._redis).program),
        }


def _entered(part: _Part | None) -> _Part:
    if part is None:
        raise EmbeddedError("The services are not running.", "Use Services as a context manager.")
    return part


class _TerminationAsExit:
    """While entered, SIGTERM and SIGHUP raise ``SystemExit`` with the shell's code for them (143, 129)."""

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _TERMINATION:
            if signal.getsignal(number) is signal.SIG_DFL:
                self._previous[number] = signal.signal(number, _exit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) is _exit:
                signal.signal(number, handler)
        self._previous.clear()


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
