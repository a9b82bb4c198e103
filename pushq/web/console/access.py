"""Keys, users and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from pushq.access import audit, keys, users
from pushq.access.principal import SCOPES, Principal
from pushq.web.console.forms import Filled
from pushq.web.console.pages import page
from pushq.web.console.routing import PageRoute, go_to, note_of, whole
from pushq.web.security import session
from pushq.web.state import State, WebState

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Auditor = Annotated[Principal, Depends(session("audit:read"))]
Admin = Annotated[Principal, Depends(session("admin"))]

ROWS = 50


@router.get("/console/access")
async def access(request: Request, web: State, who: Auditor, before: str | None = None) -> Response:
    """Who may do what, and who did what."""
    return await _page(request, web, who, None if before is None else whole(before, "before"))


async def _page(
    request: Request, web: WebState, who: Principal, before: int | None = None, made: str | None = None
) -> Response:
    rows = await web.short.run(audit.read, web.database, limit=ROWS, before=before, apps=who.apps)
    admin = who.may("admin")
    return page(
        request,
        who,
        "access.html",
        here="access",
        note=note_of(request),
        rows=rows,
        older=rows[-1].id if len(rows) == ROWS else None,
        keys=await web.short.run(keys.list_keys, web.database, revoked=True, apps=who.apps) if admin else (),
        users=await web.short.run(users.list_users, web.database, apps=who.apps) if admin else (),
        scopes=SCOPES,
        apps=sorted(web.apps),
        made=made,
    )


@router.post("/console/access/keys")
async def make_key(request: Request, web: State, who: Admin, form: Filled) -> Response:
    """Make a key, and show it this once."""
    _, text = await web.short.run(
        keys.issue,
        web.database,
        who,
        name=form.text("name") or "",
        scopes=form.texts("scope"),
        apps=_granted(who, form.texts("app")),
    )
    return await _page(request, web, who, made=text)


def _granted(who: Principal, apps: list[str]) -> list[str] | None:
    """The apps of a new key: never more than its maker's own."""
    for app in apps:
        who.check_app(app)
    return apps or (None if who.apps is None else sorted(who.apps))


@router.post("/console/access/keys/{key_id}/revoke")
async def revoke_key(web: State, who: Admin, key_id: str) -> Response:
    """Let a key in no more."""
    await web.short.run(keys.revoke, web.database, who, key_id)
    return go_to("/console/access", "revoked")
