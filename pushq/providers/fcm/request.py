"""What goes to FCM: body and headers. Pure.

Source: Firebase, "REST Resource: projects.messages".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pushq.errors import InvalidRequest
from pushq.notification import Notification

MAX_PAYLOAD_BYTES: Final = 4096


def path(project_id: str) -> bytes:
    return f"/v1/projects/{project_id}/messages:send".encode()


def message(notification: Notification, *, ttl_s: int, collapse_id: str | None) -> dict[str, Any]:
    """The message without its target."""
    shown = {
        k: v
        for k, v in (
            ("title", notification.title),
            ("body", notification.body),
            ("image", notification.image),
        )
        if v
    }
    android: dict[str, Any] = {
        "priority": "HIGH" if notification.priority == "high" else "NORMAL",
        "ttl": f"{ttl_s}s",
    }
    look: dict[str, Any] = {}
    if collapse_id is not None:
        android["collapse_key"] = collapse_id
        look["tag"] = collapse_id
    if notification.sound is not None:
        look["sound"] = notification.sound
    if notification.badge is not None:
        look["notification_count"] = notification.badge
    result: dict[str, Any] = {"android": android}
    if not notification.silent:
        result["notification"] = shown
        if look:
            android["notification"] = look
    if notification.data:
        result["data"] = dict(notification.data)
    return result


def bodies(tokens: Iterable[bytes], contents: Iterable[bytes]) -> list[bytes]:
    """One body per token; ``contents`` are :func:`message` as JSON, one per token or more.

    Device tokens are checked at registration to need no JSON escape, so a body is its content with the token written in front.
    """
    # A content is an object that is never empty: its members go on behind the token.
    pairs = zip(tokens, contents, strict=False)
    return [b'{"message":{"token":"%b",%b}' % (token, content[1:]) for token, content in pairs]


def size(notification: Notification) -> int:
    """Bytes as FCM counts them: texts and data, without what JSON adds."""
    texts = [notification.title, notification.body, notification.image]
    return sum(len(t.encode()) for t in texts if t) + sum(
        len(k.encode()) + len(v.encode()) for k, v in notification.data.items()
    )


def check(notification: Notification, name: str = "notification") -> None:
    """Raise InvalidRequest when FCM would refuse the notification whatever the device."""
    found = size(notification)
    if found > MAX_PAYLOAD_BYTES:
        raise InvalidRequest(
            name, f"{found:,} bytes as an FCM payload", f"at most {MAX_PAYLOAD_BYTES:,} bytes"
        )


def headers(*, authorization: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"authorization", authorization), (b"content-type", b"application/json"))
