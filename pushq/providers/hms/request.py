"""What goes to HMS Push Kit: path, headers and body. Pure.

Sources: Huawei, "Push Kit, REST API: downlink message" (v1, v2) and "Push Kit, scenario-based messages" (v3).
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from pushq.errors import InvalidRequest
from pushq.notification import Notification

#: Of the body without its tokens.
MAX_PAYLOAD_BYTES: Final = 4096


def message(notification: Notification) -> dict[str, Any]:
    """The message of v1 and v2 without its tokens."""
    shown = {
        k: v
        for k, v in (
            ("title", notification.title),
            ("body", notification.body),
            ("image", notification.image),
        )
        if v
    }
    result: dict[str, Any] = {} if notification.silent else {"notification": shown}
    if notification.data:
        result["data"] = orjson.dumps(notification.data).decode()
    return result


def check(notification: Notification, name: str = "notification") -> None:
    """Raise InvalidRequest when HMS would refuse the notification whatever the device."""
    size = len(orjson.dumps({"validate_only": False, "message": message(notification)}))
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidRequest(
            name,
            f"{size:,} bytes as an HMS body",
            f"at most {MAX_PAYLOAD_BYTES:,} bytes, or audience.platforms without hms",
        )
