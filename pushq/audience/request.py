"""The audience as a caller writes it, checked field by field. Pure: nothing here knows a database.

What is given is combined with "and": devices of users in any of ``segments``, who are among ``user_ids``, that pass ``filter``, on one of
``platforms``, without those excluded. An audience must say who it is: everybody is ``segments=["all"]``. Or it is none of that but one
``topic``, ``condition`` (FCM) or ``channel`` (APNs): then the provider knows the devices, and pushq makes one request.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pushq.errors import InvalidRequest
from pushq.platforms import PLATFORMS
from pushq.providers.target import Target, parse_target

#: The segment that exists without being created.
EVERYBODY: Final = "all"
#: They travel with the call and stand in one array; more people are a segment.
MAX_USER_IDS: Final = 10_000
MAX_USER_ID: Final = 2**63 - 1
MAX_SEGMENTS: Final = 100
#: Values of one condition of a filter.
MAX_VALUES: Final = 100
MAX_DAYS: Final = 36_500

_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}").fullmatch
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,4}").fullmatch
_COUNTRY: Final = re.compile(r"[A-Za-z]{2}").fullmatch
_VERSION: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,9}").fullmatch


@dataclass(frozen=True)
class Audience:
    """Which devices a send goes to.

    Attributes:
        platforms: empty: all platforms.
        filter: conditions on the device, see :func:`parse_filter`.
        topic: one of FCM's topics, without ``/topics/``.
        condition: on FCM's topics: ``'news' in topics && ('de' in topics || 'at' in topics)``.
        channel: id of a broadcast channel of APNs.
        environment: of the channel; ``sandbox`` or, when left out, ``production``.
    """

    segments: tuple[str, ...] = ()
    exclude_segments: tuple[str, ...] = ()
    user_ids: tuple[int, ...] | None = None
    exclude_user_ids: tuple[int, ...] = ()
    platforms: tuple[str, ...] = ()
    filter: Mapping[str, Any] | None = None
    topic: str | None = None
    condition: str | None = None
    channel: str | None = None
    environment: str | None = None

    @property
    def target(self) -> Target | None:
        """Whom it is, if it is no devices."""
        return parse_target({name: getattr(self, name) for name in _TARGET_FIELDS})


_TARGET_FIELDS: Final = ("topic", "condition", "channel", "environment")
FIELDS: Final = tuple(Audience.__dataclass_fields__)


def parse_audience(value: object, field: str = "audience") -> Audience:
    """Check what the caller passed: a mapping with the fields of :class:`Audience`, or an Audience.

    Raises:
        InvalidRequest: names the field, such as ``audience.filter.tags.any``.
    """
    if isinstance(value, Audience):
        value = as_json(value)
    if not isinstance(value, Mapping):
        raise InvalidRequest(field, _kind(value), f"a mapping with some of: {', '.join(FIELDS)}")
    _known(value, FIELDS, field)
    target = parse_target(value, field)
    if target is not None:
        return _targeted(value, target, field)
    audience = Audience(
        segments=_segments(value.get("segments"), f"{field}.segments"),
        exclude_segments=_segments(value.get("exclude_segments"), f"{field}.exclude_segments"),
        user_ids=None if value.get("user_ids") is None else _user_ids(value["user_ids"], f"{field}.user_ids"),
        exclude_user_ids=_user_ids(value.get("exclude_user_ids") or (), f"{field}.exclude_user_ids"),
        platforms=_platforms(value.get("platforms"), f"{field}.platforms"),
        filter=None if value.get("filter") is None else parse_filter(value["filter"], f"{field}.filter"),
    )
    if EVERYBODY in audience.exclude_segments:
        raise InvalidRequest(f"{field}.exclude_segments", "'all'", "segments that leave somebody")
    if audience.user_ids == ():
        raise InvalidRequest(f"{field}.user_ids", "an empty list", "at least one user id")
    if not audience.segments and audience.user_ids is None and not audience.filter:
        raise InvalidRequest(
            field,
            "an audience that names nobody",
            'segments, user_ids or filter, or a topic, condition or channel; everybody is segments=["all"]',
        )
    return audience


def _targeted(value: Mapping[Any, Any], target: Target, field: str) -> Audience:
    """An audience that is one topic, condition or channel. Devices cannot be chosen among those that only the provider knows."""
    for name in FIELDS:
        if value.get(name) and name not in (*_TARGET_FIELDS, "platforms"):
            raise InvalidRequest(
                f"{field}.{name}",
                _kind(value[name]),
                f"nothing: the audience is a {target.kind}, whose devices only {target.platform} knows",
            )
    platforms = _platforms(value.get("platforms"), f"{field}.platforms")
    if platforms not in ((), (target.platform,)):
        raise InvalidRequest(
            f"{field}.platforms",
            repr(list(platforms)),
            f"['{target.platform}']: nobody else knows a {target.kind}",
        )
    return Audience(
        platforms=(target.platform,),
        **{name: value.get(name) for name in _TARGET_FIELDS},  # type: ignore[arg-type]
    )


def as_json(audience: Audience) -> dict[str, Any]:
    """A JSON object that :func:`parse_audience` reads back; what is not given is left out."""
    document: dict[str, Any] = {}
    for name in FIELDS:
        value = getattr(audience, name)
        if value is None or value == ():
            continue
        document[name] = list(value) if isinstance(value, tuple) else value
    return document


def parse_filter(value: object, field: str = "filter") -> dict[str, Any]:
    """Check a filter; all its conditions must hold. Values come back in their normal form.

    ============ ====================================================== ==========================================
    condition    value                                                  holds for devices
    ============ ====================================================== ==========================================
    platform     name or list of names                                  of one of them
    language     tag or list of tags                                    with that language or a variety (de: de-AT)
    country      code or list of codes                                  in one of them
    app_version  ``{"min": "4.2", "max": "5"}``, one may be left out    between them, both included; 4.2 is 4.2.0
    tags         ``{"any": [...], "all": [...], "none": [...]}``        with any, all, none of these tags
    last_seen    ``{"within_days": N}`` or ``{"before_days": N}``       seen in the last N days, or not
    ============ ====================================================== ==========================================

    A device of which the value is not known fails the condition (but has none of any tags).

    Raises:
        InvalidRequest: names the condition.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(field, _kind(value), f"a mapping with some of: {', '.join(CONDITIONS)}")
    if not value:
        raise InvalidRequest(field, "an empty mapping", f"at least one of: {', '.join(CONDITIONS)}")
    _known(value, tuple(CONDITIONS), field)
    return {name: CONDITIONS[name](condition, f"{field}.{name}") for name, condition in value.items()}


