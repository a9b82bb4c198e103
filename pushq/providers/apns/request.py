"""What goes to APNs: body and headers. Pure.

Source: Apple, "Sending notification requests to APNs".
"""

from __future__ import annotations

import uuid
from typing import Any, Final

import orjson

from pushq.errors import InvalidRequest
from pushq.notification import Notification

MAX_PAYLOAD_BYTES: Final = 4096
PATH_PREFIX: Final = b"/3/device/"
#: Apple ("Sending notification requests", and its newer connection page agrees): values that change must not churn the
#: server's small header table.
UNINDEXED: Final = (b"apns-expiration", b"apns-collapse-id")


def payload(notification: Notification) -> bytes:
    """The body: the same bytes for every device of a send."""
    aps: dict[str, Any] = {}
    alert = {k: v for k, v in (("title", notification.title), ("body", notification.body)) if v is not None}
    if alert:
        aps["alert"] = alert
    else:
        aps["content-available"] = 1
    if notification.sound is not None:
        aps["sound"] = notification.sound
    if notification.badge is not None:
        aps["badge"] = notification.badge
    if notification.image is not None:
        aps["mutable-content"] = 1
        return orjson.dumps({"aps": aps, **notification.data, "image": notification.image})
    return orjson.dumps({"aps": aps, **notification.data})


def check(notification: Notification, name: str = "notification") -> None:
    """Raise InvalidRequest when APNs would refuse the notification whatever the device."""
    size = len(payload(notification))
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidRequest(
            name, f"{size:,} bytes as an APNs payload", f"at most {MAX_PAYLOAD_BYTES:,} bytes"
        )
    if notification.image is not None and "image" in notification.data:
        raise InvalidRequest(
            f"{name}.data.image", "a key that notification.image needs on iOS", "one of the two"
        )


def headers(
    notification: Notification, *, topic: str, authorization: bytes, expires_at: int, collapse_id: str | None
) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that all requests of a send share.

    Args:
        expires_at: UNIX seconds after which APNs gives up; 0 = one attempt.
        authorization: ``bearer <jwt>``.
    """
    # Apple: a background push must have priority 5; 10 with it is an error.
    priority = b"5" if notification.silent or notification.priority == "normal" else b"10"
    result = [
        (b"authorization", authorization),
        (b"apns-topic", topic.encode()),
        (b"apns-push-type", b"background" if notification.silent else b"alert"),
        (b"apns-priority", priority),
        (b"apns-expiration", str(expires_at).encode()),
    ]
    if collapse_id is not None:
        result.append((b"apns-collapse-id", collapse_id.encode()))
    return tuple(result)


def apns_id(send_id: uuid.UUID, device_id: int) -> bytes:
    """The ``apns-id`` of one recipient: the same for every attempt, so that repetitions can be joined up."""
    low = (send_id.int ^ (device_id * 0x9E3779B97F4A7C15)) & 0xFFFFFFFFFFFFFFFF
    text = f"{(send_id.int >> 64):016x}{low:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}".encode()
