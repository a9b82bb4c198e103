"""``POST /v1/broadcasts`` and ``POST /v1/notifications``: checked, handed to the broker, answered with 202."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from pushq.access.principal import Principal
from pushq.errors import InvalidRequest
from pushq.submission import MAX_KEY_LENGTH, Kind, Submission, submit
from pushq.web.answers import Json
from pushq.web.api.documents import gives, takes
from pushq.web.api.parameters import app_of_call, idempotency_key, known_query
from pushq.web.api.schemas import SCHEMAS
from pushq.web.bodies import read_object
from pushq.web.security import require, security_of
from pushq.web.state import State, WebState

router = APIRouter(prefix="/v1", dependencies=[Depends(known_query)])

#: Bodies above this are checked in a thread: ten thousand user ids would hold up everybody else.
LONG_BODY: Final = 65_536

_KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Repeat it with the same body and the call is the same send; with another body the answer is 409",
        json_schema_extra={
            "minLength": 1,
            "maxLength": MAX_KEY_LENGTH,
            "pattern": "^[ -~]+$",
            "example": "order-A-17",
        },
    ),
]
_Sender = Annotated[Principal, Depends(require("send"))]
_FIELDS: Final = {
    "broadcast": tuple(SCHEMAS["Broadcast"]["properties"]),
    "transactional": tuple(SCHEMAS["Notifications"]["properties"]),
}
_REQUIRED: Final = {
    "broadcast": tuple(SCHEMAS["Broadcast"]["required"]),
    "transactional": tuple(SCHEMAS["Notifications"]["required"]),
}
_GUARANTEES: Final = {"broadcast": "at_most_once", "transactional": "at_least_once"}
_HEADERS: Final = {"Location": "Where the send can be watched"}


def submission_of(kind: Kind, body: Mapping[str, Any], key: str | None, now: datetime) -> Submission:
    """A body as a call, checked completely.

    Raises:
        InvalidRequest: names the field.
    """
    for name in body:
        if name not in _FIELDS[kind]:
            near = difflib.get_close_matches(name, _FIELDS[kind], n=1)
            raise InvalidRequest(
                name[:60],
                "an unknown field",
                f"did you mean {near[0]!r}?" if near else f"some of: {', '.join(_FIELDS[kind])}",
            )
    for name in _REQUIRED[kind]:
        if name not in body:
            raise InvalidRequest(name, "nothing", "it is required")
    if kind == "broadcast":
        audience = body["audience"]
    else:
        audience = {"user_ids": body["user_ids"]}
        if body.get("platforms") is not None:
            audience["platforms"] = body["platforms"]
    try:
        return submit(
            kind,
            notification=body["notification"],
            audience=audience,
            app=body.get("app"),
            guarantee=body.get("guarantee", _GUARANTEES[kind]),
            idempotency_key=key,
            send_at=body.get("send_at"),
            rate=body.get("rate"),
            retry=body.get("retry"),
            values=body.get("values"),
            called_at=now,
        )
    except InvalidRequest as error:
        if kind == "transactional" and error.field.startswith("audience."):
            raise InvalidRequest(error.field.removeprefix("audience."), error.found, error.expected) from None
        raise


async def _accept(kind: Kind, request: Request, state: WebState, principal: Principal) -> Response:
    key = idempotency_key(request)
    body = await read_object(request)
    body["app"] = app_of_call(body.get("app"), state.apps, principal)
    now = datetime.now(UTC)
    if int(request.headers.get("content-length", LONG_BODY)) >= LONG_BODY:
        submission = await state.short.run(submission_of, kind, body, key, now)
    else:
        submission = submission_of(kind, body, key, now)
    accepted = await state.enqueuer.enqueue(submission)
    security_of(request).audit.add(
        principal,
        "send.create",
        app=submission.app,
        object_id=str(accepted.send_id),
        detail={"kind": kind, "repeated": accepted.repeated},
    )
    return Json(
        {"send_id": accepted.send_id, "repeated": accepted.repeated},
        202,
        headers={"Location": f"/v1/sends/{accepted.send_id}"},
    )


@router.post(
    "/broadcasts",
    tags=["broadcasts"],
    operation_id="send_broadcast",
    summary="Send one message to an audience",
    status_code=202,
    responses=gives(202, "Accepted", "The broker has it", 409, body=True, headers=_HEADERS),
    openapi_extra=takes("Broadcast"),
)
async def broadcast(request: Request, state: State, principal: _Sender, _: _KeyHeader = None) -> Response:
    """Checked completely before it is accepted; planned and sent by the workers. Watch it at `Location`."""
    return await _accept("broadcast", request, state, principal)


@router.post(
    "/notifications",
    tags=["notifications"],
    operation_id="send_notification",
    summary="Send one message to some users",
    status_code=202,
    responses=gives(202, "Accepted", "The broker has it", 409, body=True, headers=_HEADERS),
    openapi_extra=takes("Notifications"),
)
async def notification(request: Request, state: State, principal: _Sender, _: _KeyHeader = None) -> Response:
    """Ahead of all broadcasts. Calls that arrive within a few milliseconds go to the broker together."""
    return await _accept("transactional", request, state, principal)
