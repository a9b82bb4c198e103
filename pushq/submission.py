"""A call to ``send_broadcast`` or ``send_notification``, checked completely before anything is published.

Pure but for the clock passed in. Where the call arrives it is checked again, for callers that are no Python or another version of pushq; what
providers would refuse is not looked for a second time by the same version.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Literal, cast

import orjson
from pydantic import ValidationError

from pushq.audience.request import Audience, as_json, parse_audience
from pushq.errors import InvalidRequest, kind
from pushq.notification import Notification, parse_notification
from pushq.platforms import PLATFORMS
from pushq.providers.apns import request as apns
from pushq.providers.fcm import request as fcm
from pushq.providers.hms import request as hms
from pushq.providers.target import Target
from pushq.rendering.templates import default_of
from pushq.rendering.values import parse as parse_values
from pushq.settings import RetrySettings
from pushq.version import VERSION

Guarantee = Literal["at_least_once", "at_most_once"]
Kind = Literal["broadcast", "transactional"]

GUARANTEES: Final = ("at_least_once", "at_most_once")
MAX_KEY_LENGTH: Final = 200
#: Requests per second for one send: what a caller may ask for.
MAX_RATE: Final = 1_000_000
_NAMESPACE: Final = uuid.UUID("4e0f1c5b-6e0a-5b8e-9d3a-2f6c1f0a7b52")
#: Names the version of pushq that has found a travelling call to be one that its providers take.
_CHECKED: Final = "checked"
#: What two calls that ask for the same may differ in.
_NOT_ASKED: Final = ("called_at", _CHECKED)
_CHECKS: Final = {"apns": apns.check, "fcm": fcm.check, "hms": hms.check}


@dataclass(frozen=True)
class Submission:
    """One valid call. ``app`` is None where the caller leaves it to the only configured app.

    Attributes:
        rate: requests per second at most, of all workers together; None is as fast as the provider's own limit allows.
        retry: what differs from the configured retry policy: some of ``max_attempts``, ``initial_delay``, ``max_delay``.
        values: by user id, what the placeholders say to him; over the attributes of his devices.
    """

    kind: Kind
    notification: Notification
    audience: Audience
    guarantee: Guarantee
    called_at: datetime
    app: str | None = None
    idempotency_key: str | None = None
    send_at: datetime | None = None
    rate: int | None = None
    retry: Mapping[str, float] | None = None
    values: Mapping[int, Mapping[str, Any]] | None = None

    @property
    def expires_at(self) -> datetime:
        """When pushq stops trying. A ``ttl`` of 0 is one attempt, for which a minute is allowed to pass in the queue."""
        return (self.send_at or self.called_at) + lifetime(self.notification)

    def send_id(self) -> uuid.UUID:
        """The send's id: with an idempotency key always the same for the same key, so that a repeated call is the same send."""
        if self.idempotency_key is None:
            return uuid.uuid4()
        return uuid.uuid5(_NAMESPACE, f"{self.app or ''}\0{self.idempotency_key}")

    def fingerprint(self, document: Mapping[str, Any] | None = None) -> str:
        """Tells whether two calls with one idempotency key ask for the same thing.

        Args:
            document: :meth:`as_json`, where it is at hand.
        """
        asked = {key: value for key, value in (document or self.as_json()).items() if key not in _NOT_ASKED}
        return sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """What travels to the broadcast worker; :func:`parse_submission` reads it back."""
        document: dict[str, Any] = {
            "kind": self.kind,
            "notification": self.notification.as_json(),
            "audience": as_json(self.audience),
            "guarantee": self.guarantee,
            "called_at": self.called_at.isoformat(),
            "app": self.app,
            "idempotency_key": self.idempotency_key,
            "send_at": self.send_at.isoformat() if self.send_at else None,
            "rate": self.rate,
            "retry": self.retry,
            "values": None
            if self.values is None
            else {str(user): dict(v) for user, v in self.values.items()},
            _CHECKED: VERSION,
        }
        return {key: value for key, value in document.items() if value is not None}


def lifetime(notification: Notification) -> timedelta:
    """How long pushq tries to deliver a message."""
    return timedelta(seconds=max(notification.ttl, 60))


