"""`pushq web` on a socket of this process, and keys and users to call it with."""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redis
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text

from pushq.access import keys, passwords, users
from pushq.access.local import local
from pushq.access.sessions import csrf_token_of
from pushq.database import Database
from pushq.embedded.redis import RedisServer
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings
from pushq.web.app import create_app
from pushq.web.protocol import Protocol
from tests.services.fixtures import Fleet

#: Made once: each client would read all certificates of the machine for it.
_NO_TLS = ssl.create_default_context()
PASSWORD = "correct horse battery staple"
#: Each client comes from an address of its own, as behind a proxy: what one of them uses up is not the next one's.
_ADDRESSES = (f"198.51.{high}.{low}" for high, low in itertools.product(range(256), range(1, 255)))


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application's address on loopback, until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            http=Protocol,
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
class Visitors:
    """Who comes to a running application that believes what loopback says of their addresses.

    Attributes:
        url: where it listens.
        database: what it works with, through a pool of the test's own.
    """

    url: str
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
    def client(self, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Client]:
        """Follows no redirection."""
        given = {"X-Forwarded-For": next(_ADDRESSES), **(headers or {})}
        with httpx.Client(
            base_url=self.url, headers=given, timeout=60, trust_env=False, verify=_NO_TLS
        ) as client:
            yield client

    @contextmanager
    def signed_in(self, name: str) -> Iterator[httpx.Client]:
        """A client with the session's cookie, and with the header that requests for changes need."""
        with self.client() as client:
            answer = client.post(
                "/login", data={**self.login_form(client), "name": name, "password": PASSWORD}
            )
            assert answer.status_code == 303, answer.text
            client.headers["X-CSRF-Token"] = csrf_token_of(client.cookies["pushq_session"])
            yield client

    def login_form(self, client: httpx.Client) -> dict[str, str]:
        return self.fields(client.get("/login"))

    @staticmethod
    def fields(page: httpx.Response) -> dict[str, str]:
        """What the form of a page sends unasked."""
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))

    @staticmethod
    def cookies(client: httpx.Client) -> str:
        """The value of the header."""
        return "; ".join(f"{name}={value}" for name, value in client.cookies.items())

    def change(self, statement: str, **values: Any) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement), values)


@dataclass
class Door(Visitors):
    """An application of this process, from outside.

    Attributes:
        redis: what it works with, through a pool of the test's own.
    """

    app: FastAPI
    settings: Settings
    redis: redis.Redis

    def forget(self) -> None:
        """No users, and no tries to sign in."""
        self.change("TRUNCATE console_users CASCADE")
        for name in self.redis.scan_iter("pushq:web:rate:*"):
            self.redis.delete(name)


@contextmanager
def opened_door(fleet: Fleet, database_url: str, **settings: Any) -> Iterator[Door]:
    """An application on this database and the session's Redis. ``settings``: those of pushq.settings.Settings.

    It can send nothing: a process's broker comes from its environment (see tests/integration/web_process.py).
    """
    server = fleet.ready("redis")
    assert isinstance(server, RedisServer)
    made = Settings(
        database_url=ServiceUrl(database_url),
        redis_url=ServiceUrl(server.url(0)),
        broker_url=ServiceUrl(server.url(1)),
        **settings,
    )
    database = Database(made.need_database(), pool_size=4)
    client = open_redis(made.need_redis(), max_connections=4)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(passwords, "N", 2**10)  # what a password costs a thief, a test need not pay
            app = create_app(made)
            with served(app) as url:
                yield Door(url, database, app, made, client)
    finally:
        client.close()
        database.close()
