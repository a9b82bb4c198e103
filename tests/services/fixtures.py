"""Fixtures that give a test its servers. Started once per session, at the same time, and only those that a selected test names.

=============== ==========================================================================================
fixture         value
=============== ==========================================================================================
postgres        the session's PostgresServer; ``postgres.url(name)``
database        URL of a migrated database that is the test's own
empty_database  URL of a database without tables that is the test's own
redis_server    the session's RedisServer, emptied for the test; ``redis_server.url(n)``
redis_url       URL of its database 0; database 1 is for the broker
rabbitmq        the session's RabbitMqServer
rabbitmq_url    URL of a virtual host that is the test's own
sandbox         the open Sandbox that all of them live in
=============== ==========================================================================================

A test that stops, kills or pauses a server need not undo it: the next test that asks for it gets it running.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pushq.embedded.postgres import PostgresServer
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.redis import RedisServer
from pushq.embedded.sandbox import Sandbox
from pushq.embedded.server import Server
from tests.services.faults import crash, resume
from tests.services.rabbitmq import delete_vhost_quietly

TEMPLATE = "pushq_template"


class Fleet:
    """The servers of a session: launched together, each waited for by the first test that needs it."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._sandbox: Sandbox | None = None
        self._servers: dict[str, Server] = {}

    @property
    def sandbox(self) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = self._open.enter_context(Sandbox())
        return self._sandbox

    def launch(self, name: str) -> Server:
        """Start the server of this name, unless it was started before; do not wait for it."""
        if name not in self._servers:
            self._servers[name] = _BUILD[name](self.sandbox)
            self._servers[name].launch()
        return self._servers[name]

    def ready(self, name: str) -> Server:
        """The server of this name, answering, whatever a test before did to it."""
        server = self.launch(name)
        resume(server)
        if server.process is None or server.process.poll() is not None:
            crash(server)  # what a killed parent left behind would be in the way
            server.launch()
        server.wait_ready()
        return server

    def close(self) -> None:
        self._open.close()


_BUILD: dict[str, Callable[[Sandbox], Server]] = {
    # The slowest first.
    "rabbitmq": RabbitMqServer,
    "redis": lambda sandbox: RedisServer(sandbox, append_only=True),
    "postgres": PostgresServer,
}
#: Which server a fixture leads to.
_NEEDS = {"rabbitmq": "rabbitmq", "redis_server": "redis", "postgres": "postgres"}
_FLEET = pytest.StashKey[Fleet]()


def migrate_template(url: str) -> None:
    """Bring the database at ``url`` to the newest schema. It is copied for every test, so no connection may stay open."""
    from pushq.ledger.schema import upgrade  # noqa: PLC0415 - a test of the HTTP/2 core should not need SQLAlchemy

    upgrade(url)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FLEET] = Fleet()


def pytest_collection_finish(session: pytest.Session) -> None:
    # Launched here, they start while the first tests run: RabbitMQ takes several seconds.
    if session.config.option.collectonly:
        return
    fleet = session.config.stash[_FLEET]
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for fixture, name in _NEEDS.items():
        if fixture in needed:
            fleet.launch(name)


def pytest_unconfigure(config: pytest.Config) -> None:
    fleet = config.stash.get(_FLEET, None)
    if fleet is not None:
        fleet.close()


@pytest.fixture(scope="session")
def _fleet(pytestconfig: pytest.Config) -> Fleet:
    return pytestconfig.stash[_FLEET]


@pytest.fixture(scope="session")
def sandbox(_fleet: Fleet) -> Sandbox:
    return _fleet.sandbox


@pytest.fixture
def postgres(_fleet: Fleet) -> PostgresServer:
    server = _fleet.ready("postgres")
    assert isinstance(server, PostgresServer)
    return server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    if not postgres.has_database(TEMPLATE):
        unfinished = f"{TEMPLATE}_unfinished"
        postgres.drop_database(unfinished)
        postgres.create_database(unfinished)
        migrate_template(postgres.url(unfinished))
        # Under its name only when complete: a migration that failed must fail for every test, not leave half a schema.
        postgres.rename_database(unfinished, TEMPLATE)
    yield from _own_database(postgres, template=TEMPLATE)


@pytest.fixture
def empty_database(postgres: PostgresServer) -> Iterator[str]:
    yield from _own_database(postgres, template=None)


def _own_database(postgres: PostgresServer, template: str | None) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    postgres.create_database(name, template=template)
    yield postgres.url(name)
    if postgres.process is not None and postgres.process.poll() is None:
        resume(postgres)
        postgres.drop_database(name)


@pytest.fixture
def redis_server(_fleet: Fleet) -> RedisServer:
    server = _fleet.ready("redis")
    assert isinstance(server, RedisServer)
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url(0)


@pytest.fixture
def rabbitmq(_fleet: Fleet) -> RabbitMqServer:
    server = _fleet.ready("rabbitmq")
    assert isinstance(server, RabbitMqServer)
    return server


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitMqServer) -> Iterator[str]:
    name = f"test-{secrets.token_hex(6)}"
    rabbitmq.add_vhost(name)
    yield rabbitmq.url(name)
    resume(rabbitmq)
    delete_vhost_quietly(rabbitmq, name)
