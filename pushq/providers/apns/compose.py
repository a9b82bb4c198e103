"""The requests of a send to APNs, whole but for who signs them. Pure: what a preview shows is made here, as what is sent is."""

from __future__ import annotations

from collections.abc import Sequence

from pushq.http2 import Burst, HeaderTemplate
from pushq.notification import Notification
from pushq.providers.apns import request
from pushq.providers.client import Message
from pushq.rendering.contents import Format


def format_of(message: Message) -> Format[Notification]:
    """See :meth:`pushq.providers.client.ProviderClient.format`."""
    at = message.starts_at

    def write(notification: Notification) -> bytes:
        return request.payload(notification, at=at)

    limit = request.rules_of(message.notification).max_payload
    if message.target is not None:
        limit = request.MAX_CHANNEL_PAYLOAD_BYTES
    return Format(write, lambda notification: len(write(notification)), limit)


def template(message: Message, *, topic: str, authorization: bytes) -> HeaderTemplate:
    """What the requests have in common.

    Args:
        topic: the app's bundle id.
        authorization: ``bearer <jwt>``; empty where a client certificate stands for it.
    """
    notification, target = message.notification, message.target
    expires_at = request.expiration(notification, message.starts_at, channel=target is not None)
    if target is not None:
        headers = request.channel_headers(
            notification, channel_id=target.value, authorization=authorization, expires_at=expires_at
        )
        unindexed = (*request.UNINDEXED, b"apns-channel-id")
        return HeaderTemplate(
            request.channel_path(topic), headers, varying=(b"apns-request-id",), unindexed=unindexed
        )
    headers = request.headers(
        notification,
        topic=topic,
        authorization=authorization,
        expires_at=expires_at,
        collapse_id=message.collapse_id,
    )
    return HeaderTemplate(request.PATH_PREFIX, headers, varying=(b"apns-id",), unindexed=request.UNINDEXED)


def burst(
    common: HeaderTemplate,
    message: Message,
    tokens: Sequence[bytes],
    device_ids: Sequence[int],
    contents: bytes | Sequence[bytes],
) -> Burst:
    """The requests for these devices; for a channel, the one request.

    Args:
        contents: one for each, or everybody's.
    """
    return Burst(
        common,
        len(tokens),
        targets=tokens if message.target is None else None,
        bodies=contents,
        values=list(zip(request.apns_ids(message.send_id, device_ids), strict=True)),
    )
