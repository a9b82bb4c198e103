"""What several integration tests start from: an authority and pools, a mock provider, a ledger.

A module that needs another world (batch size, time-outs) says so in a ``world_settings`` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pushq.app_settings import AppSettings, load_apps
from pushq.embedded.postgres import PostgresServer
from pushq.mock import MockProcess
from tests.integration import pool_world
from tests.integration.h2_server import Authority
from tests.integration.ledger_world import APP, Worker, World, open_worker, open_world, shared_database
from tests.integration.pool_world import Pools
from tests.services.fixtures import Fleet


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def pools() -> Iterator[Pools]:
    yield from pool_world.made()


@pytest.fixture(scope="module")
def running() -> Iterator[MockProcess]:
    with MockProcess(engine="strict") as mock:
        yield mock


@pytest.fixture
def mock(running: MockProcess) -> MockProcess:
    running.reset()
    running.set_latency(0)
    return running


@pytest.fixture
def app(mock: MockProcess) -> AppSettings:
    return load_apps(mock.config_file)[APP]


@pytest.fixture(scope="module")
def ledger_url(_fleet: Fleet) -> Iterator[str]:
    """A database for all tests of a module; a world empties it."""
    yield from shared_database(_fleet)


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"batch_size": 30, "plan_page": 100, "request_timeout": 1.0}


@pytest.fixture
def world(
    postgres: PostgresServer, ledger_url: str, app: AppSettings, world_settings: dict[str, Any]
) -> Iterator[World]:
    with open_world(ledger_url, app, **world_settings) as world:
        world.empty()
        yield world


@pytest.fixture
def worker(world: World, redis_url: str) -> Iterator[Worker]:
    with open_worker(world, redis_url) as worker:
        yield worker
