"""Who asks: the dependencies that every route has one of, and what is installed around all routes.

A route of the API takes ``Annotated[Principal, Depends(require("send"))]``, a page of the console
``Annotated[Principal, Depends(session("sends:read"))]``. An application with a route that has neither and is not :data:`PUBLIC` does not
start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request, routing
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from pushq.access import keys, sessions
from pushq.access.principal import SCOPES, Forbidden, Principal
from pushq.database import Database
from pushq.errors import PushqError, ServiceUnavailable
from pushq.redis_client import open_redis
from pushq.settings import Settings
from pushq.web.audit import AuditWriter
from pushq.web.cookies import SAFE_METHODS, check_origin_and_token, session_token
from pushq.web.headers import SecurityHeaders
from pushq.web.lookups import Lookups
from pushq.web.ratelimit import Meters, Rate, RateLimiter
from pushq.web.streams import STILL_ALLOWED, EndedAccess
from pushq.web.threads import Threads

__all__ = [
    "PUBLIC",
    "SCOPES",
    "Forbidden",
    "LoginRequired",
    "Principal",
    "Security",
    "TooManyRequests",
    "Unauthorized",
    "csrf_token",
    "install",
    "opened",
    "require",
    "routes_of",
    "scopes_of",
    "session",
    "unguarded",
]

Dependency = Callable[..., Awaitable[Principal]]

#: Paths that anybody may ask for. What stands there tells nothing, or asks for a password itself.
PUBLIC: Final = frozenset(
    {
        "/",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/login",
        "/login/link/{token}",
        "/console/static/{version}/{name}",
    }
)
#: Keys that are none, from one address: so many a second are looked up, and so many at once.
WRONG_KEYS: Final = Rate(per_s=5.0, burst=50)
#: A client may use up two seconds of its rate at once.
BURST_S: Final = 2


class Unauthorized(PushqError):
    """No key, or none that is valid: 401. Says nothing about which of the two."""


class TooManyRequests(PushqError):
    """429.

    Attributes:
        retry_after_s: seconds after which to ask again.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class LoginRequired(PushqError):
    """Nobody is signed in: :func:`install` answers with the way to the login page."""


@dataclass
class Security:
    """What the dependencies work with: ``app.state.security``.

    Attributes:
        audit: for what is done outside of a transaction.
        logins: threads that check passwords; each try takes 32 MiB for a tenth of a second.
    """

    settings: Settings
    database: Database
    keys: Lookups[keys.CheckedKey]
    sessions: Lookups[sessions.Session]
    limiter: RateLimiter
    wrong: Meters
    audit: AuditWriter
    threads: Threads
    logins: Threads


def security_of(connection: HTTPConnection) -> Security:
    found: Security = connection.app.state.security
    return found


#: For the OpenAPI document; what comes in is read below.
_BEARER: Final = HTTPBearer(
    auto_error=False, scheme_name="bearer", description="An API key: `pushq keys create` makes one."
)


def remote_of(connection: HTTPConnection) -> str | None:
    """The address that the request came from; behind a trusted proxy the server has put the browser's there."""
    return None if connection.client is None else connection.client.host[:64]


@cache
def require(scope: str) -> Dependency:
    """A dependency for routes of the API: the principal, who has this scope.

    Takes ``Authorization: Bearer pushq_...``, or the console's session (with the CSRF token in ``X-CSRF-Token`` for unsafe methods).

    Raises, when called: Unauthorized (401), Forbidden (403), TooManyRequests (429), ServiceUnavailable or Busy (503).
    """
    _known(scope)

    async def caller(request: Request, _: Annotated[object, Depends(_BEARER)]) -> Principal:
        security = security_of(request)
        if "authorization" in request.headers:
            principal, rate = await _by_key(security, request)
        else:
            found = await _by_session(security, request, form=False)
            if found is None:
                raise Unauthorized
            principal, rate = found, None
        await _allow(security, request, principal, rate)
        principal.check(scope)
        return principal

    setattr(caller, _SCOPE, scope)
    return caller


@cache
def session(scope: str | None = None) -> Dependency:
    """A dependency for pages of the console: who is signed in, with this scope if one is named.

    Unsafe methods need the CSRF token, as the form field ``csrf_token`` or the header ``X-CSRF-Token``.

    Raises, when called: LoginRequired, Forbidden, TooManyRequests, ServiceUnavailable or Busy.
    """
    if scope is not None:
        _known(scope)

    async def visitor(request: Request) -> Principal:
        security = security_of(request)
        principal = await _by_session(security, request, form=True)
        if principal is None:
            raise LoginRequired
        await _allow(security, request, principal, None)
        if scope is not None:
            principal.check(scope)
        return principal

    setattr(visitor, _SCOPE, scope or "session")
    return visitor


#: Where a dependency says what it asks for.
_SCOPE: Final = "pushq_scope"


def _known(scope: str) -> None:
    if scope not in SCOPES:
        raise ValueError(f"scope: found {scope!r}; expected one of {', '.join(SCOPES)}")