def _one_or_many(value: object, field: str, expected: str, parse: Callable[[str], str | None]) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not values:
        raise InvalidRequest(field, _kind(value), f"{expected}, or a list of such")
    if len(values) > MAX_VALUES:
        raise InvalidRequest(field, f"{len(values):,} values", f"at most {MAX_VALUES}")
    parsed = []
    for item in values:
        normal = parse(item) if isinstance(item, str) else None
        if normal is None:
            raise InvalidRequest(field, _kind(item), expected)
        parsed.append(normal)
    return list(dict.fromkeys(parsed))


def _filter_platform(value: object, field: str) -> list[str]:
    return _one_or_many(value, field, "apns, fcm or hms", lambda text: text if text in PLATFORMS else None)


def _filter_language(value: object, field: str) -> list[str]:
    def parse(text: str) -> str | None:
        return text.replace("_", "-").lower() if _LANGUAGE(text) else None

    return _one_or_many(value, field, "a language tag such as de or pt-BR", parse)


def _filter_country(value: object, field: str) -> list[str]:
    return _one_or_many(
        value, field, "two letters such as DE", lambda text: text.upper() if _COUNTRY(text) else None
    )


def _filter_app_version(value: object, field: str) -> dict[str, str]:
    bounds = _some_of(value, ("min", "max"), field)
    for name, version in bounds.items():
        if not isinstance(version, str) or not _VERSION(version):
            raise InvalidRequest(
                f"{field}.{name}", _kind(version), "a version of numbers and points, as text, such as '4.12'"
            )
    low, high = (_numbers(bounds.get(name)) for name in ("min", "max"))
    if low is not None and high is not None and low > high:
        raise InvalidRequest(field, f"min {bounds['min']} above max {bounds['max']}", "min up to max")
    return dict(bounds)


