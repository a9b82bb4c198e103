"""The endpoint of a process: its metrics and its health."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pushq import metrics
from pushq.embedded.server import free_port
from pushq.errors import SettingsError
from pushq.observe.endpoint import MOST_CLIENTS, serve
from pushq.observe.health import Check, Health


@contextmanager
def endpoint(live: dict[str, Check] | None = None, ready: dict[str, Check] | None = None) -> Iterator[int]:
    port = free_port()
    end = serve("127.0.0.1", port, Health("apns", live, ready), version="1.2.3")
    try:
        yield port
    finally:
        end()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_metrics_are_served_until_the_end() -> None:
    with endpoint() as port:
        metrics.sweeper.labels("republished").inc()
        status, text = get(port, "/metrics")
    assert status == 200
    assert 'pushq_sweeper_total{action="republished"} 1.0' in text
    assert "# TYPE pushq_mass_invalidation_held gauge" in text
    assert 'pushq_build_info{python="' in text
    assert "_created{" not in text
    with socket.socket() as probe:
        probe.settimeout(1)
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_in_use_is_an_error_with_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsError, match=f"PUSHQ_METRICS_PORT: found {port} .*expected a port of its own"
        ):
            serve("127.0.0.1", port, Health("apns"), version="1")


def test_what_others_lack_makes_nobody_dead() -> None:
    def away() -> str | None:
        raise ConnectionError("postgres is away")

    with endpoint(live={"loop": lambda: None}, ready={"database": away}) as port:
        status, text = get(port, "/live")
        assert status == 200
        assert json.loads(text) == {
            "role": "apns",
            "probe": "live",
            "ok": True,
            "checks": {"loop": {"ok": True}},
        }
        status, text = get(port, "/ready")
        assert status == 503
        assert json.loads(text)["checks"] == {
            "loop": {"ok": True},
            "database": {"ok": False, "why": "ConnectionError: postgres is away"},
        }


def test_a_check_that_hangs_is_an_answer_in_time_and_one_thread() -> None:
    release, asked = threading.Event(), list[int]()

    def hang() -> str | None:
        asked.append(1)
        release.wait(60)
        return None

    with endpoint(ready={"database": hang}) as port:
        try:
            for _ in range(2):
                status, text = get(port, "/ready")
                assert status == 503
                assert json.loads(text)["checks"]["database"]["why"] == "no answer in time"
            assert len(asked) == 1
        finally:
            release.set()


def test_clients_that_say_nothing_keep_others_out_only_up_to_a_bound() -> None:
    with endpoint() as port, ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            for _ in range(MOST_CLIENTS)
        ]
        for one in silent:
            one.sendall(b"GET /live HTTP/1.0\r\n")  # and no more
        late = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        late.settimeout(10)
        assert late.recv(1) == b""  # turned away at once
        for one in silent:
            one.close()


def test_nothing_else_is_served() -> None:
    with endpoint() as port:
        assert get(port, "/")[0] == 404
