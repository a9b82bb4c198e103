"""What goes to HMS Push Kit: path, headers and body. Pure.

Sources: Huawei, "Push Kit REST API: downlink message" (v1, v2) and "scenario-based messages" (v3). A request is one content and up to
1,000 tokens: everything here but :func:`body` is about the content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from zlib import crc32

import orjson

from pushq.errors import InvalidRequest
from pushq.notification import Notification
from pushq.providers.fields import merged
from pushq.providers.hms.options import (
    MAX_NOTIFY_ID,
    MAX_TTL_S,
    PUSH_TYPES,
    Badge,
    ClickAction,
    HmsOptions,
    parse,
)

Api = Literal["v1", "v2", "v3"]

#: Of the body without its tokens.
MAX_PAYLOAD_BYTES: Final = 4096
MAX_TOKENS: Final = 1000
#: v3, "test messages": of one request.
MAX_TEST_TOKENS: Final = 10
MAX_FORM_TOKENS: Final = 1
_MAX_BADGE: Final = 99
_SHAPES: Final[tuple[Api, ...]] = ("v2", "v3")


def path(api: Api, path_id: str) -> bytes:
    return f"/{api}/{path_id}/messages:send".encode()


def headers(notification: Notification, *, api: Api, authorization: bytes) -> tuple[tuple[bytes, bytes], ...]:
    common = ((b"authorization", authorization), (b"content-type", b"application/json;charset=UTF-8"))
    if api != "v3":
        return common
    return (*common, (b"push-type", str(PUSH_TYPES[push_type(notification)]).encode()))


def push_type(notification: Notification) -> str:
    """v3's word for the kind of message."""
    return parse(notification.hms).push_type or ("background" if notification.silent else "alert")


def tokens_per_request(notification: Notification, api: Api, limit: int) -> int:
    """How many devices one request may name."""
    if api != "v3":
        return limit
    if push_type(notification) == "form":
        return MAX_FORM_TOKENS
    return min(limit, MAX_TEST_TOKENS) if parse(notification.hms).test else limit


def content(notification: Notification, *, api: Api, collapse_id: str | None) -> bytes:
    """The message without its targets, as a JSON object: the same bytes for every device that gets the same."""
    options = parse(notification.hms)
    if api == "v3":
        return orjson.dumps(_scenario(notification, options, collapse_id))
    return orjson.dumps(_downlink(notification, options, collapse_id))


def body(api: Api, message: bytes, tokens: Sequence[bytes], *, validate_only: bool = False) -> bytes:
    """One request's body.

    Device tokens are checked at registration to need no JSON escape, so they are only joined.

    Args:
        message: from :func:`content`.
        validate_only: v1 and v2 check the message and send nothing; v3 cannot.
    """
    targets = b'"token":["' + b'","'.join(tokens) + b'"]'
    if api == "v3":
        return b"".join((message[:-1], b',"target":{', targets, b"}}"))
    start = b'{"validate_only":true,"message":{' if validate_only else b'{"validate_only":false,"message":{'
    return b"".join((start, targets, b",", message[1:], b"}"))


def size(notification: Notification, *, api: Api, collapse_id: str | None) -> int:
    """Bytes of a request's body without its tokens."""
    return len(body(api, content(notification, api=api, collapse_id=collapse_id), ()))


def check(notification: Notification, name: str = "notification") -> None:
    """Raise InvalidRequest when HMS would refuse the notification whatever the device."""
    parse(notification.hms, f"{name}.hms")
    # Which API an app uses is not known at the call: it must fit both.
    for api in _SHAPES:
        found = size(notification, api=api, collapse_id=notification.collapse_id)
        if found > MAX_PAYLOAD_BYTES:
            raise InvalidRequest(
                name,
                f"{found:,} bytes as an HMS body",
                f"at most {MAX_PAYLOAD_BYTES:,} bytes, or audience.platforms without hms",
            )


def _downlink(notification: Notification, options: HmsOptions, collapse_id: str | None) -> dict[str, Any]:
    """``message`` of v1 and v2."""
    android: dict[str, Any] = {
        # HIGH needs a right that most apps do not have: the message's own priority, high by default, is no reason to ask for it.
        "urgency": options.urgency or "NORMAL",
        "ttl": f"{_ttl(notification, options)}s",
        **_given(
            collapse_key=options.collapse_key,
            category=options.message_category,
            bi_tag=options.bi_tag,
            receipt_id=options.receipt_id,
            target_user_type=1 if options.test else None,
            fast_app_target=options.fast_app_target,
        ),
    }
    result: dict[str, Any] = {}
    if not notification.silent:
        result["notification"] = _shown(notification)
        android["notification"] = {
            "click_action": _click(notification, options),
            **_given(
                tag=options.tag or collapse_id,
                notify_id=options.notify_id,
                channel_id=options.channel_id,
                importance=options.importance,
                foreground_show=options.foreground_show,
                badge=_badge(notification, options),
            ),
            **_sound(notification.sound),
        }
    result["android"] = merged(android, options.android)
    if notification.data:
        # A text, unlike FCM's map.
        result["data"] = orjson.dumps(notification.data).decode()
    return result


