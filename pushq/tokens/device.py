"""A device as callers and files describe it, and the rules for each of its fields.

Each rule is one function ``(value) -> normalised value``; it raises :class:`~pushq.errors.InvalidRequest` that names the field.
A registration and an import use the same functions, so they cannot disagree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

import orjson

from pushq.errors import InvalidRequest
from pushq.platforms import PLATFORMS

ENVIRONMENTS: Final = ("production", "sandbox")

MAX_USER_ID: Final = 2**63 - 1
MAX_TAGS: Final = 64
MAX_TAG_LENGTH: Final = 64
MAX_ATTRIBUTES_BYTES: Final = 4096
#: Clocks of phones and of file writers are off by minutes, time zones by hours; more than this is a wrong column or unit.
FUTURE_TOLERANCE: Final = timedelta(days=1)

#: Apple fixes no length: 64 hex digits are usual, Live Activity tokens of 160 are in use. FCM documents no alphabet: these are the
#: characters seen. None of them needs quoting in CSV, in JSON or in PostgreSQL's COPY format.
TOKEN_FORMS: Final[Mapping[str, tuple[Callable[[str], object], str]]] = {
    "apns": (re.compile(r"(?:[0-9a-f]{2}){32,200}").fullmatch, "an even number of hex digits, 64 to 400"),
    "fcm": (re.compile(r"[A-Za-z0-9_:.\-]{20,4096}").fullmatch, "20 to 4,096 letters, digits, _ : . or -"),
    "hms": (
        re.compile(r"[A-Za-z0-9_:.+/=~\-]{20,4096}").fullmatch,
        "20 to 4,096 letters, digits or _ : . + / = ~ -",
    ),
}

_APP: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}").fullmatch
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,4}").fullmatch
_COUNTRY: Final = re.compile(r"[A-Za-z]{2}").fullmatch
_TIMEZONE: Final = re.compile(r"[A-Za-z0-9_+:/\-]{1,64}").fullmatch
_VERSION: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*(?:[^0-9.\s\\][\x21-\x5b\x5d-\x7e]*)?").fullmatch
_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"
).fullmatch


def _refuse(field: str, value: object, expected: str) -> NoReturn:
    raise InvalidRequest(field, describe(value), expected)


def describe(value: object) -> str:
    """A value for an error message: what it is, shortened."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:40]!r}... ({len(value):,} characters)"
    if isinstance(value, bool | int | float):
        return str(value)
    return f"a {type(value).__name__}"


def parse_user_id(value: object) -> int:
    """A whole number from 1 to 2**63 - 1, or its decimal digits."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_USER_ID:
        _refuse("user_id", value, "a whole number from 1 to 9223372036854775807")
    return value


def parse_app(value: object) -> str:
    if not isinstance(value, str) or not _APP(value):
        _refuse("app", value, "a name of a-z, 0-9, _ and -, at most 63 characters")
    return value


def parse_platform(value: object) -> str:
    if value not in PLATFORMS:
        _refuse("platform", value, f"{', '.join(PLATFORMS[:-1])} or {PLATFORMS[-1]}")
    return str(value)


def parse_environment(value: object) -> str:
    if value is None or value == "":
        return "production"
    if value not in ENVIRONMENTS:
        _refuse("environment", value, "production or sandbox")
    return str(value)


def parse_token(platform: str, value: object) -> str:
    """The token in its normal form (APNs: lower case). The error tells its length, never the token."""
    matches, expected = TOKEN_FORMS[platform]
    if isinstance(value, str):
        token = value.lower() if platform == "apns" else value
        if matches(token):
            return token
    if not value:
        found = "nothing"
    elif isinstance(value, str):
        found = f"{len(value):,} characters that are no {platform} token"
    else:
        found = describe(value)
    raise InvalidRequest("token", found, expected)


def parse_language(value: object) -> str | None:
    """A language tag such as ``de`` or ``pt-BR`` in its usual case; ``_`` is taken for ``-``."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > 35 or not _LANGUAGE(value):
        _refuse("language", value, "a language tag such as de, pt-BR or zh-Hans-CN")
    first, *rest = value.replace("_", "-").split("-")
    cased = [first.lower()]
    for part in rest:
        # RFC 5646 section 2.1.1: four letters are a script, two are a region, unless a singleton stands before them.
        after_singleton = len(cased[-1]) == 1
        if len(part) == 4 and part.isalpha() and not after_singleton:
            cased.append(part.title())
        elif len(part) == 2 and not after_singleton:
            cased.append(part.upper())
        else:
            cased.append(part.lower())
    return "-".join(cased)


