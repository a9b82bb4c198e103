"""Parameters that several routes have, and strictness about those that none has."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Annotated

from fastapi import Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import AwareDatetime, BeforeValidator

from pushq.access.principal import Principal
from pushq.app_settings import AppSettings
from pushq.audience.request import MAX_USER_ID
from pushq.errors import InvalidRequest
from pushq.ledger.sends import resolve_app
from pushq.submission import MAX_KEY_LENGTH
from pushq.tokens.device import parse_app
from pushq.web.api.schemas import APP_PATTERN, SEGMENT_PATTERN
from pushq.web.pagination import DEFAULT, MOST

SendId = Annotated[uuid.UUID, Path(description="The id that the call was answered with")]
AppPath = Annotated[str, Path(pattern=APP_PATTERN, description="The app, as in PUSHQ_CONFIG")]
SegmentPath = Annotated[str, Path(pattern=SEGMENT_PATTERN, description="The segment's name")]
UserId = Annotated[int, Path(ge=1, le=MAX_USER_ID)]
DeviceId = Annotated[int, Path(ge=1, le=MAX_USER_ID)]
Limit = Annotated[int, Query(ge=1, le=MOST, description="Rows of a page")]
Cursor = Annotated[str | None, Query(max_length=500, description="next_cursor of the page before, as it was")]
DEFAULT_LIMIT = DEFAULT


def _written_out(value: object) -> object:
    # Else 0.5 would be half a second after 1970.
    if isinstance(value, str) and not _DATE(value):
        raise ValueError("a time such as 2030-01-31T18:00:00+01:00")
    return value


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]").match
#: A time with its zone.
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]

_known_names: dict[str, tuple[frozenset[str], frozenset[str]]] = {}


async def known_query(request: Request) -> None:
    """Refuse query parameters that the route has not, or that it takes once and got twice: a typo must not become a wish unheard."""
    if not request.scope["query_string"]:
        return
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    name_of_route = route.unique_id
    if name_of_route not in _known_names:
        fields = route.dependant.query_params
        many = frozenset(field.alias for field in fields if "list" in str(field.field_info.annotation))
        _known_names[name_of_route] = frozenset(field.alias for field in fields), many
    names, many = _known_names[name_of_route]
    seen: set[str] = set()
    for name, value in request.query_params.multi_items():
        if name not in names:
            expected = f"some of: {', '.join(sorted(names))}" if names else "none"
            raise InvalidRequest(name[:60], "a parameter that this resource has not", expected)
        if name in seen and name not in many:
            raise InvalidRequest(name, "it twice", "it once")
        if "\0" in value:
            raise InvalidRequest(name, "a NUL character", "text without NUL characters")
        seen.add(name)


def idempotency_key(request: Request) -> str | None:
    """The header ``Idempotency-Key``.

    Raises:
        InvalidRequest: there are several, or it is empty, too long or holds what is no visible ASCII.
    """
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest("Idempotency-Key", f"{len(given)} headers", "one")
    key = given[0]
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not all(" " <= char <= "~" for char in key):
        raise InvalidRequest(
            "Idempotency-Key",
            f"{len(key)} characters",
            f"1 to {MAX_KEY_LENGTH} characters of printable ASCII",
        )
    return key


def app_of_call(app: object, apps: Mapping[str, AppSettings], principal: Principal) -> str | None:
    """The app that a call means, which the principal may touch.

    Where this process has no configuration (``PUSHQ_CONFIG``), the workers find out whether there is such an app.

    Raises:
        InvalidRequest: there is no such app, or none was named and it is not clear which.
        Forbidden: the app is not granted.
    """
    if app is not None:
        app = parse_app(app)
        principal.check_app(app)
    elif principal.apps is not None and len(principal.apps) == 1:
        app = next(iter(principal.apps))
    if apps:
        app = resolve_app(app, apps)
        principal.check_app(app)
    elif app is None and principal.apps is not None:
        raise InvalidRequest("app", "nothing", f"one of: {', '.join(sorted(principal.apps))}")
    return app


def known_app(app: str, apps: Mapping[str, AppSettings], principal: Principal) -> str:
    """An app of a path or of a device. Raises as :func:`app_of_call` does."""
    principal.check_app(app)
    return resolve_app(app, apps) if apps else app
