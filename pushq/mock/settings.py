"""What a mock can be told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EngineName = Literal["fast", "strict"]
DEAD_PREFIX = "deaddeaddead"
LOOPBACK = "localhost"


@dataclass(frozen=True, slots=True)
class MockSettings:
    """Ports: 0 takes a free one.

    Attributes:
        folder: credentials, ``pushq.toml`` and ``ready.json`` go here.
        dead_prefix: tokens that begin with it are dead to every provider.
        topic: the bundle id of the one app.
        app: name of the app in ``pushq.toml``.
        host: the name that clients use. Any but ``localhost`` listens on all interfaces, which belongs in a container only.
        parent_pid: end when this process, our parent, is gone.
    """

    folder: Path
    engine: EngineName = "fast"
    latency_ms: float = 80.0
    latency_spread_ms: float = 0.0
    dead_prefix: str = DEAD_PREFIX
    topic: str = "com.example.shop"
    app: str = "shop"
    host: str = LOOPBACK
    apns_streams: int = 1000
    fcm_streams: int = 100
    oauth_lifetime_s: int = 3599
    apns_port: int = 0
    sandbox_port: int = 0
    fcm_port: int = 0
    oauth_port: int = 0
    hms_port: int = 0
    hms_oauth_port: int = 0
    manage_port: int = 0
    sandbox_manage_port: int = 0
    topics_port: int = 0
    control_port: int = 0
    proxy_port: int = 0
    faults_file: Path | None = None
    seed: int = 0
    parent_pid: int | None = None