async def _by_key(security: Security, request: Request) -> tuple[Principal, int | None]:
    """The key's principal and its own rate. Raises Unauthorized, TooManyRequests."""
    given = request.headers.getlist("authorization")
    scheme, _, text = given[0].partition(" ")
    parsed = keys.parse(text.strip()) if scheme.lower() == "bearer" else None
    if len(given) > 1 or parsed is None:
        raise Unauthorized
    key_id, secret = parsed
    remote = remote_of(request)
    if not security.keys.knows(key_id):
        # Strangers with invented ids must not keep the database busy; keys that were good a moment ago are not in their way.
        wait = security.wrong.take(remote or "", WRONG_KEYS)
        if wait:
            raise TooManyRequests(wait)
    checked = await security.keys.get(key_id)
    if not keys.proves(checked, secret) or checked is None:
        raise Unauthorized
    principal = checked.key.principal(remote)

    async def still_allowed() -> bool:
        now = await security.keys.get(key_id)
        return now is not None and now.key.principal(remote) == principal

    setattr(request.state, STILL_ALLOWED, still_allowed)
    return principal, checked.key.rate


async def _by_session(security: Security, request: Request, *, form: bool) -> Principal | None:
    """Who is signed in; None when nobody is. Raises Forbidden when the request cannot be one of our pages'."""
    token = session_token(request)
    found = None if token is None else await security.sessions.get(token)
    if token is None or found is None:
        return None
    if request.method not in SAFE_METHODS:
        await check_origin_and_token(request, token, form=form)
    request.state.csrf_token = sessions.csrf_token_of(token)
    remote = remote_of(request)
    principal = found.user.principal(remote)

    async def still_allowed() -> bool:
        now = await security.sessions.get(token)
        return now is not None and now.user.principal(remote) == principal

    setattr(request.state, STILL_ALLOWED, still_allowed)
    return principal


async def _allow(security: Security, request: Request, principal: Principal, rate: int | None) -> None:
    """Raise TooManyRequests, or ServiceUnavailable when what would be done could not be put on record."""
    request.state.principal = principal
    per_s = rate or security.settings.web_key_rate
    wait = await security.limiter.take(
        f"{principal.kind}:{principal.id}", Rate(per_s, max(10, BURST_S * per_s))
    )
    if wait:
        raise TooManyRequests(wait)
    if request.method not in SAFE_METHODS and not security.audit.has_room():
        raise ServiceUnavailable("PostgreSQL", "PUSHQ_DATABASE_URL", "the audit log cannot be written")


def csrf_token(request: Request) -> str:
    """The token that this session's forms and scripts must send; after :func:`session` has run."""
    token: str = request.state.csrf_token
    return token


def routes_of(app: FastAPI) -> list[Any]:
    """Every route, also those of routers that were included: each has ``path``, ``methods`` and, if it is FastAPI's, ``dependant``."""
    # Before FastAPI had this function, including a router copied its routes.
    walk: Callable[[Any], Iterable[Any]] = getattr(routing, "iter_route_contexts", iter)
    return list(walk(app.routes))


def scopes_of(route: Any) -> frozenset[str]:
    """What a route asks for: scopes, or ``session`` where it is enough to be signed in. Empty: nothing."""
    dependant = getattr(route, "dependant", None)
    return frozenset() if dependant is None else frozenset(_scopes(dependant))


def _scopes(dependant: Dependant) -> Iterator[str]:
    scope = getattr(dependant.call, _SCOPE, None)
    if scope is not None:
        yield scope
    for each in dependant.dependencies:
        yield from _scopes(each)


def unguarded(app: FastAPI) -> list[str]:
    """Paths that let everybody in and are not meant to."""
    return sorted(
        str(getattr(route, "path", None) or route)
        for route in routes_of(app)
        if getattr(route, "path", None) not in PUBLIC and not scopes_of(route)
    )


def install(app: FastAPI) -> None:
    """Add middleware (headers of each answer, the end of streams), exception handlers (LoginRequired) and the routes /login and /logout."""
    from pushq.web import login  # noqa: PLC0415 - its answers are problems, whose module knows the errors of this one

    login.install(app)
    app.add_middleware(EndedAccess)
    app.add_middleware(SecurityHeaders)


@asynccontextmanager
async def opened(app: FastAPI, settings: Settings, database: Database) -> AsyncIterator[None]:
    """What the dependencies work with, for as long as the application runs; entered by the application's lifespan.

    Raises:
        RuntimeError: a route lets everybody in.
    """
    if found := unguarded(app):
        raise RuntimeError(f"routes without a scope: {', '.join(found)}")
    async with AsyncExitStack() as stack:
        threads = Threads("security", 4, wait_s=3.0, timeout_s=15.0)
        limits = Threads("rates", 2, wait_s=1.0, timeout_s=2.0)
        writing = Threads("audit", 1, wait_s=30.0)
        logins = Threads("login", 2, wait_s=5.0, timeout_s=15.0)
        for each in (threads, limits, writing, logins):
            stack.callback(each.close)
        # Who waits for Redis waits in front of everything: rather limit by ourselves than hang.
        client = open_redis(
            settings.need_redis(), max_connections=4, connect_timeout=0.5, command_timeout=0.5
        )
        stack.callback(client.close)
        security = Security(
            settings,
            database,
            Lookups(lambda key_id: keys.look_up(database, key_id), threads),
            Lookups(lambda token: sessions.look_up(database, token), threads),
            RateLimiter(client, limits),
            Meters(),
            AuditWriter(database, writing),
            threads,
            logins,
        )
        stack.push_async_callback(security.keys.close)
        stack.push_async_callback(security.sessions.close)
        security.audit.start()
        stack.push_async_callback(security.audit.close)
        app.state.security = security
        yield
