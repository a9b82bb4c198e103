"""What Prometheus reads."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from pushq import metrics
from pushq.embedded.server import free_port
from pushq.errors import SettingsError


def test_the_metrics_are_served_until_the_end() -> None:
    port = free_port()
    end = metrics.serve("127.0.0.1", port)
    try:
        metrics.sweeper.labels("republished").inc()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    finally:
        end()
    assert 'pushq_sweeper_total{action="republished"} 1.0' in text
    assert "# TYPE pushq_mass_invalidation_held gauge" in text
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
            metrics.serve("127.0.0.1", port)
