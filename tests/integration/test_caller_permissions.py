"""The least that RabbitMQ must allow to a caller, as docs/security.md says it: it may call, and read nobody's calls."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import pytest
import redis
from kombu import Connection

from pushq.app import TRANSACTIONAL
from pushq.embedded.rabbitmq import RabbitMqServer
from tests.e2e.world import shell_environment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
NAME, PASSWORD = "pushq-caller", "only-for-calls-1b7"
CALL = """
from pushq import send_notification
print(send_notification.delay([1], {"title": "x"}, app="shop").id)
"""


def call(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CALL],
        env=shell_environment() | {"PUSHQ_BROKER_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_caller_may_call_and_read_nothing(rabbitmq: RabbitMqServer, rabbitmq_url: str) -> None:
    found = re.search(r"set_permissions -p pushq caller '([^']+)' '([^']+)' '([^']+)'", PAGE.read_text())
    assert found, "the command of the page"
    parts = urlsplit(rabbitmq_url)
    url = parts._replace(netloc=f"{NAME}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()
    assert call(rabbitmq_url).returncode == 0  # as the workers, declares the queues
    rabbitmq.control("add_user", NAME, PASSWORD)
    try:
        rabbitmq.control("set_permissions", "-p", parts.path.removeprefix("/"), NAME, *found.groups())
        done = call(url)
        assert done.returncode == 0, done.stderr[-2000:]
        assert uuid.UUID(done.stdout.strip()).version == 4
        with Connection(url, connect_timeout=10) as connection, pytest.raises(amqp.exceptions.AccessRefused):
            connection.default_channel.basic_get(TRANSACTIONAL)
    finally:
        rabbitmq.control("delete_user", NAME)


def test_what_flower_shows_of_a_call_is_not_its_message(redis_url: str) -> None:
    """Task events repeat a header of the message, in which Celery would put the arguments."""
    done = call(redis_url)
    assert done.returncode == 0, done.stderr[-2000:]
    with redis.Redis.from_url(redis_url) as client:
        (raw,) = client.lrange(TRANSACTIONAL, 0, -1)
    message = json.loads(raw)
    assert (message["headers"]["argsrepr"], message["headers"]["kwargsrepr"]) == (
        "(transactional, shop)",
        "{}",
    )
