"""``pushq health``: exit codes and words."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner, Result

from pushq.cli.root import cli
from pushq.embedded.server import free_port
from pushq.observe.endpoint import serve
from pushq.observe.health import Health


def ask(*arguments: str, port: int) -> Result:
    return CliRunner().invoke(cli, ["health", *arguments], env={"PUSHQ_METRICS_PORT": str(port)})


@contextmanager
def process(health: Health) -> Iterator[int]:
    port = free_port()
    end = serve("127.0.0.1", port, health, version="1")
    try:
        yield port
    finally:
        end()


def test_live_and_ready_are_two_questions() -> None:
    with process(Health("apns", ready={"database": lambda: "is away"})) as port:
        live = ask("apns", port=port)
        assert (live.exit_code, live.output) == (0, "apns is live\n")
        ready = ask("apns", "--ready", port=port)
        assert (ready.exit_code, ready.output) == (1, "apns is not ready: database: is away\n")
        found = json.loads(ask("apns", "--ready", "--json", port=port).stdout)
    assert found == {
        "role": "apns",
        "probe": "ready",
        "ok": False,
        "checks": {"database": {"ok": False, "why": "is away"}},
    }


def test_another_role_on_the_port_is_a_mistake_worth_a_word() -> None:
    with process(Health("fcm")) as port:
        answer = ask("apns", port=port)
    assert answer.exit_code == 1
    assert f"found a fcm at 127.0.0.1:{port}, expected a apns" in answer.output


def test_nobody_there() -> None:
    port = free_port()
    answer = ask("core", "--json", port=port)
    assert answer.exit_code == 1
    found = json.loads(answer.stdout)
    assert found["ok"] is False
    assert f"nobody listens on 127.0.0.1:{port}" in found["why"]


def test_one_that_hangs_is_not_live() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        answer = ask("core", "--timeout", "0.2", port=deaf.getsockname()[1])
    assert answer.exit_code == 1
    assert "does not answer within 0.2 s: the process hangs" in answer.output


def test_without_a_port_there_is_nobody_to_ask() -> None:
    answer = CliRunner().invoke(cli, ["health", "apns"], env={})
    assert answer.exit_code == 2
    assert "PUSHQ_METRICS_PORT: found nothing" in answer.output


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # noqa: S104
def test_who_listens_everywhere_is_asked_here(host: str) -> None:
    with process(Health("beat")) as port:
        answer = CliRunner().invoke(
            cli, ["health", "beat"], env={"PUSHQ_METRICS_PORT": str(port), "PUSHQ_METRICS_HOST": host}
        )
    assert answer.exit_code == 0
