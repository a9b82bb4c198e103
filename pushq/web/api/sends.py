"""``/v1/sends``: what became of calls, live progress, the brake, and every recipient as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from pushq import control
from pushq.access.principal import Principal
from pushq.errors import InvalidRequest, kind
from pushq.ledger import progress
from pushq.web.answers import Json
from pushq.web.api.documents import gives, gives_stream, takes
from pushq.web.api.parameters import DEFAULT_LIMIT, Cursor, Limit, SendId, known_query
from pushq.web.api.schemas import APP_PATTERN
from pushq.web.bodies import read_object
from pushq.web.pagination import after_send, next_cursor
from pushq.web.security import require
from pushq.web.standing import standing
from pushq.web.state import State, WebState
from pushq.web.streams import Stream
from pushq.web.threads import Threads

router = APIRouter(prefix="/v1/sends", tags=["sends"], dependencies=[Depends(known_query)])

_Reader = Annotated[Principal, Depends(require("sends:read"))]
_Controller = Annotated[Principal, Depends(require("sends:control"))]
_State = Literal["scheduled", "planning", "sending", "paused", "done", "failed", "cancelled"]
_Outcome = Literal[
    "pending", "accepted", "dead", "rejected", "exhausted", "expired", "suppressed", "cancelled", "unknown"
]

#: Seconds of silence after which a comment is sent: proxies cut what seems dead.
KEEP_ALIVE_S: Final = 15.0
_TYPES: Final = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}


@router.get(
    "",
    operation_id="list_sends",
    summary="List sends, newest first",
    responses=gives(200, "Sends", "A page"),
)
async def list_sends(
    state: State,
    principal: _Reader,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    app: Annotated[str | None, Query(pattern=APP_PATTERN, description="Only sends of this app")] = None,
    send_state: Annotated[
        list[_State] | None, Query(alias="state", description="Only sends in one of these")
    ] = None,
) -> Response:
    """Sends of the apps that the key may touch. A send that no worker has taken up yet is not among them."""
    if app is not None:
        principal.check_app(app)
    rows = await state.short.run(
        progress.recent,
        state.database,
        limit,
        after=after_send(cursor),
        apps=principal.apps if app is None else (app,),
        states=send_state or None,
    )
    last = (rows[-1]["created_at"].isoformat(), str(rows[-1]["id"])) if rows else ()
    sends = [{"send_id": row.pop("id"), **row} for row in rows]
    for send in sends:
        del send["created_at"]
    return Json({"sends": sends, "next_cursor": next_cursor(rows, limit, *last)})


@router.get(
    "/{send_id}",
    operation_id="show_send",
    summary="Where one send stands",
    responses=gives(200, "Progress", "Exact sums over its batches", 404),
)
async def show(send_id: SendId, state: State, principal: _Reader) -> Response:
    """Counts by platform and outcome, and why recipients were not reached."""
    return Json(
        await state.short.run(standing, state.database, state.claims, send_id, principal, reasons=True)
    )


@router.get(
    "/{send_id}/events",
    operation_id="follow_send",
    summary="Follow a send: server-sent events",
    response_class=Stream,
    responses=gives_stream("Events, until the send has ended", ("text/event-stream",), 404),
)
async def follow(send_id: SendId, state: State, principal: _Reader) -> Response:
    """`event: progress` with the document of the send whenever it has changed, at most twice a second, with `per_second` and
    `eta_seconds`; `event: end` with the last one. Nothing is lost by connecting anew: the first event says where the send stands."""
    # Before the answer begins: whether there is such a send, and whether it may be looked at.
    await state.short.run(standing, state.database, state.claims, send_id, principal)
    return Stream(
        _events(state, send_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(state: WebState, send_id: SendId) -> AsyncIterator[bytes]:
    async with state.live.watch(send_id) as documents:
        closing = asyncio.ensure_future(state.closing.wait())
        coming: asyncio.Future[dict[str, Any]] | None = None
        try:
            yield b"retry: 2000\n\n"
            while True:
                coming = coming or asyncio.ensure_future(anext(documents))
                either: set[asyncio.Future[Any]] = {coming, closing}
                done, _ = await asyncio.wait(
                    either, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if closing in done:
                    return
                if not done:
                    yield b": still here\n\n"
                    continue
                document = coming.result()
                coming = None
                yield b"event: progress\ndata: " + orjson.dumps(document) + b"\n\n"
                if document["finished"]:
                    yield b"event: end\ndata: " + orjson.dumps(document) + b"\n\n"
                    return
        finally:
            closing.cancel()
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)


@router.get(
    "/{send_id}/export",
    operation_id="export_send",
    summary="Every recipient of a send, as a stream",
    response_class=Stream,
    responses=gives_stream(
        "One row for each recipient", tuple(t.split(";")[0] for t in _TYPES.values()), 404, 501
    ),
)
async def export(
    send_id: SendId,
    state: State,
    principal: _Reader,
    format: Literal["csv", "jsonl", "parquet"] = "csv",  # noqa: A002 - the parameter's name
    outcome: Annotated[
        list[_Outcome] | None, Query(description="Only recipients with one of these outcomes")
    ] = None,
) -> Response:
    """One row for each planned recipient, with outcome, reason, tries and time. Read in pages: a slow reader holds nothing up."""
    parts = control.export_parts(
        send_id, format, outcomes=outcome or (), by=principal, database=state.database
    )
    first = await state.long.run(next, parts)
    return Stream(
        _rest(state.long, first, parts),
        media_type=_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="{send_id}.{format}"'},
    )


async def _rest(threads: Threads, first: bytes, parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    while (part := await threads.run(next, parts, None)) is not None:
        yield part


def _changed(change: control.Change) -> Response:
    return Json({"send_id": change.send_id, "changed": change.changed, "state": change.state})


_CHANGE: Final = gives(200, "Change", "Done, or as ordered already", 404)
_CHANGE_BY_BODY: Final = gives(200, "Change", "Done, or as ordered already", 404, body=True)


@router.post("/{send_id}/pause", operation_id="pause_send", summary="Hold a running send", responses=_CHANGE)
async def pause(send_id: SendId, state: State, principal: _Controller) -> Response:
    """Within a second no worker begins another request of it; what is in flight is finished."""
    return _changed(await state.short.run(control.pause, send_id, by=principal, database=state.database))


@router.post(
    "/{send_id}/resume",
    operation_id="resume_send",
    summary="Let a held send go on",
    responses=_CHANGE_BY_BODY,
    openapi_extra=takes("Resume", required=False),
)
async def resume(send_id: SendId, request: Request, state: State, principal: _Controller) -> Response:
    """A wait that a provider asked for is still waited for."""
    body = await read_object(request, empty=True)
    _known(body, ("trust_rejections",))
    trust = _flag(body, "trust_rejections")
    return _changed(
        await state.short.run(
            control.resume, send_id, trust_rejections=trust, by=principal, database=state.database
        )
    )


@router.post(
    "/{send_id}/cancel", operation_id="cancel_send", summary="End a send for good", responses=_CHANGE
)
async def cancel(send_id: SendId, state: State, principal: _Controller) -> Response:
    """What is in flight is finished, everybody else ends as `cancelled`."""
    return _changed(await state.short.run(control.cancel, send_id, by=principal, database=state.database))


@router.put(
    "/{send_id}/rate",
    operation_id="rate_send",
    summary="Change the speed of a send",
    responses=_CHANGE_BY_BODY,
    openapi_extra=takes("Rate"),
)
async def rate(send_id: SendId, request: Request, state: State, principal: _Controller) -> Response:
    """Requests a second of all workers together, beside the provider's own limit."""
    body = await read_object(request)
    _known(body, ("rate",))
    if "rate" not in body:
        raise InvalidRequest("rate", "nothing", "requests per second, or null")
    return _changed(
        await state.short.run(control.set_rate, send_id, body["rate"], by=principal, database=state.database)
    )


