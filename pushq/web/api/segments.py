"""``/v1/apps/{app}/segments``: named parts of an app's users."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from pushq.access.principal import Principal
from pushq.audience import segments as store
from pushq.audience.members import MemberFile
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.rejects import FirstRejects
from pushq.web.answers import Json
from pushq.web.api.documents import gives, problems, takes, takes_lines
from pushq.web.api.parameters import (
    DEFAULT_LIMIT,
    AppPath,
    Cursor,
    Limit,
    SegmentPath,
    known_app,
    known_query,
)
from pushq.web.bodies import media_type, read_object, upload
from pushq.web.pagination import after_segment, next_cursor
from pushq.web.problems import Problem
from pushq.web.security import require, security_of
from pushq.web.state import State

router = APIRouter(prefix="/v1/apps/{app}/segments", tags=["segments"], dependencies=[Depends(known_query)])

_Editor = Annotated[Principal, Depends(require("segments"))]
_LINES: Final = {"text/csv": "user_id\n42\n43\n", "text/plain": "42\n43\n"}


@router.get(
    "", operation_id="list_segments", summary="List segments", responses=gives(200, "Segments", "A page")
)
async def list_segments(
    app: AppPath, state: State, principal: _Editor, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """By name. `all`, which is everybody, is always there and not listed."""
    known_app(app, state.apps, principal)
    found = await state.short.run(store.page_of_segments, state.database, app, after_segment(cursor), limit)
    return Json(
        {
            "segments": found,
            "next_cursor": next_cursor(found, limit, found[-1].name) if found else None,
        }
    )


@router.post(
    "",
    operation_id="create_segment",
    summary="Create a segment",
    status_code=201,
    responses=gives(201, "Segment", "It is there", 409, body=True),
    openapi_extra=takes("NewSegment"),
)
async def create(app: AppPath, request: Request, state: State, principal: _Editor) -> Response:
    """With a filter it is everybody whose device passes, looked at when a send is planned; without one it has members."""
    body = await read_object(request)
    for name in body:
        if name not in ("name", "filter"):
            raise InvalidRequest(name[:60], "an unknown field", "some of: name, filter")
    known_app(app, state.apps, principal)

    def make() -> store.Segment:
        try:
            store.create(state.database, app, body.get("name"), filter=body.get("filter"))  # type: ignore[arg-type]
        except store.SegmentExists as error:
            raise Problem(409, "exists", str(error), field="name") from None
        return store.get(state.database, app, body["name"])

    made = await state.short.run(make)
    security_of(request).audit.add(
        principal, "segment.create", app=app, object_id=made.name, detail={"kind": made.kind}
    )
    return Json(made, 201, headers={"Location": f"/v1/apps/{app}/segments/{made.name}"})


@router.get(
    "/{name}",
    operation_id="show_segment",
    summary="One segment",
    responses=gives(200, "Segment", "As it is stored", 404),
)
async def show(app: AppPath, name: SegmentPath, state: State, principal: _Editor) -> Response:
    """Its kind and its filter."""
    known_app(app, state.apps, principal)
    return Json(await state.short.run(_or_404, store.get, state.database, app, name))


@router.delete(
    "/{name}",
    operation_id="delete_segment",
    summary="Delete a segment",
    status_code=204,
    responses={204: {"description": "Gone"}, **problems(404)},
)
async def delete(
    app: AppPath, name: SegmentPath, request: Request, state: State, principal: _Editor
) -> Response:
    """Devices and users stay."""
    known_app(app, state.apps, principal)
    await state.long.run(_or_404, store.delete, state.database, app, name)
    security_of(request).audit.add(principal, "segment.delete", app=app, object_id=name)
    return Response(status_code=204)


@router.get(
    "/{name}/count",
    operation_id="count_segment",
    summary="How large a segment is now",
    responses=gives(200, "SegmentCount", "Users and active devices", 404),
)
async def count(app: AppPath, name: SegmentPath, state: State, principal: _Editor) -> Response:
    """Reads the devices of the app: of millions it takes seconds."""
    known_app(app, state.apps, principal)
    counted = await state.long.run(_or_404, store.count_segment, state.database, app, name)
    return Json(
        {
            "members": counted.members,
            "devices": counted.devices,
            "total": sum(counted.devices.values()),
        }
    )


_Change = Callable[[Database, str, str, Iterator[list[int]]], int]


async def _members(
    app: str, name: str, request: Request, state: State, principal: Principal, change: _Change, action: str
) -> Response:
    media_type(request, _LINES)
    known_app(app, state.apps, principal)
    await state.short.run(_or_404, store.get, state.database, app, name)
    rejects = FirstRejects()

    def store_members(stream: io.BufferedReader) -> tuple[int, int]:
        with MemberFile(stream, rejects) as members:
            return change(state.database, app, name, members.chunks()), members.accepted

    with upload(request) as stream:
        changed, read = await state.uploads.run(store_members, stream)
    security_of(request).audit.add(
        principal, action, app=app, object_id=name, detail={"changed": changed, "rejected": rejects.count}
    )
    listed = [{"line": line, "reason": reason} for line, reason in rejects.first]
    return Json({"read": read, "changed": changed, "rejected": rejects.count, "rejects": listed})


@router.put(
    "/{name}/members",
    operation_id="replace_members",
    summary="Give a segment these members and no others, as a stream",
    responses=gives(200, "Members", "They are in it now", 404, body=True),
    openapi_extra=takes_lines(_LINES),
)
async def replace(
    app: AppPath, name: SegmentPath, request: Request, state: State, principal: _Editor
) -> Response:
    """One transaction: a send sees the old ones or the new ones, and when the connection breaks off nothing has changed. A user id a
    line, or CSV with a column `user_id`."""
    return await _members(app, name, request, state, principal, store.replace_members, "segment.replace")


@router.post(
    "/{name}/members",
    operation_id="add_members",
    summary="Add members to a segment, as a stream",
    responses=gives(200, "Members", "They are in it now", 404, body=True),
    openapi_extra=takes_lines(_LINES),
)
async def add(
    app: AppPath, name: SegmentPath, request: Request, state: State, principal: _Editor
) -> Response:
    """A transaction for each 50,000 users; who is in it already stays."""
    return await _members(app, name, request, state, principal, store.add_members, "segment.add")


def _or_404(act: Callable[..., Any], *args: Any) -> Any:
    try:
        return act(*args)
    except store.UnknownSegment as error:
        raise Problem(404, "not-found", str(error)) from None
