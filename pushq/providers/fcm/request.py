"""What goes to FCM: body and headers. Pure.

Source: Firebase, "REST Resource: projects.messages".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import orjson

from pushq.errors import InvalidRequest
from pushq.notification import Notification
from pushq.providers.fcm.options import parse
from pushq.providers.fields import merged

MAX_PAYLOAD_BYTES: Final = 4096
#: A registration by Firebase installation id is stored with this before the id. A registration token never begins so: what stands
#: before its colon is an installation id, of 22 characters.
FID_PREFIX: Final = b"fid:"
_FID_LENGTH: Final = len(FID_PREFIX)
#: Conditions name five topics at most (Firebase, "Send messages to topics").
MAX_TOPICS: Final = 5

TOPIC: Final = re.compile(r"[a-zA-Z0-9\-_.~%]{1,900}").fullmatch
_CONDITION_PART: Final = re.compile(
    r"\s*(?:'(?P<topic>[a-zA-Z0-9\-_.~%]{1,900})'\s+in\s+topics\b|(?P<sign>&&|\|\||!|\(|\)))"
)


def path(project_id: str) -> bytes:
    return f"/v1/projects/{project_id}/messages:send".encode()


def message(notification: Notification, *, ttl_s: int, collapse_id: str | None) -> dict[str, Any]:
    """The message without its target."""
    options = parse(notification.fcm)
    shown = {
        key: value
        for key in ("title", "body", "image")
        if (value := getattr(options, key) or getattr(notification, key)) is not None
    }
    silent = "title" not in shown and "body" not in shown
    priority = options.priority or notification.priority
    android: dict[str, Any] = {
        "priority": "HIGH" if priority == "high" else "NORMAL",
        "ttl": f"{ttl_s if options.ttl is None else options.ttl}s",
    }
    look: dict[str, Any] = {}
    if collapse_id is not None:
        android["collapse_key"] = collapse_id
        look["tag"] = collapse_id
    extras = {
        "sound": notification.sound,
        "notification_count": notification.badge,
        "click_action": notification.category,
    }
    look |= {key: value for key, value in extras.items() if value is not None}
    for key in ("collapse_key", "restricted_package_name", "direct_boot_ok"):
        value = getattr(options, key)
        if value is not None:
            android[key] = value
    result: dict[str, Any] = {"android": android}
    if not silent:
        result["notification"] = shown
        if look:
            android["notification"] = look
    data = {**notification.data, **options.data}
    if notification.link is not None:
        data["link"] = notification.link
    if data:
        result["data"] = data
    if options.analytics_label is not None:
        result["fcm_options"] = {"analytics_label": options.analytics_label}
    for key in ("android", "apns", "webpush"):
        over = getattr(options, key)
        if over:
            result[key] = merged(result.get(key, {}), over)
    if silent and options.apns:
        _wake_quietly(result["apns"])
    return result


def _wake_quietly(apns: dict[str, Any]) -> None:
    """FCM refuses a data-only message for iOS that has another priority than 5."""
    headers = apns["headers"] = dict(apns.get("headers", {}))
    if not _shows(apns):
        headers.setdefault("apns-priority", "5")


def _shows(apns: Mapping[str, Any]) -> bool:
    aps = apns.get("payload", {}).get("aps", {})
    return isinstance(aps, Mapping) and any(key in aps for key in ("alert", "sound", "badge"))


def bodies(tokens: Sequence[bytes], contents: Iterable[bytes], *, validate_only: bool = False) -> list[bytes]:
    """One body per registration; ``contents`` are :func:`message` as JSON, one per registration or more.

    Device tokens are checked at registration to need no JSON escape, so a body is its content with the token written in front.

    Args:
        validate_only: FCM checks the message and delivers nothing.
    """
    opening = b'{"validate_only":true,"message":{"' if validate_only else b'{"message":{"'
    head = opening + b'token":"'
    each = list(islice(contents, len(tokens)))
    if not each:
        return []
    # A content is an object that is never empty: its members go on behind the target. Mostly it is everybody's.
    if each.count(each[0]) == len(tokens):
        tail = b'",%b}' % each[0][1:]
        result = [head + token + tail for token in tokens]
    else:
        result = [
            b'%b%b",%b}' % (head, token, content[1:]) for token, content in zip(tokens, each, strict=True)
        ]
    for index in [index for index, token in enumerate(tokens) if token[:_FID_LENGTH] == FID_PREFIX]:
        result[index] = b'%bfid":"%b",%b}' % (opening, tokens[index][_FID_LENGTH:], each[index][1:])
    return result


def target_body(kind: str, value: str, content: bytes, *, validate_only: bool = False) -> bytes:
    """The body for a topic or a condition.

    Args:
        kind: ``topic`` or ``condition``.
        content: :func:`message` as JSON.
    """
    opening = b'{"validate_only":true,"message":{' if validate_only else b'{"message":{'
    return b"%b%b:%b,%b}" % (opening, orjson.dumps(kind), orjson.dumps(value), content[1:])


def parse_topic(value: object, name: str = "audience.topic") -> str:
    """A topic's name, without ``/topics/`` before it.

    Raises:
        InvalidRequest: it is none.
    """
    if isinstance(value, str) and TOPIC(value):
        return value
    found = repr(value)[:80]
    if isinstance(value, str) and value.startswith("/topics/"):
        raise InvalidRequest(name, found, "the name alone, without /topics/")
    raise InvalidRequest(name, found, "a topic's name: letters, digits and - _ . ~ %, at most 900 characters")


def parse_condition(value: object, name: str = "audience.condition") -> str:
    """A condition on topics, such as ``'news' in topics && ('de' in topics || 'at' in topics)``.

    Raises:
        InvalidRequest: it cannot be read, or names too many topics.
    """
    expected = "a condition such as 'news' in topics && ('de' in topics || 'at' in topics)"
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(name, repr(value)[:80], expected)
    topics, depth, wants_term, at = 0, 0, True, 0
    while value[at:].strip():
        part = _CONDITION_PART.match(value, at)
        sign = part["sign"] if part is not None else None
        begins = part is not None and (part["topic"] is not None or sign in ("(", "!"))
        if part is None or begins != wants_term or (sign == ")" and depth == 0):
            raise InvalidRequest(name, f"{value[at : at + 40]!r} where it makes no sense", expected)
        at = part.end()
        depth += (sign == "(") - (sign == ")")
        topics += part["topic"] is not None
        wants_term = sign in ("(", "!", "&&", "||")
    if wants_term or depth:
        raise InvalidRequest(name, "a condition that does not end", expected)
    if topics > MAX_TOPICS:
        raise InvalidRequest(name, f"{topics} topics", f"at most {MAX_TOPICS}")
    return value


def size(notification: Notification) -> int:
    """Bytes as FCM counts them: texts and data, without what JSON adds."""
    parts = message(notification, ttl_s=0, collapse_id=None)
    return sum(len(text.encode()) for text in parts.get("notification", {}).values()) + sum(
        len(key.encode()) + len(value.encode()) for key, value in parts.get("data", {}).items()
    )


def check(notification: Notification, name: str = "notification") -> None:
    """Raise InvalidRequest when FCM would refuse the notification whatever the device."""
    options = parse(notification.fcm, f"{name}.fcm")
    parts = message(notification, ttl_s=notification.ttl, collapse_id=notification.collapse_id)
    if not any(key in parts for key in ("notification", "data", "apns", "webpush")) and not options.android:
        raise InvalidRequest(name, "nothing for FCM", "a title, a body or data")
    if notification.link is not None and ("link" in notification.data or "link" in options.data):
        raise InvalidRequest(f"{name}.data.link", "a key that notification.link needs", "one of the two")
    priority = options.apns.get("headers", {}).get("apns-priority")
    if "notification" not in parts and priority not in (None, "5") and not _shows(options.apns):
        raise InvalidRequest(
            f"{name}.fcm.apns.headers.apns-priority", repr(priority), "'5': the message is data alone"
        )
    found = size(notification)
    if found > MAX_PAYLOAD_BYTES:
        raise InvalidRequest(
            name, f"{found:,} bytes as an FCM payload", f"at most {MAX_PAYLOAD_BYTES:,} bytes"
        )


def headers(*, authorization: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"authorization", authorization), (b"content-type", b"application/json"))