def _scenario(notification: Notification, options: HmsOptions, collapse_id: str | None) -> dict[str, Any]:
    """The body of v3 without ``target``."""
    which = push_type(notification)
    payload: dict[str, Any] = {}
    if not notification.silent and which in ("alert", "voice"):
        notify_id = options.notify_id
        if notify_id is None and collapse_id is not None:
            notify_id = crc32(collapse_id.encode()) & MAX_NOTIFY_ID
        payload["notification"] = {
            "category": options.message_category or "MARKETING",
            **_shown(notification),
            "clickAction": _click_v3(notification, options),
            **_given(
                notifyId=notify_id,
                foregroundShow=options.foreground_show,
                badge=_badge_v3(notification, options),
                sound=None if notification.sound in (None, "default") else notification.sound,
            ),
        }
    elif notification.data:
        payload["extraData"] = orjson.dumps(notification.data).decode()
    if which == "voice" and notification.data:
        payload["extraData"] = orjson.dumps(notification.data).decode()
    push_options = {
        "ttl": _ttl(notification, options),
        **_given(
            testMessage=True if options.test else None,
            biTag=options.bi_tag,
            receiptId=options.receipt_id,
            collapseKey=options.collapse_key,
        ),
    }
    return {"payload": merged(payload, options.payload), "pushOptions": push_options}


def _given(**members: Any) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value is not None}


def _shown(notification: Notification) -> dict[str, str]:
    """HMS wants a title and a body: where the message has one of them, it stands in both places."""
    title, body = notification.title, notification.body
    return _given(title=title or body, body=body or title, image=notification.image)


def _ttl(notification: Notification, options: HmsOptions) -> int:
    """Seconds. Nothing is said about 0, and 80100004 is the answer to an expiry in the past: a second stands for "once, now"."""
    return max(1, min(options.ttl or notification.ttl, MAX_TTL_S))


def _sound(sound: str | None) -> dict[str, Any]:
    """A sound of the app is named by its place in ``res``, without an extension."""
    if sound is None:
        return {}
    if sound == "default":
        return {"default_sound": True}
    return {
        "default_sound": False,
        "sound": sound if sound.startswith("/") else f"/raw/{sound.rpartition('.')[0] or sound}",
    }


def _action(notification: Notification, options: HmsOptions) -> ClickAction:
    if options.click_action is not None:
        return options.click_action
    link = notification.link
    if link is not None:
        return ClickAction(url=link) if link.startswith("https://") else ClickAction(intent=link)
    return (
        ClickAction(action=notification.category)
        if notification.category is not None
        else ClickAction(app=True)
    )


def _click(notification: Notification, options: HmsOptions) -> dict[str, Any]:
    action = _action(notification, options)
    if action.url is not None:
        return {"type": 2, "url": action.url}
    if action.intent is not None:
        return {"type": 1, "intent": action.intent}
    return {"type": 1, "action": action.action} if action.action is not None else {"type": 3}


def _click_v3(notification: Notification, options: HmsOptions) -> dict[str, Any]:
    action = _action(notification, options)
    # The message's data reach the app with the tap.
    data: Mapping[str, Any] = {"data": dict(notification.data)} if notification.data else {}
    uri = action.intent or action.url
    if uri is not None:
        return {"actionType": 1, "uri": uri, **data}
    return (
        {"actionType": 1, "action": action.action, **data}
        if action.action is not None
        else {"actionType": 0, **data}
    )


def _badge(notification: Notification, options: HmsOptions) -> dict[str, Any] | None:
    """Without the class of the app's start page v1 and v2 show no number."""
    badge = options.badge or Badge()
    if badge.entry is None:
        return None
    number = badge.set if badge.set is not None else notification.badge
    if badge.add is None and number is None:
        return None
    counted = {"add_num": badge.add} if badge.add is not None else {"set_num": min(number or 0, _MAX_BADGE)}
    return {**counted, "class": badge.entry}


def _badge_v3(notification: Notification, options: HmsOptions) -> dict[str, Any] | None:
    badge = options.badge or Badge()
    if badge.add is not None:
        return {"addNum": badge.add}
    number = badge.set if badge.set is not None else notification.badge
    return None if number is None else {"setNum": min(number, _MAX_BADGE)}
