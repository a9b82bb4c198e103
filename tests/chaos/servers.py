"""The servers of one site: PostgreSQL, Redis for journals and cache, and a broker of its own, so that each can fail alone."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Literal, Self

from pushq.embedded.postgres import PostgresServer
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.redis import RedisServer
from pushq.embedded.sandbox import Sandbox
from pushq.embedded.server import Server
from tests.services.faults import crash, resume
from tests.services.rabbitmq import RabbitMqCluster

BrokerKind = Literal["redis", "rabbitmq", "cluster"]
BROKERS: tuple[BrokerKind, ...] = ("redis", "rabbitmq", "cluster")


class Servers:
    """Started on entering, gone on leaving, whatever was done to them meanwhile."""

    def __init__(self, kind: BrokerKind) -> None:
        self.kind = kind
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            sandbox = opening.enter_context(Sandbox())
            self.folder = sandbox.path
            self.postgres = PostgresServer(sandbox)
            self.redis = RedisServer(sandbox, append_only=True)
            self.cluster: RabbitMqCluster | None = None
            self.brokers: list[RedisServer] | list[RabbitMqServer]
            if self.kind == "redis":
                self.brokers = [RedisServer(sandbox, append_only=True, folder="broker")]
            elif self.kind == "rabbitmq":
                self.brokers = [RabbitMqServer(sandbox)]
            else:
                self.cluster = RabbitMqCluster(sandbox)
                self.brokers = self.cluster.nodes
            self.redis.launch()
            if self.cluster is None:
                self.brokers[0].launch()
            self.postgres.start()
            self.redis.wait_ready()
            if self.cluster is not None:
                self.cluster.start()
            else:
                self.brokers[0].wait_ready()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def broker_url(self) -> str:
        if self.cluster is not None:
            return self.cluster.url()
        return self.brokers[0].url()

    def heal(self) -> None:
        """Every server answers again."""
        for server in (self.postgres, self.redis, *self.brokers):
            heal(server)


def heal(server: Server) -> None:
    """The server answers, whatever was done to it."""
    resume(server)
    if server.process is None or server.process.poll() is not None:
        crash(server)
        server.launch()
    server.wait_ready()
