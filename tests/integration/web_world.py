"""`pushq web` on a socket of this process, and keys to call it with."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn
from fastapi import FastAPI

from pushq.access import keys, users
from pushq.access.local import local
from pushq.database import Database

PASSWORD = "correct horse battery staple"


@contextmanager
def served(app: FastAPI, *, headers: tuple[tuple[str, str], ...] = ()) -> Iterator[str]:
    """The application's address on loopback, until the end of the block. ``headers``: proxies believed, as uvicorn takes them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            lifespan="on",
            log_config=None,
            server_header=False,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while not server.started:
                assert thread.is_alive(), "the application did not start"
                assert time.monotonic() < deadline, "the application takes too long to start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive(), "the application does not end"


@dataclass
class Door:
    """A running application, from outside.

    Attributes:
        url: where it listens.
        database: its database, through a pool of the test's own.
    """

    url: str
    app: FastAPI
    database: Database

    def key(
        self,
        *scopes: str,
        apps: Collection[str] | None = None,
        rate: int | None = None,
        name: str = "test",
    ) -> dict[str, str]:
        """Headers with a new key."""
        _, key = keys.issue(self.database, local(), name=name, scopes=scopes, apps=apps, rate=rate)
        return {"Authorization": f"Bearer {key}"}

    def user(self, name: str, *scopes: str, apps: Collection[str] | None = None) -> None:
        """A user whose password is :data:`PASSWORD`."""
        users.create(
            self.database,
            local(),
            name=name,
            password=PASSWORD,
            scopes=scopes or users.DEFAULT_SCOPES,
            apps=apps,
        )

    @contextmanager
    def client(self, headers: dict[str, str] | None = None) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False) as client:
            yield client
