"""How routes say in the OpenAPI document what they take and give, and the document itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pushq.web.api.schemas import SCHEMAS, ref
from pushq.web.problems import MEDIA_TYPE, TITLES

_WHY: Final[Mapping[int, str]] = {
    400: "The body is no JSON, or ended early",
    401: "No valid API key",
    403: "The key has not this scope, or not this app",
    404: "There is no such resource",
    408: "The body did not arrive in time",
    409: "The state of things does not allow it",
    413: "The body is too large",
    415: "Another media type than this resource reads",
    422: "A field is wrong; the answer names it",
    429: "Too many requests with this key; see Retry-After",
    501: "A library is not installed",
    503: "A service that pushq needs cannot be reached, or too much is going on; nothing was accepted. See Retry-After",
}
_ALWAYS: Final = (401, 403, 422, 429, 503)
_WITH_BODY: Final = (400, 408, 413, 415)

#: One of a stream of events.
_EVENT: Final = {"type": "object", "properties": {name: {"type": "string"} for name in ("event", "data")}}

Responses = dict[int | str, dict[str, Any]]


def gives(
    status: int,
    schema: str,
    said: str,
    *others: int,
    body: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Responses:
    """The answers of a route: its own, and the problems that it may have.

    Args:
        others: statuses of problems beside those that every route has.
        body: whether it reads one.
        headers: of the answer that is no problem, with what they say.
    """
    answer: dict[str, Any] = {"description": said, "content": {"application/json": {"schema": ref(schema)}}}
    if headers:
        answer["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
        }
    return {status: answer, **problems(*others, body=body)}


def gives_stream(said: str, types: tuple[str, ...], *others: int) -> Responses:
    """The answers of a route whose own is no JSON."""
    content = {
        name: {"schema": _EVENT if name == "text/event-stream" else {"type": "string"}} for name in types
    }
    return {200: {"description": said, "content": content}, **problems(*others)}


def problems(*others: int, body: bool = False) -> Responses:
    """What may go wrong."""
    found: Responses = {}
    for status in sorted({*_ALWAYS, *others, *(_WITH_BODY if body else ())}):
        found[status] = {
            "description": _WHY[status],
            "content": {MEDIA_TYPE: {"schema": ref("Problem")}},
        }
        if status in (429, 503):
            found[status]["headers"] = {
                "Retry-After": {"description": "Seconds", "schema": {"type": "string"}}
            }
    return found


def refused() -> Responses:
    """What may go wrong where no key is needed."""
    return {422: {"description": _WHY[422], "content": {MEDIA_TYPE: {"schema": ref("Problem")}}}}


def takes(schema: str, *, required: bool = True) -> dict[str, Any]:
    """A JSON body."""
    return {
        "requestBody": {
            "required": required,
            "content": {"application/json": {"schema": ref(schema), "example": SCHEMAS[schema]["example"]}},
        }
    }


def takes_lines(examples: Mapping[str, str]) -> dict[str, Any]:
    """A body that is read line by line.

    Args:
        examples: by media type.
    """
    return {
        "requestBody": {
            "required": True,
            "content": {
                # Lines, of any number: what is wrong with one of them is said of this one.
                name: {"schema": {}, "example": example}
                for name, example in examples.items()
            },
        }
    }


def describe(app: FastAPI) -> None:
    """Make the document when somebody asks for it, with the schemas that the routes name."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                summary="Push notifications at scale",
                description=app.description,
                routes=app.routes,
                tags=TAGS,
            )
            made.setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


TAGS: Final = [
    {"name": "broadcasts", "description": "One message to an audience, however large."},
    {"name": "notifications", "description": "One message to some users, ahead of all broadcasts."},
    {"name": "sends", "description": "What became of calls, and the brake."},
    {"name": "devices", "description": "Who has which device."},
    {"name": "segments", "description": "Named parts of an app's users."},
    {"name": "audit", "description": "Who did what."},
    {"name": "health", "description": "For probes and for Prometheus."},
]

#: Of problems, for the page that lists them.
KINDS: Final = tuple(TITLES)
