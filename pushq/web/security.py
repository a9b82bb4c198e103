"""Who asks: the dependencies that every route has one of, and what is installed around all routes.

A route of the API takes ``Annotated[Principal, Depends(require("send"))]``, a page of the console
``Annotated[Principal, Depends(session("sends:read"))]``. A test walks all routes and insists on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from pushq.access.principal import SCOPES, Forbidden, Principal
from pushq.database import Database
from pushq.errors import PushqError
from pushq.settings import Settings

__all__ = [
    "SCOPES",
    "Forbidden",
    "LoginRequired",
    "Principal",
    "TooManyRequests",
    "Unauthorized",
    "csrf_token",
    "install",
    "opened",
    "require",
    "session",
]

Dependency = Callable[[Request], Awaitable[Principal]]


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


def require(scope: str) -> Dependency:
    """A dependency for routes of the API: the principal, who has this scope.

    Takes ``Authorization: Bearer pushq_...``, or the console's session (with the CSRF token in ``X-CSRF-Token`` for unsafe methods).

    Raises, when called: Unauthorized (401), Forbidden (403), TooManyRequests (429), ServiceUnavailable (503).
    """
    raise NotImplementedError


def session(scope: str | None = None) -> Dependency:
    """A dependency for pages of the console: who is signed in, with this scope if one is named.

    Unsafe methods need the CSRF token, as the form field ``csrf_token`` or the header ``X-CSRF-Token``.

    Raises, when called: LoginRequired, Forbidden, ServiceUnavailable.
    """
    raise NotImplementedError


def csrf_token(request: Request) -> str:
    """The token that this session's forms and scripts must send; after :func:`session` has run."""
    raise NotImplementedError


def install(app: FastAPI) -> None:
    """Add middleware (headers of each answer), exception handlers (LoginRequired) and the routes /login and /logout."""


@asynccontextmanager
async def opened(app: FastAPI, settings: Settings, database: Database) -> AsyncIterator[None]:
    """What the dependencies work with, for as long as the application runs; entered by the application's lifespan."""
    yield
