"""A recipient that is no device: a topic or condition of FCM, a broadcast channel of APNs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from pushq.errors import InvalidRequest, kind
from pushq.providers.apns.options import CHANNEL_ID
from pushq.providers.fcm.request import parse_condition, parse_topic

TargetKind = Literal["topic", "condition", "channel"]

#: Which platform knows it.
PLATFORM_OF: Final[Mapping[TargetKind, str]] = {"topic": "fcm", "condition": "fcm", "channel": "apns"}


@dataclass(frozen=True)
class Target:
    """Whom one request reaches.

    Attributes:
        value: the topic's name, the condition, or the channel's id.
        environment: of the channel: ``production`` or ``sandbox``.
    """

    kind: TargetKind
    value: str
    environment: str = "production"

    @property
    def platform(self) -> str:
        return PLATFORM_OF[self.kind]


def parse_channel(value: object, name: str = "audience.channel") -> str:
    """A channel's id, as APNs gave it out.

    Raises:
        InvalidRequest: it is none.
    """
    if isinstance(value, str) and CHANNEL_ID(value):
        return value
    raise InvalidRequest(
        name, kind(value), "a channel's id (base64), as pushq apns channels create prints it"
    )


def parse_target(source: Mapping[str, Any], name: str = "audience") -> Target | None:
    """The one target among the fields ``topic``, ``condition``, ``channel``; None when none of them is given.

    Raises:
        InvalidRequest: names the field.
    """
    given = [key for key in PLATFORM_OF if source.get(key) is not None]
    environment = source.get("environment")
    if environment is not None and given != ["channel"]:
        raise InvalidRequest(
            f"{name}.environment", kind(environment), "a channel as well: only channels have one"
        )
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest(name, f"{' and '.join(given)}", "one of them")
    which = given[0]
    if environment not in (None, "production", "sandbox"):
        raise InvalidRequest(f"{name}.environment", kind(environment), "'production' or 'sandbox'")
    parse = {"topic": parse_topic, "condition": parse_condition, "channel": parse_channel}[which]
    return Target(
        which, parse(source[which], f"{name}.{which}"), cast("str | None", environment) or "production"
    )
