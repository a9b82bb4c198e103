"""``/v1/audit``: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from pushq.access import audit as log
from pushq.access.principal import Principal
from pushq.web.answers import Json
from pushq.web.api.documents import gives
from pushq.web.api.parameters import DEFAULT_LIMIT, Cursor, Limit, Moment, known_query
from pushq.web.api.schemas import APP_PATTERN
from pushq.web.pagination import after_row, next_cursor
from pushq.web.security import require
from pushq.web.state import State

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[Depends(known_query)])


@router.get(
    "",
    operation_id="list_audit",
    summary="Who did what, newest first",
    responses=gives(200, "AuditLog", "A page"),
)
async def list_audit(
    state: State,
    principal: Annotated[Principal, Depends(require("audit:read"))],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    actor: Annotated[
        str | None, Query(min_length=1, max_length=64, description="Name or id of a key or user")
    ] = None,
    action: Annotated[
        str | None,
        Query(
            pattern=r"^[a-z]+([._][a-z]+)*$",
            max_length=60,
            description="Such as send.pause; send finds all that begins with it",
        ),
    ] = None,
    app: Annotated[str | None, Query(pattern=APP_PATTERN)] = None,
    object_id: Annotated[
        str | None,
        Query(
            alias="object",
            min_length=1,
            max_length=200,
            description="Id of a send or key, name of a user or segment",
        ),
    ] = None,
    since: Annotated[Moment | None, Query(description="With its time zone")] = None,
) -> Response:
    """Whoever may touch some apps only sees what was done to these."""
    if app is not None:
        principal.check_app(app)
    rows = await state.short.run(
        log.read,
        state.database,
        limit=limit,
        before=after_row(cursor),
        actor=actor,
        action=action,
        app=app,
        object_id=object_id,
        since=since,
        apps=principal.apps,
    )
    return Json({"audit": rows, "next_cursor": next_cursor(rows, limit, str(rows[-1].id)) if rows else None})