@router.post(
    "/{send_id}/replay",
    operation_id="replay_send",
    summary="Send again to those who were not reached",
    responses=gives(200, "Replayed", "What is sent again", 404, 409, body=True),
    openapi_extra=takes("Replay"),
)
async def replay(send_id: SendId, request: Request, state: State, principal: _Controller) -> Response:
    """Only of a send that has ended."""
    body = await read_object(request)
    _known(body, ("outcomes", "reasons", "platforms", "may_duplicate", "dry_run"))
    done = await state.long.run(
        control.replay,
        send_id,
        _texts(body, "outcomes"),
        reasons=_texts(body, "reasons"),
        platforms=_texts(body, "platforms"),
        may_duplicate=_flag(body, "may_duplicate"),
        dry_run=_flag(body, "dry_run"),
        by=principal,
        database=state.database,
    )
    return Json(done)


def _known(body: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in body:
        if name not in names:
            raise InvalidRequest(name[:60], "an unknown field", f"some of: {', '.join(names)}")


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest(name, kind(value), "true or false")
    return value


def _texts(body: dict[str, Any], name: str) -> tuple[str, ...]:
    value = body.get(name, ())
    if not isinstance(value, list | tuple) or len(value) > 100:
        raise InvalidRequest(name, kind(value)[:80], "a list of at most 100 texts")
    for item in value:
        if not isinstance(item, str) or "\0" in item:
            raise InvalidRequest(name, kind(item), "texts")
    return tuple(value)