def _numbers(version: Any) -> list[int] | None:
    if version is None:
        return None
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def _filter_tags(value: object, field: str) -> dict[str, list[str]]:
    def parse(text: str) -> str | None:
        return text if text and len(text) <= 64 and text.isprintable() else None

    expected = "a text of 1 to 64 printable characters"
    return {
        name: _one_or_many(tags, f"{field}.{name}", expected, parse)
        for name, tags in _some_of(value, ("any", "all", "none"), field).items()
    }


def _filter_last_seen(value: object, field: str) -> dict[str, int]:
    days = _some_of(value, ("within_days", "before_days"), field)
    for name, number in days.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_DAYS:
            raise InvalidRequest(
                f"{field}.{name}", _kind(number), f"a whole number of days from 1 to {MAX_DAYS:,}"
            )
    if len(days) == 2 and days["within_days"] <= days["before_days"]:
        raise InvalidRequest(
            field, "within_days that end before before_days begin", "within_days above before_days"
        )
    return dict(days)


CONDITIONS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "platform": _filter_platform,
    "language": _filter_language,
    "country": _filter_country,
    "app_version": _filter_app_version,
    "tags": _filter_tags,
    "last_seen": _filter_last_seen,
}


def _some_of(value: object, names: tuple[str, ...], field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidRequest(field, _kind(value), f"a mapping with some of: {', '.join(names)}")
    _known(value, names, field)
    return value


def _segments(value: object, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidRequest(field, _kind(value), "a list of segment names")
    if len(value) > MAX_SEGMENTS:
        raise InvalidRequest(field, f"{len(value):,} segments", f"at most {MAX_SEGMENTS}")
    return tuple(dict.fromkeys(parse_segment_name(name, field) for name in value))


def parse_segment_name(value: object, field: str = "segment") -> str:
    """A segment's name: letters, digits and ``_ . : -``, at most 100 characters."""
    if not isinstance(value, str) or not _SEGMENT(value):
        raise InvalidRequest(
            field, _kind(value), "a name of letters, digits, _ . : and -, at most 100 characters"
        )
    return value


def _user_ids(value: object, field: str) -> tuple[int, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidRequest(field, _kind(value), "a list of user ids")
    if len(value) > MAX_USER_IDS:
        raise InvalidRequest(
            field,
            f"{len(value):,} user ids",
            f"at most {MAX_USER_IDS:,}; for more, make a segment: pushq segments create",
        )
    for user_id in value:
        if not isinstance(user_id, int) or isinstance(user_id, bool) or not 1 <= user_id <= MAX_USER_ID:
            raise InvalidRequest(field, _kind(user_id), "whole numbers from 1 to 9223372036854775807")
    return tuple(dict.fromkeys(value))


def _platforms(value: object, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidRequest(field, _kind(value), f"a list with some of: {', '.join(PLATFORMS)}")
    for platform in value:
        if platform not in PLATFORMS:
            raise InvalidRequest(field, _kind(platform), f"some of: {', '.join(PLATFORMS)}")
    return tuple(platform for platform in PLATFORMS if platform in value)


def _known(value: Mapping[Any, Any], names: tuple[str, ...], field: str) -> None:
    for name in value:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"some of: {', '.join(names)}"
            raise InvalidRequest(f"{field}.{str(name)[:60]}", "a key that pushq does not know", hint)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence):
        return "a list" if value else "an empty list"
    return f"a {type(value).__name__}"
