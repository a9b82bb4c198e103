"""``notification["hms"]``: what a message says to HMS Push Kit alone. Parsed and checked at the call. Pure.

Names are those of the v1/v2 API, in snake_case; v3 calls most of them otherwise, and :mod:`request` knows how. Sources: Huawei, "Push
Kit REST API: downlink message" (AndroidConfig, AndroidNotification, ClickAction, BadgeNotification) and, for v3, "request parameters".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pushq.providers.fields import Fields

#: HMS stores a message for 15 days at most.
MAX_TTL_S: Final = 1_296_000
MAX_NOTIFY_ID: Final = 2**31 - 1
#: v3's message types that make sense for a list of tokens.
PUSH_TYPES: Final[Mapping[str, int]] = {
    "alert": 0,
    "form": 1,
    "voice": 2,
    "background": 6,
    "live_view": 7,
    "voip": 10,
}

_WORD: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}").fullmatch
_TAG: Final = re.compile(r"[^\x00-\x1f]{1,64}").fullmatch
_CLASS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+").fullmatch


@dataclass(frozen=True)
class ClickAction:
    """What a tap does. ``app`` opens the app; the others say what else.

    Attributes:
        intent: an intent or a deep link inside of the app (v3: a ``uri`` of it).
        action: the action of one of its pages.
        url: an https address (not on v3).
    """

    app: bool = False
    intent: str | None = None
    action: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Badge:
    """The number on the app's icon: one of the two. ``entry`` is the class of its start page, which v1 and v2 need."""

    add: int | None = None
    set: int | None = None
    entry: str | None = None


@dataclass(frozen=True)
class HmsOptions:
    """Everything that can stand in ``notification["hms"]``, beside the fields of the message that it may replace.

    Attributes:
        message_category: Huawei's kind of message (``IM``, ``MARKETING``, ``VOIP``...), for which an app needs a right; v3 requires one and
            gets ``MARKETING`` by default.
        urgency: ``HIGH`` needs a right as well (80300011 without it).
        importance: ``LOW``, ``NORMAL`` or ``HIGH``: how the phone shows it.
        ttl: seconds that HMS stores the message; pushq itself stops at the message's own ``ttl``.
        collapse_key: what a phone that was offline gets: -1 everything, 0 the last message, 1 to 100 the last one of that group.
        tag, notify_id: a later notification with the same one replaces this one; default: from the message's ``collapse_id``.
        click_action: default: the message's ``link`` or ``category``, else the app.
        test: a test message: 500 a day, and on v3 no more than 10 devices in a request.
        bi_tag: what the message is counted under in Huawei's receipts.
        receipt_id: where receipts go, of those registered with Huawei.
        fast_app_target: 1 a quick app in development, 2 one in production.
        push_type: v3 only: what kind of message it is; default: alert, or background for a silent one.
        android, payload: Huawei's own objects (``android`` of v1 and v2, ``payload`` of v3), written over what pushq builds.
    """

    message_category: str | None = None
    urgency: str | None = None
    importance: str | None = None
    ttl: int | None = None
    collapse_key: int | None = None
    tag: str | None = None
    notify_id: int | None = None
    channel_id: str | None = None
    click_action: ClickAction | None = None
    badge: Badge | None = None
    foreground_show: bool | None = None
    test: bool = False
    bi_tag: str | None = None
    receipt_id: str | None = None
    fast_app_target: int | None = None
    push_type: str | None = None
    android: Mapping[str, Any] = field(default_factory=dict)
    payload: Mapping[str, Any] = field(default_factory=dict)


FIELDS: Final = tuple(HmsOptions.__dataclass_fields__)


def parse(raw: Mapping[str, Any] | None, name: str = "notification.hms") -> HmsOptions:
    """Check what the caller wrote; nothing written is a set of defaults.

    Raises:
        InvalidRequest: names the field, what was found and what is allowed.
    """
    if not raw and isinstance(raw, Mapping | None):
        return HmsOptions()
    fields = Fields(raw, name, FIELDS)
    return HmsOptions(
        message_category=fields.text("message_category", _WORD, "a category such as 'IM' or 'MARKETING'"),
        urgency=fields.one_of("urgency", ("HIGH", "NORMAL")),
        importance=fields.one_of("importance", ("LOW", "NORMAL", "HIGH")),
        ttl=fields.whole("ttl", 1, MAX_TTL_S, "seconds"),
        collapse_key=fields.whole("collapse_key", -1, 100),
        tag=fields.text("tag", _TAG, "1 to 64 characters"),
        notify_id=fields.whole("notify_id", 0, MAX_NOTIFY_ID),
        channel_id=fields.text("channel_id", _TAG, "1 to 64 characters"),
        click_action=_click_action(fields),
        badge=_badge(fields),
        foreground_show=fields.flag("foreground_show"),
        test=bool(fields.flag("test")),
        bi_tag=fields.text("bi_tag", _TAG, "1 to 64 characters"),
        receipt_id=fields.text("receipt_id", _TAG, "1 to 64 characters"),
        fast_app_target=fields.one_of("fast_app_target", (1, 2)),
        push_type=fields.one_of("push_type", PUSH_TYPES),
        android=fields.mapping("android") or {},
        payload=fields.mapping("payload") or {},
    )


def _click_action(outer: Fields) -> ClickAction | None:
    if not outer.given("click_action"):
        return None
    fields = Fields(outer.raw["click_action"], outer.field("click_action"), ClickAction.__dataclass_fields__)
    given = [key for key in ClickAction.__dataclass_fields__ if fields.given(key)]
    if len(given) != 1 or (given == ["app"] and not fields.flag("app")):
        raise outer.refuse("click_action", "exactly one of: app (True), intent, action, url")
    return ClickAction(
        app=given == ["app"],
        intent=fields.text("intent"),
        action=fields.text("action"),
        url=fields.text(
            "url", lambda text: text.startswith("https://"), "an address that begins with https://"
        ),
    )


def _badge(outer: Fields) -> Badge | None:
    if not outer.given("badge"):
        return None
    fields = Fields(outer.raw["badge"], outer.field("badge"), Badge.__dataclass_fields__)
    if fields.given("add") and fields.given("set"):
        raise outer.refuse("badge", "add or set, not both", "both add and set")
    return Badge(
        add=fields.whole("add", 1, 99),
        set=fields.whole("set", 0, 99),
        entry=fields.text("entry", _CLASS, "a class such as com.example.shop.MainActivity"),
    )
