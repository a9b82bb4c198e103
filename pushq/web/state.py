"""What the web process holds: pools, threads and clients, made when it starts and closed when it ends."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Final

import redis
from fastapi import Depends
from starlette.requests import HTTPConnection

from pushq.app_settings import AppSettings
from pushq.database import Database
from pushq.observe.health import Health
from pushq.redis_client import open_redis
from pushq.settings import Settings
from pushq.tokens.cache import TokenCache
from pushq.web.claims import Claims
from pushq.web.enqueue import Enqueuer, publish
from pushq.web.live import Live
from pushq.web.readiness import health_of
from pushq.web.standing import standing
from pushq.web.threads import Threads

#: Short questions at a time: each takes one connection to PostgreSQL for some milliseconds.
SHORT_PLACES: Final = 8
#: Long ones at a time: counting, and one part of an export.
LONG_PLACES: Final = 4
#: Uploads at a time; each takes up to three connections to PostgreSQL.
UPLOAD_PLACES: Final = 2
#: Connections for all of these, for what is published, and some for what runs beside.
POOL_SIZE: Final = SHORT_PLACES + LONG_PLACES + 3 * UPLOAD_PLACES + 6
#: Seconds to wait for a thread, and for its answer.
WAIT_S: Final = 5.0
ANSWER_S: Final = 15.0


@dataclass
class WebState:
    """Made by the application's lifespan; handlers get it as :data:`State`.

    Attributes:
        short: threads for questions that take milliseconds.
        long: threads for what may take minutes.
        uploads: threads that read a body as it comes.
        closing: set when the process is told to end: what streams must come to its end.
        apps: of the configuration as it is now; empty where this process has none.
        claims, enqueuer: of calls on their way; see there.
        live: sends that somebody watches.
    """

    settings: Settings
    database: Database
    redis: redis.Redis
    cache: TokenCache
    health: Health
    short: Threads
    long: Threads
    uploads: Threads
    apps: Mapping[str, AppSettings]
    claims: Claims
    enqueuer: Enqueuer
    live: Live
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        for threads in (self.short, self.long, self.uploads):
            threads.close()
        self.redis.close()


def make(settings: Settings, database: Database) -> WebState:
    """For one process. Makes no connection yet.

    Raises:
        SettingsError: PUSHQ_REDIS_URL is not set.
    """
    client = open_redis(settings.need_redis(), max_connections=16)
    short = Threads("short", SHORT_PLACES, wait_s=WAIT_S, timeout_s=ANSWER_S)
    claims = Claims(client, database)

    async def look(send_id: uuid.UUID) -> dict[str, Any]:
        return await short.run(standing, database, claims, send_id, None)

    return WebState(
        settings=settings,
        database=database,
        redis=client,
        cache=TokenCache(client, database, timedelta(days=settings.token_ttl_days)),
        health=health_of(database, client),
        short=short,
        long=Threads("long", LONG_PLACES, wait_s=WAIT_S),
        uploads=Threads("upload", UPLOAD_PLACES, wait_s=WAIT_S),
        apps=settings.apps,
        claims=claims,
        enqueuer=Enqueuer(claims, publish),
        live=Live(look),
    )


async def _state(connection: HTTPConnection) -> WebState:
    # Not a plain function: FastAPI would call it in a thread.
    state: WebState = connection.app.state.web
    return state


#: A handler's parameter of this type is the process's state.
State = Annotated[WebState, Depends(_state)]
