"""A console for the demo: ``pushq web`` beside the workers, with a first user and something to choose from."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from pushq.access import sessions, users
from pushq.access.local import local
from pushq.access.principal import ADMIN
from pushq.audience import segments
from pushq.database import Database
from pushq.demo.fleet import FleetFailed
from pushq.demo.stack import Stack
from pushq.embedded.server import free_port

USER: Final = "demo"
PORT: Final = 8080
START_TIMEOUT_S: Final = 60.0
#: Groups of the generated devices that a message can go to.
SEGMENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "vip": {"tags": {"any": ["vip"]}},
    "german": {"language": ["de"]},
    "latest-app": {"app_version": {"min": "4.2"}},
    "lately-seen": {"last_seen": {"within_days": 7}},
}


@dataclass(frozen=True)
class DemoConsole:
    """Where it is, and who may come in.

    Attributes:
        link: signs in once, within a quarter of an hour.
    """

    address: str
    user: str
    password: str
    link: str


def add_segments(database: Database, app: str) -> None:
    """Make the groups of :data:`SEGMENTS`."""
    for name, conditions in SEGMENTS.items():
        segments.create(database, app, name, filter=conditions)


def start(stack: Stack, database: Database, *, port: int = PORT) -> DemoConsole:
    """Start ``pushq web`` in the stack, and make the first user.

    Args:
        port: where it listens; another that is free where somebody else does.

    Raises:
        FleetFailed: it does not answer.
    """
    port = port if _is_free(port) else free_port()
    address = f"http://127.0.0.1:{port}"
    stack.fleet.launch("web", "web", "--host", "127.0.0.1", "--port", str(port))
    _await_ready(stack, address)
    password = secrets.token_urlsafe(12)
    users.create(database, local(), name=USER, password=password, scopes=[ADMIN])
    return DemoConsole(address, USER, password, new_link(database, address))


def new_link(database: Database, address: str) -> str:
    """Another link that signs in once."""
    return f"{address}/login/link/{sessions.login_link(database, local(), USER)}"


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _await_ready(stack: Stack, address: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(base_url=address, timeout=5.0, trust_env=False) as client:
        while True:
            stack.fleet.check_alive()
            try:
                if client.get("/healthz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            if time.monotonic() > deadline:
                raise FleetFailed(
                    f"pushq web was not ready after {START_TIMEOUT_S:g} s:\n{stack.fleet.log_tail('web')}"
                )
            time.sleep(0.05)