def parse_country(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _COUNTRY(value):
        _refuse("country", value, "two letters such as DE")
    return value.upper()


def parse_timezone(value: object) -> str | None:
    """A zone name. Phones send more than the tz database knows (``GMT+05:30``), so the form is checked and not the name."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _TIMEZONE(value):
        _refuse("timezone", value, "a zone name such as Europe/Berlin, at most 64 characters")
    return value


def parse_app_version(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > 64 or not _VERSION(value):
        _refuse(
            "app_version",
            value,
            "a version that begins with numbers, such as 4.12.0 or 4.12.0-beta1, at most 64 characters",
        )
    return value


def parse_tags(value: object) -> tuple[str, ...] | None:
    """At most 64 tags of at most 64 printable characters; repeated ones count once. None: not given."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        _refuse("tags", value, "a list of texts")
    if len(value) > MAX_TAGS:
        raise InvalidRequest("tags", f"{len(value):,} tags", f"at most {MAX_TAGS}")
    for tag in value:
        if not isinstance(tag, str) or not tag or len(tag) > MAX_TAG_LENGTH or not tag.isprintable():
            _refuse("tags", tag, f"texts of 1 to {MAX_TAG_LENGTH} printable characters")
    return tuple(dict.fromkeys(value))


def parse_attributes(value: object) -> dict[str, Any] | None:
    """A flat object of texts, numbers and booleans, at most 4,096 bytes of JSON. None: not given."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        _refuse("attributes", value, 'an object such as {"plan": "pro"}')
    for key, item in value.items():
        if not isinstance(key, str) or not key or len(key) > 64 or not key.isprintable():
            _refuse("attributes", key, "names of 1 to 64 printable characters")
        if isinstance(item, str):
            # PostgreSQL's jsonb cannot hold U+0000, and UTF-8 cannot hold half a surrogate pair.
            if "\0" in item or not _encodable(item):
                raise InvalidRequest(
                    f"attributes.{key}", "a text with a NUL or a lone surrogate", "text without either"
                )
        elif isinstance(item, int | float):
            if not math.isfinite(item) or (isinstance(item, int) and not -(2**63) <= item < 2**63):
                raise InvalidRequest(
                    f"attributes.{key}", "a number out of range", "a finite number of 64 bits"
                )
        else:
            _refuse(f"attributes.{key}", item, "text, a number, true or false")
    attributes = dict(value)
    size = len(orjson.dumps(attributes))
    if size > MAX_ATTRIBUTES_BYTES:
        raise InvalidRequest("attributes", f"{size:,} bytes of JSON", f"at most {MAX_ATTRIBUTES_BYTES:,}")
    return attributes


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_time(field: str, value: object, now: datetime) -> datetime | None:
    """An ISO 8601 time with seconds at most to the microsecond; without a zone it is UTC.

    A time that is later than ``now`` by less than a day is a clock's error and becomes ``now``; beyond that it is refused.
    """
    if value is None or value == "":
        return None
    expected = "an ISO 8601 time such as 2026-11-01T12:00:00Z"
    if isinstance(value, str):
        if not _TIMESTAMP(value):
            _refuse(field, value, expected)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            _refuse(field, value, expected)
    elif isinstance(value, datetime):
        moment = value
    else:
        _refuse(field, value, expected)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment.year < 1970 or moment > now:
        if moment.year >= 1970 and moment <= now + FUTURE_TOLERANCE:
            return now
        raise InvalidRequest(field, moment.isoformat(), "a time since 1970 that is not in the future")
    return moment


@dataclass(frozen=True, slots=True)
class Device:
    """One device to register. Fields that are None leave what is stored as it is.

    Attributes:
        token: a secret; it is not part of ``repr``.
        last_seen: when the user last used the app there; None: now.
    """

    user_id: int
    app: str
    platform: str
    token: str
    environment: str = "production"
    language: str | None = None
    country: str | None = None
    timezone: str | None = None
    app_version: str | None = None
    tags: tuple[str, ...] | None = None
    attributes: Mapping[str, Any] | None = None
    last_seen: datetime | None = None

    def __repr__(self) -> str:
        return f"Device(user_id={self.user_id}, app={self.app!r}, platform={self.platform!r}, environment={self.environment!r})"


def parse_device(value: Mapping[str, object], *, now: datetime) -> Device:
    """Check a mapping of the fields of :class:`Device` and normalise it.

    Raises:
        InvalidRequest: a field is missing, unknown or wrong.
    """
    for name in value:
        if name not in FIELDS:
            raise InvalidRequest(str(name), "a field that devices do not have", ", ".join(FIELDS))
    platform = parse_platform(value.get("platform"))
    return Device(
        user_id=parse_user_id(value.get("user_id")),
        app=parse_app(value.get("app")),
        platform=platform,
        environment=parse_environment(value.get("environment")),
        token=parse_token(platform, value.get("token")),
        language=parse_language(value.get("language")),
        country=parse_country(value.get("country")),
        timezone=parse_timezone(value.get("timezone")),
        app_version=parse_app_version(value.get("app_version")),
        tags=parse_tags(value.get("tags")),
        attributes=parse_attributes(value.get("attributes")),
        last_seen=parse_time("last_seen", value.get("last_seen"), now),
    )


FIELDS: Final = tuple(Device.__dataclass_fields__)
