"""What the caller says, made a :class:`~pushq.notification.message.Notification`: checked field by field, before any device is touched."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any, Final, cast

from pushq.errors import InvalidRequest, kind
from pushq.notification.message import (
    FIELDS,
    OVERRIDABLE,
    TEXT_KEYS,
    VARIANT_FIELDS,
    Notification,
    Priority,
    fits,
    texts_in,
)
from pushq.platforms import PLATFORMS
from pushq.rendering import languages, templates

#: FCM stores a message for at most 28 days (ErrorCode page of the FCM v1 reference); APNs for 30.
MAX_TTL_S: Final = 2_419_200
#: APNs: `apns-collapse-id` is at most 64 bytes (Apple, "Sending notification requests to APNs").
MAX_COLLAPSE_BYTES: Final = 64
MAX_LANGUAGES: Final = 100

#: FCM refuses these names in `data` (Message reference: reserved words).
_RESERVED_DATA: Final = frozenset({"from", "message_type", "gcm", "aps"})
_RESERVED_PREFIXES: Final = ("google.", "gcm.notification.")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]").search
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S").match


def parse_notification(value: object, name: str = "notification") -> Notification:
    """Check what the caller passed.

    Args:
        value: a mapping with the fields of :class:`Notification`, or a Notification.
        name: what to call it in an error.

    Raises:
        InvalidRequest: names the field, what was found and what is allowed.
    """
    if isinstance(value, Notification):
        value = value.as_json()
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), f"a mapping with some of: {', '.join(FIELDS)}")
    _known(value, FIELDS, name)
    own = {key: _PARSE[key](value.get(key), f"{name}.{key}") for key in _PARSE if key in value}
    result = Notification(**{key: item for key, item in own.items() if item is not None})
    # What an override says may be enough for its platform (a Live Activity); its own check sees to the others.
    overridden = any(value.get(platform) for platform in PLATFORMS)
    if result.silent and not result.data and not result.data_templates and not overridden:
        raise InvalidRequest(name, "neither title, body nor data", "at least one of them")
    for key in result.data_templates:
        if key in result.data:
            raise InvalidRequest(f"{name}.data_templates.{key}", "a key that data has too", "one of the two")
    others: dict[str, Any] = {"languages": _languages(value.get("languages"), result, f"{name}.languages")}
    for platform in PLATFORMS:
        others[platform] = _override(value.get(platform), f"{name}.{platform}")
    result = replace(result, **others)
    for platform in PLATFORMS:
        if result.for_platform(platform).silent != result.silent:
            raise InvalidRequest(
                f"{name}.{platform}",
                "a title or body for a message that has none",
                "texts in the message itself: a silent push is silent everywhere",
            )
    return result


def fits_header(text: str) -> bool:
    """Whether a text can be the value of an HTTP header as it is (RFC 9113 section 8.2.1), in UTF-8."""
    return text == text.strip(" ") and _CONTROL(text) is None


def _text(value: object, name: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return _encodable(value, name)
    raise InvalidRequest(
        name, "an empty text" if value == "" else kind(value), "a text, or the field left out"
    )


def _template(value: object, name: str) -> str | None:
    text = _text(value, name)
    if text is not None:
        templates.check(text, name)
    return text


def _image(value: object, name: str) -> str | None:
    image = _template(value, name)
    if image is not None and not image.startswith("https://"):
        raise InvalidRequest(name, repr(image[:60]), "an address that begins with https://")
    return image


def _link(value: object, name: str) -> str | None:
    link = _template(value, name)
    if link is not None and not _SCHEME(link):
        raise InvalidRequest(
            name, repr(link[:60]), "a link with its scheme, such as https://shop.example/sale or shop://sale"
        )
    return link


def _collapse_id(value: object, name: str) -> str | None:
    text = _text(value, name)
    if text is not None and not 1 <= len(text.encode()) <= MAX_COLLAPSE_BYTES:
        raise InvalidRequest(name, f"{len(text.encode())} bytes", f"1 to {MAX_COLLAPSE_BYTES} bytes of UTF-8")
    if text is not None and not fits_header(text):
        raise InvalidRequest(
            name, repr(text), "no control characters, and no space at either end: it becomes a header"
        )
    return text


def _priority(value: Any, name: str) -> Priority:
    if value not in ("high", "normal"):
        raise InvalidRequest(name, repr(value), "'high' or 'normal'")
    return cast(Priority, value)


def _ttl(value: object, name: str) -> int:
    return _whole(value, name, 0, MAX_TTL_S, "seconds")


def _badge(value: object, name: str) -> int | None:
    return None if value is None else _whole(value, name, 0, 99_999, "")


def _whole(value: object, name: str, low: int, high: int, unit: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(name, kind(value), f"a whole number from {low:,} to {high:,} {unit}".rstrip())
    return value


def _encodable(value: str | None, name: str) -> str | None:
    if value is not None:
        if "\0" in value:
            raise InvalidRequest(name, "a NUL character", "text without NUL characters")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(
                name, "a lone surrogate (broken UTF-16)", "text that can be written as UTF-8"
            ) from None
    return value


def _data(value: object, name: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of texts to texts")
    for key, item in value.items():
        if not isinstance(key, str) or not key:
            raise InvalidRequest(name, f"the key {key!r}", "keys that are texts")
        if key in _RESERVED_DATA or key.startswith(_RESERVED_PREFIXES):
            raise InvalidRequest(f"{name}.{key}", "a key that the providers reserve", "another name for it")
        if not isinstance(item, str):
            raise InvalidRequest(
                f"{name}.{key}", kind(item), "a text (FCM takes nothing else: write numbers as '42')"
            )
        _encodable(key, name)
        _encodable(item, f"{name}.{key}")
    return dict(value)


def _data_templates(value: object, name: str) -> dict[str, str]:
    data = _data(value, name)
    for key, text in data.items():
        templates.check(text, f"{name}.{key}")
    return data


def _defaults(value: object, name: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of placeholders' names to texts")
    for key, text in value.items():
        if not isinstance(key, str) or not templates.NAME(key):
            raise InvalidRequest(f"{name}.{str(key)[:64]}", "no name of a placeholder", templates.NAME_RULE)
        if not isinstance(text, str):
            raise InvalidRequest(f"{name}.{key}", kind(text), "a text")
        _encodable(text, f"{name}.{key}")
    return dict(value)


#: How each field is read; languages and overrides come after them.
_PARSE: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "title": _template,
    "body": _template,
    "data": _data,
    "data_templates": _data_templates,
    "sound": _text,
    "badge": _badge,
    "image": _image,
    "link": _link,
    "category": _text,
    "collapse_id": _collapse_id,
    "ttl": _ttl,
    "priority": _priority,
    "defaults": _defaults,
}


def _languages(value: object, base: Notification, name: str) -> dict[str, dict[str, Any]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of language tags to what is said otherwise there")
    if len(value) > MAX_LANGUAGES:
        raise InvalidRequest(name, f"{len(value)} languages", f"at most {MAX_LANGUAGES}")
    result: dict[str, dict[str, Any]] = {}
    for tag, variant in value.items():
        where = f"{name}.{tag}"
        key = languages.parse(tag, where)
        if key in result:
            raise InvalidRequest(where, "the same language twice", "each language once")
        if not isinstance(variant, Mapping) or not variant:
            raise InvalidRequest(where, kind(variant), f"a mapping with some of: {', '.join(VARIANT_FIELDS)}")
        _known(variant, VARIANT_FIELDS, where)
        said: dict[str, Any] = {}
        for field_, item in variant.items():
            if field_ in PLATFORMS:
                said[field_] = _override(item, f"{where}.{field_}")
                _only_texts(said[field_], f"{where}.{field_}")
            elif (parsed := _PARSE[field_](item, f"{where}.{field_}")) is not None:
                said[field_] = parsed
        shows = {"title", "body"} & {key for part in (said, *_parts(said)) for key in part}
        if base.silent and shows:
            raise InvalidRequest(
                f"{where}.{min(shows)}",
                "a text for a message that shows none",
                "a title or body in the message",
            )
        result[key] = said
    return result


def _parts(variant: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [variant[platform] for platform in PLATFORMS if platform in variant]


def _only_texts(options: Mapping[str, Any], name: str) -> None:
    """What changes a header cannot differ by language: all recipients of a send share their headers."""
    for key, item in options.items():
        if isinstance(item, Mapping):
            _only_texts(item, f"{name}.{key}")
        elif key not in TEXT_KEYS:
            raise InvalidRequest(
                f"{name}.{key}",
                "a field that cannot differ by language",
                f"some of: {', '.join(sorted(TEXT_KEYS))}",
            )


def _override(value: object, name: str) -> dict[str, Any]:
    """What one platform gets otherwise. Fields of the message are checked here, options by the platform's own module."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of fields")
    result: dict[str, Any] = _plain(value, name)
    for key, item in result.items():
        if key in OVERRIDABLE and fits(key, item):
            _PARSE[key](item, f"{name}.{key}")
    for where, text in texts_in(result, name):
        templates.check(text, where)
    return result


#: Deeper than any provider's message.
_MAX_DEPTH: Final = 32


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """A copy that is JSON and nothing else."""
    if depth > _MAX_DEPTH:
        raise InvalidRequest(name, f"more than {_MAX_DEPTH} levels", "fewer")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or not key:
                raise InvalidRequest(name, f"the key {key!r}", "keys that are texts")
            _encodable(key, name)
        return {key: _plain(item, f"{name}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, str):
        return _encodable(value, name)
    if isinstance(value, float) and not isfinite(value):
        raise InvalidRequest(name, repr(value), "a finite number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidRequest(name, "a number out of range", "a whole number of 64 bits")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise InvalidRequest(name, kind(value), "a text, a number, true or false, a list or a mapping")


def _known(value: Mapping[Any, Any], names: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            raise InvalidRequest(
                f"{where}.{str(key)[:60]}",
                "an unknown field",
                f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(names)}",
            )
