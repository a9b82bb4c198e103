"""``/v1/devices``: who has which device. A token goes in and never comes out."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from pushq.access.principal import Principal
from pushq.errors import InvalidRequest
from pushq.rejects import FirstRejects
from pushq.tokens.device import describe, parse_app, parse_device, parse_user_id
from pushq.tokens.importing import import_stream
from pushq.tokens.lookup import devices_of
from pushq.tokens.registration import register, unregister, unregister_device, update
from pushq.web.answers import Json
from pushq.web.api.documents import gives, problems, takes, takes_lines
from pushq.web.api.parameters import DeviceId, UserId, known_app, known_query
from pushq.web.api.schemas import APP_PATTERN
from pushq.web.bodies import media_type, read_object, upload
from pushq.web.problems import Problem
from pushq.web.security import require, security_of
from pushq.web.state import State, WebState

router = APIRouter(prefix="/v1", tags=["devices"], dependencies=[Depends(known_query)])

_Registrar = Annotated[Principal, Depends(require("devices"))]
_FORMATS: Final = {
    "text/csv": "csv",
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
}


@router.post(
    "/devices",
    operation_id="register_device",
    summary="Register a device, or renew it",
    responses={
        **gives(
            200, "Registration", "It was registered before; what the call says has been changed", body=True
        ),
        **gives(201, "Registration", "It is new", body=True),
    },
    openapi_extra=takes("Device"),
)
async def register_device(request: Request, state: State, principal: _Registrar) -> Response:
    """Whoever else had the token loses it in the same transaction. May be repeated without harm."""
    device = parse_device(await read_object(request), now=datetime.now(UTC))
    known_app(device.app, state.apps, principal)
    done = await state.short.run(register, state.database, device, cache=state.cache)
    return Json(
        {"device_id": done.device_id, "created": done.created, "moved_from": done.moved_from},
        201 if done.created else 200,
    )


@router.post(
    "/devices/unregister",
    operation_id="unregister_token",
    summary="Take a token out of use",
    responses=gives(200, "Unregistered", "How many devices had it: 0 where it was not in use", body=True),
    openapi_extra=takes("Unregistration"),
)
async def unregister_token(request: Request, state: State, principal: _Registrar) -> Response:
    """A token is a secret, so it stands in the body and not in an address."""
    body = await read_object(request)
    names = ("app", "platform", "token", "environment", "user_id")
    for name in body:
        if name not in names:
            raise InvalidRequest(name[:60], "an unknown field", f"some of: {', '.join(names)}")
    app = known_app(parse_app(body.get("app")), state.apps, principal)
    user = body.get("user_id")
    done = await state.short.run(
        unregister,
        state.database,
        app=app,
        platform=body.get("platform"),  # type: ignore[arg-type] # checked there
        token=body.get("token"),  # type: ignore[arg-type]
        environment=body.get("environment"),  # type: ignore[arg-type]
        user_id=None if user is None else parse_user_id(user),
        cache=state.cache,
    )
    return Json({"unregistered": done})


@router.post(
    "/devices/import",
    operation_id="import_devices",
    summary="Register many devices, as a stream",
    responses=gives(200, "Imported", "What became of the records", body=True),
    openapi_extra=takes_lines(
        {
            "text/csv": "user_id,app,platform,token\n42,shop,fcm,fcm-000000000000000000000000000042\n",
            "application/x-ndjson": '{"user_id": 42, "app": "shop", "platform": "fcm", "token": "fcm-000000000000000000000000000042"}\n',
            "application/jsonl": '{"user_id": 42, "app": "shop", "platform": "fcm", "token": "fcm-000000000000000000000000000042"}\n',
        }
    ),
)
async def import_devices(
    request: Request,
    state: State,
    principal: _Registrar,
    app: Annotated[str | None, Query(pattern=APP_PATTERN, description="For records that name no app")] = None,
) -> Response:
    """CSV with a header, or one JSON object a line, of any length, read as it comes (docs/tokens.md). Wrong records are counted and
    the others stored. When the connection breaks off, what was stored stays: send all of it again, which is harmless."""
    name = media_type(request, _FORMATS)
    if app is not None:
        app = known_app(app, state.apps, principal)
    done = await _imported(request, state, principal, _FORMATS[name], app)
    security_of(request).audit.add(
        principal,
        "devices.import",
        app=app,
        detail={name: count for name, count in done.items() if isinstance(count, int)},
    )
    return Json(done)


async def _imported(
    request: Request,
    state: WebState,
    principal: Principal,
    format_: Literal["csv", "jsonl"] | str,
    app: str | None,
) -> dict[str, Any]:
    apps = principal.apps
    if state.apps:
        apps = frozenset(state.apps) if apps is None else apps & frozenset(state.apps)
    rejects = FirstRejects()
    with upload(request) as stream:
        report = await state.uploads.run(
            import_stream,
            state.database,
            stream,
            format=format_,
            rejects=rejects,
            app=app,
            apps=apps,
            cache=state.cache,
        )
    counted = asdict(report)
    del counted["rejects_file"]
    listed = [{"line": line, "reason": reason} for line, reason in rejects.first]
    return {**counted, "seconds": round(report.seconds, 3), "rejects": listed}


@router.get(
    "/users/{user_id}/devices",
    operation_id="list_devices",
    summary="Devices of a user",
    responses=gives(200, "Devices", "Active ones first; of a user with more than 1,000 the newest"),
)
async def list_devices(user_id: UserId, state: State, principal: _Registrar) -> Response:
    """Those of the apps that the key may touch. Of a token only what the logs show of it."""
    found = await state.short.run(devices_of, state.database, user_id)
    shown = []
    for device in found:
        if principal.may_app(device.app):
            fields = asdict(device)
            shown.append({"device_id": fields.pop("id"), "token_hash": fields.pop("token"), **fields})
    return Json({"devices": shown})


@router.patch(
    "/users/{user_id}/devices/{device_id}",
    operation_id="update_device",
    summary="Change what is known of a device",
    status_code=204,
    responses={204: {"description": "Changed"}, **problems(404, body=True)},
    openapi_extra=takes("DeviceChange"),
)
async def update_device(
    user_id: UserId, device_id: DeviceId, request: Request, state: State, principal: _Registrar
) -> Response:
    """The next delivery sees it."""
    body = await read_object(request)
    done = await state.short.run(
        update,
        state.database,
        user_id,
        device_id,
        body,
        now=datetime.now(UTC),
        apps=principal.apps,
        cache=state.cache,
    )
    return _found(done, user_id, device_id)


@router.delete(
    "/users/{user_id}/devices/{device_id}",
    operation_id="unregister_device",
    summary="Take a device out of use",
    status_code=204,
    responses={204: {"description": "Done"}, **problems(404)},
)
async def delete_device(
    user_id: UserId, device_id: DeviceId, state: State, principal: _Registrar
) -> Response:
    """By its id; by its token: see `POST /v1/devices/unregister`."""
    done = await state.short.run(
        unregister_device, state.database, user_id, device_id, apps=principal.apps, cache=state.cache
    )
    return _found(done, user_id, device_id)


def _found(done: bool, user_id: int, device_id: int) -> Response:
    if not done:
        raise Problem(
            404, "not-found", f"User {describe(user_id)} has no active device {describe(device_id)}"
        )
    return Response(status_code=204)
