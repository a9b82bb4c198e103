"""The application: routes, what stands around them, and what lives as long as the process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from pushq import __version__
from pushq.database import Database
from pushq.settings import Settings
from pushq.web import problems, security, state
from pushq.web.answers import Json
from pushq.web.api import audit, calls, devices, health, segments, sends
from pushq.web.api.documents import describe
from pushq.web.configuration import following
from pushq.web.console import routes as console
from pushq.web.limits import Limits, hosts_of

DESCRIPTION = """
Push notifications at scale over HTTP. Every call needs an API key, `Authorization: Bearer pushq_...`, made by `pushq keys create`.
Errors are problem details (RFC 9457) that name the field. See docs/http-api.md.
"""


def create_app(settings: Settings, *, database: Database | None = None) -> FastAPI:
    """The application. It opens nothing before it is started.

    Args:
        database: the caller's own, which stays open; None: one is opened and closed.

    Raises:
        SettingsError: PUSHQ_DATABASE_URL, PUSHQ_REDIS_URL or PUSHQ_BROKER_URL is not set.
    """
    url = settings.need_database()
    settings.need_redis()
    settings.need_broker()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            opened = database
            if opened is None:
                opened = Database(url, pool_size=state.POOL_SIZE, application_name="pushq-web")
                stack.callback(opened.close)
            made = state.make(settings, opened)
            stack.callback(made.close)
            app.state.web = made
            await stack.enter_async_context(made.enqueuer)
            stack.push_async_callback(made.live.close)
            if settings.config is not None and settings.reload_seconds:
                await stack.enter_async_context(following(made, settings.config, settings.reload_seconds))
            await stack.enter_async_context(security.opened(app, settings, opened))
            yield

    app = FastAPI(
        title="pushq",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        default_response_class=Json,
        docs_url=None,  # its page loads scripts from a CDN
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    for resource in (calls, sends, devices, segments, audit, health):
        app.include_router(resource.router)
    describe(app)
    console.install(app)
    problems.install(app)
    app.add_middleware(Limits, hosts=hosts_of(settings))
    security.install(app)
    return app
