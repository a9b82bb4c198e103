"""PostgreSQL, Redis, mock providers and workers, started together and gone together."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from pushq.demo.fleet import Fleet
from pushq.embedded import Services
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.ledger import schema
from pushq.mock import MockProcess
from pushq.platforms import PLATFORMS


class Stack:
    """A whole pushq on this machine, for the life of a ``with`` block.

    Args:
        parent: folder below which the private folder is made.
        latency_ms: how long the mock providers take for an answer.
        broker_url: another broker than the embedded Redis.
        rabbitmq: start a private RabbitMQ as the broker; it has to be installed.
        workers: which kinds to start at once (default: core and one of each platform); more can be spawned on ``fleet``.
        settings: further PUSHQ_ variables for the workers.
        platforms: those that get a worker.
        own: more PUSHQ_ variables of single workers, by their name.
        say: called with what is going on, for people.

    Attributes:
        environment: the PUSHQ_ variables that point at this stack.
        rabbitmq: the private RabbitMQ, if there is one.

    Raises:
        EmbeddedError, MockFailed, FleetFailed: on entering, when a part does not start.
    """

    def __init__(
        self,
        *,
        parent: Path | None = None,
        latency_ms: float = 80.0,
        broker_url: str | None = None,
        rabbitmq: bool = False,
        workers: Sequence[str] | None = None,
        settings: Mapping[str, str] | None = None,
        platforms: Sequence[str] = PLATFORMS,
        own: Mapping[str, Mapping[str, str]] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._parent, self._latency_ms, self._broker_url = parent, latency_ms, broker_url
        self._settings, self._say = dict(settings or {}), say
        self._wants_rabbitmq = rabbitmq
        self._own = own
        self._workers = ("core", *platforms) if workers is None else tuple(workers)
        self._open = ExitStack()
        self.environment: dict[str, str] = {}
        self.rabbitmq: RabbitMqServer | None = None

    def __enter__(self) -> Stack:
        with ExitStack() as opening:
            self._say("starting PostgreSQL and Redis")
            self.services = opening.enter_context(Services(self._parent))
            if self._wants_rabbitmq:
                self._say("starting RabbitMQ")
                self.rabbitmq = RabbitMqServer(self.services.sandbox)
                self.rabbitmq.start()
                self._broker_url = self.rabbitmq.url()
            self.folder = self.services.folder / "pushq"
            self.folder.mkdir(mode=0o700)
            self._say("starting the mock providers: APNs, FCM and HMS over TLS and HTTP/2")
            self.mock = opening.enter_context(MockProcess(self.folder / "mock", latency_ms=self._latency_ms))
            self.environment = {
                **self.services.environment(),
                "PUSHQ_CONFIG": str(self.mock.config_file),
                **self._settings,
            }
            if self._broker_url is not None:
                self.environment["PUSHQ_BROKER_URL"] = self._broker_url
            schema.upgrade(self.environment["PUSHQ_DATABASE_URL"])
            if self._workers:
                self._say(f"starting workers: {', '.join(self._workers)}")
            self.fleet = opening.enter_context(
                Fleet(self.environment, self.folder, workers=self._workers, own=self._own)
            )
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def pids(self) -> dict[str, int]:
        """Process ids of everything that was started, by name."""
        pids = {**self.services.pids(), "mock": self.mock.pid, **self.fleet.pids()}
        if self.rabbitmq is not None and self.rabbitmq.process is not None:
            pids["rabbitmq"] = self.rabbitmq.process.pid
        return pids

    def exports(self) -> str:
        """Lines for a shell that point pushq's commands at this stack."""
        return "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.environment.items())
        )
