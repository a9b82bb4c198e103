"""The requests of a send to FCM, whole but for who signs them. Pure: what a preview shows is made here, as what is sent is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from pushq.http2 import Burst, HeaderTemplate
from pushq.notification import Notification
from pushq.providers.client import Message
from pushq.providers.fcm import request
from pushq.providers.target import Target
from pushq.rendering.contents import Format


def format_of(message: Message) -> Format[Notification]:
    """See :meth:`pushq.providers.client.ProviderClient.format`."""
    ttl_s, collapse_id = message.notification.ttl, message.collapse_id

    def write(notification: Notification) -> bytes:
        return orjson.dumps(request.message(notification, ttl_s=ttl_s, collapse_id=collapse_id))

    return Format(write, request.size, request.MAX_PAYLOAD_BYTES)


def template(*, project_id: str, authorization: bytes) -> HeaderTemplate:
    """What the requests of a project have in common. ``authorization`` is ``Bearer <access token>``."""
    return HeaderTemplate(request.path(project_id), request.headers(authorization=authorization))


def burst(
    common: HeaderTemplate,
    tokens: Sequence[bytes],
    contents: Iterable[bytes],
    *,
    target: Target | None = None,
    validate_only: bool = False,
) -> Burst:
    """The requests for these registrations; for a topic or a condition, the one request.

    Args:
        contents: as :func:`format_of` writes them, one for each or more.
        validate_only: FCM checks the requests and delivers nothing.
    """
    if target is not None:
        bodies = [
            request.target_body(target.kind, target.value, content, validate_only=validate_only)
            for _, content in zip(tokens, contents, strict=False)
        ]
        return Burst(common, len(tokens), bodies=bodies)
    return Burst(common, len(tokens), bodies=request.bodies(tokens, contents, validate_only=validate_only))