def submit(
    kind_: Kind,
    *,
    notification: object,
    audience: object,
    guarantee: object,
    called_at: datetime,
    app: object = None,
    idempotency_key: object = None,
    send_at: object = None,
    rate: object = None,
    retry: object = None,
    values: object = None,
    deliverable: bool = False,
) -> Submission:
    """Check a call.

    Args:
        deliverable: it is known that every platform takes the notification.

    Raises:
        InvalidRequest: names the field, what was found and what is allowed.
    """
    message = parse_notification(notification)
    people = parse_audience(audience)
    if deliverable:
        pass
    elif people.target is not None:
        check_target(message, people.target)
    else:
        for platform in people.platforms or PLATFORMS:
            check_notification(message, platform)
    if guarantee not in GUARANTEES:
        raise InvalidRequest("guarantee", kind(guarantee), " or ".join(repr(g) for g in GUARANTEES))
    for name, value in (("app", app), ("idempotency_key", idempotency_key)):
        if value is not None and not (
            isinstance(value, str) and 1 <= len(value) <= MAX_KEY_LENGTH and "\0" not in value
        ):
            raise InvalidRequest(name, kind(value), f"a text of 1 to {MAX_KEY_LENGTH} characters")
    return Submission(
        kind=kind_,
        notification=message,
        audience=people,
        guarantee=guarantee,
        called_at=called_at,
        app=cast("str | None", app),
        idempotency_key=cast("str | None", idempotency_key),
        send_at=_time(send_at, "send_at"),
        rate=parse_rate(rate),
        retry=parse_retry(retry),
        values=parse_values(values, message.placeholders(), message.defaults, people.user_ids),
    )


def check_notification(notification: Notification, platform: str, name: str = "notification") -> None:
    """Raise InvalidRequest when the platform would refuse the notification, in any language, whatever the device.

    Values are not known yet: what has no default counts as a letter.
    """
    message = notification.for_platform(platform)
    for tag in (None, *message.languages):
        where = name if tag is None else f"{name}.languages.{tag}"
        _CHECKS[platform](message.in_language(tag).plain(), where)


def check_target(notification: Notification, target: Target, name: str = "notification") -> None:
    """Raise InvalidRequest for what a topic, condition or channel cannot take: there is one message for all whom it reaches."""
    message = notification.for_platform(target.platform).in_language(None)
    for placeholder in message.placeholders():
        if default_of(placeholder, message.defaults) is None:
            raise InvalidRequest(
                name,
                f"the placeholder {{{placeholder.name}}} without a default",
                f"one with a default: nothing is known of whom a {target.kind} reaches",
            )
    check = apns.check_channel if target.kind == "channel" else _CHECKS[target.platform]
    check(message.plain(), name)


def parse_rate(value: object) -> int | None:
    """Requests per second of one send; None is no limit of its own.

    Raises:
        InvalidRequest: it is no whole number, or out of range.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RATE):
        return value
    raise InvalidRequest(
        "rate", kind(value), f"requests per second, a whole number from 1 to {MAX_RATE:,}; None for no limit"
    )


def parse_retry(value: object) -> dict[str, float] | None:
    """What a send changes of the retry policy; an empty mapping is None.

    Raises:
        InvalidRequest: names the key, what was found and what is allowed.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidRequest(
            "retry", kind(value), f"a mapping with some of: {', '.join(RetrySettings.model_fields)}"
        )
    try:
        checked = RetrySettings.model_validate(dict(value), strict=True)
    except ValidationError as exc:
        fault = exc.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            raise InvalidRequest(
                f"retry.{name}", "an unknown field", f"some of: {', '.join(RetrySettings.model_fields)}"
            ) from None
        raise InvalidRequest(f"retry.{name}", kind(value.get(name)), _lowered(fault["msg"])) from None
    changed: dict[str, float] = {key: getattr(checked, key) for key in value}
    if (
        len(changed.keys() & {"initial_delay", "max_delay"}) == 2
        and checked.max_delay < checked.initial_delay
    ):
        raise InvalidRequest(
            "retry.max_delay", f"{checked.max_delay:g}", f"at least initial_delay, {checked.initial_delay:g}"
        )
    return changed or None


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


def parse_submission(document: Mapping[str, Any]) -> Submission:
    """Read back what :meth:`Submission.as_json` wrote, with all checks that this version has not made before."""
    which = document.get("kind")
    if which not in ("broadcast", "transactional"):
        raise InvalidRequest("kind", kind(which), "'broadcast' or 'transactional'")
    called_at = _time(document.get("called_at"), "called_at")
    if called_at is None:
        raise InvalidRequest("called_at", "nothing", "an ISO 8601 time")
    return submit(
        cast(Kind, which),
        notification=document.get("notification"),
        audience=document.get("audience"),
        guarantee=document.get("guarantee"),
        called_at=called_at,
        app=document.get("app"),
        idempotency_key=document.get("idempotency_key"),
        send_at=document.get("send_at"),
        rate=document.get("rate"),
        retry=document.get("retry"),
        values=document.get("values"),
        deliverable=document.get(_CHECKED) == VERSION,
    )


def _time(value: object, name: str) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        text = value
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidRequest(
                name, repr(text[:60]), "an ISO 8601 time such as 2030-01-31T18:00:00+01:00"
            ) from None
    if not isinstance(value, datetime):
        raise InvalidRequest(name, kind(value), "a datetime with a time zone")
    if value.tzinfo is None:
        raise InvalidRequest(
            name, f"{value.isoformat()} without a time zone", "a time with its zone, such as +00:00"
        )
    return value.astimezone(UTC)
