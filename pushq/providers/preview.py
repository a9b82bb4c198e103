"""Requests as they would go out, with the credential left out. Pure: made by the functions that a worker's requests are made by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pushq.app_settings import ApnsSettings, FcmSettings, HmsSettings
from pushq.notification import Notification
from pushq.providers.apns import compose as apns
from pushq.providers.client import Message
from pushq.providers.fcm import compose as fcm
from pushq.providers.hms import compose as hms
from pushq.providers.hms import request as hms_request
from pushq.rendering.contents import Format

MASK: Final = b"***"


@dataclass(frozen=True)
class Request:
    """One HTTP request. Headers that the protocol itself brings along (``:authority``, ``content-length``) are not among them."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def format_of(message: Message, settings: ApnsSettings | FcmSettings | HmsSettings) -> Format[Notification]:
    """How the platform of these settings writes the message down."""
    if isinstance(settings, ApnsSettings):
        return apns.format_of(message)
    return (
        fcm.format_of(message) if isinstance(settings, FcmSettings) else hms.format_of(message, settings.api)
    )


def request_of(
    message: Message,
    settings: ApnsSettings | FcmSettings | HmsSettings,
    token: bytes,
    device_id: int,
    content: bytes,
) -> Request:
    """The request to one device.

    Args:
        message: its ``environment`` is the device's.
        content: as :func:`format_of` writes it.
    """
    return _REQUEST[type(settings)](message, settings, token, device_id, content)


def _apns(message: Message, settings: ApnsSettings, token: bytes, device_id: int, content: bytes) -> Request:
    # With a client certificate there is no such header.
    authorization = b"bearer " + MASK if settings.key_file is not None else b""
    common = apns.template(message, topic=settings.topic, authorization=authorization)
    burst = apns.burst(common, message, [token], [device_id], content)
    path = common.path_prefix + (b"" if burst.targets is None else burst.targets[0])
    values = () if burst.values is None else tuple(zip(common.varying, burst.values[0], strict=True))
    origin = settings.sandbox_url if message.environment == "sandbox" else settings.url
    return _request(origin, path, (*common.headers, *values), content)


def _fcm(message: Message, settings: FcmSettings, token: bytes, device_id: int, content: bytes) -> Request:
    common = fcm.template(project_id=settings.project_id, authorization=b"Bearer " + MASK)
    burst = fcm.burst(common, [token], [content], target=message.target)
    return _request(settings.url, common.path_prefix, common.headers, burst.bodies[0])


def _hms(message: Message, settings: HmsSettings, token: bytes, device_id: int, content: bytes) -> Request:
    common = hms.template(
        message, api=settings.api, path_id=settings.path_id, authorization=b"Bearer " + MASK
    )
    body = hms_request.body(settings.api, content, [token])
    return _request(settings.url, common.path_prefix, common.headers, body)


_REQUEST: Final[Mapping[type, Callable[..., Request]]] = {
    ApnsSettings: _apns,
    FcmSettings: _fcm,
    HmsSettings: _hms,
}


def _request(origin: str, path: bytes, headers: tuple[tuple[bytes, bytes], ...], body: Any) -> Request:
    return Request(
        "POST",
        origin + path.decode(),
        tuple((name.decode(), value.decode("latin-1")) for name, value in headers),
        bytes(body),
    )
