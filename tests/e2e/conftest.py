"""What several end-to-end tests start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pushq.embedded.redis import RedisServer


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[str]:
    """A broker of the test's own: Redis, and in a second run RabbitMQ."""
    if request.param == "redis":
        yield redis_server.url(1)
    else:
        yield request.getfixturevalue("rabbitmq_url")
