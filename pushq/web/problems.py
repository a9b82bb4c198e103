"""Errors as RFC 9457 problem details: ``application/problem+json`` that says what is wrong, where, and what to do next.

Whatever goes wrong leaves in this form and in no other. What was not foreseen says an id and nothing else; the log has the rest under it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any, Final, TypedDict

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pushq.access.keys import UnknownKey
from pushq.access.principal import Forbidden
from pushq.access.users import UnknownUser
from pushq.errors import InvalidRequest, PushqError, ServiceUnavailable
from pushq.ledger.export import MissingLibrary
from pushq.ledger.sends import UnknownSend, WrongState
from pushq.web.security import TooManyRequests, Unauthorized, routes_of
from pushq.web.threads import Busy

log = logging.getLogger("pushq.web")

MEDIA_TYPE: Final = "application/problem+json"
#: Seconds after which to ask again where nobody knows better.
RETRY_AFTER_S: Final = 5


class Problem(PushqError):
    """An answer that is no success, raised where it is decided.

    Attributes:
        status: the HTTP status.
        kind: the last part of ``type``: ``urn:pushq:problem:KIND``.
        more: members beside those of RFC 9457.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.headers, self.more = dict(headers or {}), more


class Document(TypedDict, total=False):
    """The body: members of RFC 9457, and what pushq adds to them."""

    type: str
    title: str
    status: int
    detail: str
    field: str
    found: str
    expected: str
    id: str


#: What stands in ``title``, by kind: the same for every occurrence (RFC 9457 section 3.1.3).
TITLES: Final[Mapping[str, str]] = {
    "invalid-request": "A field of the request is wrong",
    "unreadable-json": "The body is no JSON",
    "incomplete-body": "The body ended early",
    "unauthorized": "No valid API key",
    "forbidden": "The API key does not allow this",
    "not-found": "There is no such resource",
    "method-not-allowed": "The resource has no such method",
    "slow-body": "The body did not arrive in time",
    "wrong-state": "The state of the send does not allow this",
    "exists": "It exists already",
    "idempotency-conflict": "The idempotency key belongs to another call",
    "too-large": "The body is too large",
    "uri-too-long": "The address is too long",
    "media-type": "The body's media type cannot be read here",
    "misdirected": "The request is for another host",
    "too-many-requests": "Too many requests",
    "headers-too-large": "The headers are too large",
    "internal-error": "Something went wrong in pushq",
    "unavailable": "A service that pushq needs cannot be reached",
    "busy": "Too much at once",
    "missing-library": "A library is not installed here",
}


def problem(
    status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """The answer for a problem."""
    document = {
        "type": f"urn:pushq:problem:{kind}",
        "title": TITLES[kind],
        "status": status,
        "detail": detail,
        **more,
    }
    answer = Response(orjson.dumps(document, default=str), status, media_type=MEDIA_TYPE)
    for name, value in (headers or {}).items():
        answer.headers[name] = value
    return answer


def answer_to(error: Exception) -> Response | None:
    """The answer for an error that pushq foresees; None for any other."""
    match error:
        case Problem():
            return problem(error.status, error.kind, error.detail, error.headers, **error.more)
        case InvalidRequest():
            return problem(
                422,
                "invalid-request",
                str(error),
                field=error.field,
                found=error.found,
                expected=error.expected,
            )
        case UnknownSend() | UnknownKey() | UnknownUser():
            return problem(404, "not-found", str(error))
        case WrongState():
            return problem(409, "wrong-state", str(error), state=error.state)
        case Unauthorized():
            return problem(
                401,
                "unauthorized",
                "Send a valid API key: Authorization: Bearer pushq_...; make one with: pushq keys create",
                {"WWW-Authenticate": 'Bearer realm="pushq"'},
            )
        case Forbidden():
            return problem(403, "forbidden", str(error), missing=error.missing)
        case TooManyRequests():
            after = max(1, ceil(error.retry_after_s))
            return problem(
                429,
                "too-many-requests",
                f"This key has used up its rate; ask again in {after} s",
                {"Retry-After": str(after)},
            )
        case ServiceUnavailable():
            # Where a service is stands in the log, not in the answer.
            log.warning("service_unavailable", extra={"service": error.service, "error": error.detail})
            return problem(
                503,
                "unavailable",
                f"{error.service} cannot be reached; nothing was accepted, ask again later",
                {"Retry-After": str(RETRY_AFTER_S)},
                service=error.service,
            )
        case Busy():
            return problem(503, "busy", f"{error}; ask again", {"Retry-After": str(error.retry_after_s)})
        case MissingLibrary():
            return problem(501, "missing-library", str(error))
        case RequestValidationError():
            return _invalid(error.errors())
        case HTTPException():
            return _http(error)
        case _:
            return None


#: Problems that the framework raises by itself, by status.
_BY_STATUS: Final = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "media-type"}


def _http(error: HTTPException) -> Response:
    kind = _BY_STATUS.get(error.status_code, "internal-error" if error.status_code >= 500 else "not-found")
    detail = {"not-found": "Nothing is here", "method-not-allowed": "See the header Allow"}.get(
        kind, HTTPStatus(error.status_code).phrase
    )
    return problem(error.status_code, kind, detail, error.headers)


def _invalid(errors: Sequence[Any]) -> Response:
    """The framework's own findings on path, query and headers, in the words of the others."""
    first = errors[0]
    field = str(first["loc"][-1]) if first.get("loc") else "request"
    found = first.get("input")
    shown = "nothing" if first["type"] == "missing" else repr(found)[:60]
    told = first["msg"].removeprefix("Value error, ")
    expected = told[:1].lower() + told[1:200]
    return problem(
        422,
        "invalid-request",
        f"{field}: found {shown}; expected {expected}",
        field=field,
        found=shown,
        expected=expected,
    )


async def _answer(request: Request, error: Exception) -> Response:
    answer = answer_to(error)
    if answer is not None and answer.status_code == 405:
        answer.headers["Allow"] = ", ".join(_methods(request))
    if answer is None:  # pragma: no cover - handlers are registered for the errors of answer_to
        raise error
    return answer


def _methods(request: Request) -> list[str]:
    """What the resource can do: the framework names the methods of one route of it only."""
    found: set[str] = set()
    for route in routes_of(request.app):
        if route.path_regex.match(request.scope["path"]):
            found |= route.methods
    return sorted(found)


class Failures:
    """Around all routes: an error that nobody foresaw becomes a 500 that says nothing but the id of its line in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            log.debug("client_gone", extra={"path": scope["path"]})
        except Exception as error:  # whatever it is, it must not leave
            answer = answer_to(error)
            if answer is None:
                name = secrets.token_hex(8)
                log.exception("request_failed", extra={"id": name, "path": scope["path"], "begun": begun})
                answer = problem(
                    500, "internal-error", f"pushq's log tells more under the id {name}", id=name
                )
            if begun:
                # Half an answer is out: the connection must end, or it would be taken for a whole one.
                raise Aborted from None
            await answer(scope, receive, send)


class Aborted(Exception):
    """An answer cannot be completed; said in the log already."""


def install(app: FastAPI) -> None:
    """Answer every foreseen error with a problem document."""
    for kind in (PushqError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_middleware(Failures)
