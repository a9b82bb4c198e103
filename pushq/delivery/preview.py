"""A message as it would go out: the request to each platform with the credential left out, and what the phone makes of it.

Nothing is sent and nobody is asked; the requests are made by the functions that a worker's requests are made by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import orjson

from pushq.app_settings import AppSettings
from pushq.delivery.composing import compose, send_of, values_of
from pushq.ledger.sends import Send, resolve_app, sendable_platforms
from pushq.providers.preview import format_of, request_of
from pushq.rendering.contents import Renderer
from pushq.submission import submit
from pushq.tokens.lookup import AddressedDevice

#: What stands for the token of a device that is only imagined.
SAMPLE_TOKENS: Final = {"apns": "ab" * 32, "fcm": "device-token", "hms": "device-token"}


@dataclass(frozen=True)
class Shown:
    """One request, or why there is none.

    Attributes:
        user_id, device_id: None for an imagined device.
        language: the device's.
        size, limit: bytes of the message as the platform counts them.
        refused: why this device would get nothing; the request is then missing.
        without: names of the values that it lacks.
    """

    platform: str
    user_id: int | None
    device_id: int | None
    environment: str
    language: str | None
    size: int | None = None
    limit: int | None = None
    refused: str | None = None
    without: tuple[str, ...] = ()
    method: str | None = None
    url: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None


@dataclass(frozen=True)
class Face:
    """What somebody reads on the phone, taken from the request itself; empty texts are not shown.

    Attributes:
        silent: the phone shows nothing: the message wakes the app.
    """

    title: str = ""
    subtitle: str = ""
    body: str = ""
    image: str = ""
    badge: int | None = None
    silent: bool = False


def imagined_send(
    app_name: str | None,
    apps: Mapping[str, AppSettings],
    *,
    notification: object,
    platforms: Sequence[str] = (),
    called_at: datetime,
    **options: Any,
) -> Send:
    """The send that a broadcast of this message to everybody would be.

    Args:
        options: more of ``send_broadcast``: guarantee, idempotency_key, send_at.

    Raises:
        InvalidRequest: names the field, what was found and what is allowed.
    """
    app = resolve_app(app_name, apps)
    submission = submit(
        "broadcast",
        notification=notification,
        audience={"segments": ["all"], "platforms": list(platforms or apps[app].platforms())},
        called_at=called_at,
        app=app_name,
        **options,
    )
    sendable_platforms(submission, apps[app], app)
    return send_of(submission, app)


def imagined_devices(
    platforms: Sequence[str], *, environment: str = "production", language: str | None = None
) -> list[AddressedDevice]:
    """One device for each platform, which belongs to nobody (user 0)."""
    return [
        AddressedDevice(0, 0, platform, environment, SAMPLE_TOKENS[platform], language)
        for platform in platforms
    ]


def show(send: Send, app: AppSettings, device: AddressedDevice, *, imagined: bool) -> Shown:
    """The request to one device."""
    who = (
        {"user_id": None, "device_id": None}
        if imagined
        else {"user_id": device.user_id, "device_id": device.id}
    )
    about: dict[str, Any] = {
        "platform": device.platform, **who, "environment": device.environment, "language": device.language
    }  # fmt: skip
    section = app.platforms().get(device.platform)
    if section is None:
        return Shown(**about, refused="not_configured")
    message, composed = compose(send, device.platform)
    message = replace(message, environment=device.environment)
    form = format_of(message, section)
    renderer = Renderer(composed, form)
    values = values_of(send, device.user_id, device.attributes) or {}
    rendered = renderer.render([device.language], [values], 1)
    content = rendered.contents[0]
    if content is None:
        without = renderer.missing(device.language, values)
        return Shown(**about, limit=form.limit, refused=rendered.refused[0], without=without)
    request = request_of(message, section, device.token.encode(), device.id, content)
    return Shown(
        **about,
        size=renderer.size(device.language, values),
        limit=form.limit,
        method=request.method,
        url=request.url,
        headers=request.headers,
        body=request.body.decode(),
    )


def face(shown: Shown) -> Face:
    """What the phone shows for a request of :func:`show`. One that was refused shows nothing."""
    if shown.body is None:
        return Face(silent=True)
    return _FACES[shown.platform](orjson.loads(shown.body))


def _apns(document: dict[str, Any]) -> Face:
    aps = document.get("aps", {})
    alert = aps.get("alert", {})
    if isinstance(alert, str):
        alert = {"body": alert}
    texts = {key: _text(alert.get(key)) for key in ("title", "subtitle", "body")}
    badge = aps.get("badge")
    return Face(
        **texts,
        image=_text(document.get("image")),
        badge=badge if isinstance(badge, int) else None,
        silent=not any(texts.values()),
    )


def _fcm(document: dict[str, Any]) -> Face:
    message = document.get("message", {})
    own = message.get("android", {}).get("notification", {})
    return _of({**message.get("notification", {}), **own}, own.get("notification_count"))


def _hms(document: dict[str, Any]) -> Face:
    if "payload" in document:  # v3
        shown = document["payload"].get("notification", {})
        return _of(shown, shown.get("badge", {}).get("setNum"))
    message = document.get("message", {})
    own = message.get("android", {}).get("notification", {})
    return _of({**message.get("notification", {}), **own}, own.get("badge", {}).get("set_num"))


def _of(shown: Mapping[str, Any], badge: object) -> Face:
    texts = {key: _text(shown.get(key)) for key in ("title", "body", "image")}
    return Face(
        **texts, badge=badge if isinstance(badge, int) else None, silent=not (texts["title"] or texts["body"])
    )


def _text(value: object) -> str:
    """A text that is looked up on the phone (``title-loc-key``, ``loc-key``) is not known here."""
    if isinstance(value, Mapping):
        return str(value.get("loc-key", ""))
    return value if isinstance(value, str) else ""


_FACES: Final = {"apns": _apns, "fcm": _fcm, "hms": _hms}
