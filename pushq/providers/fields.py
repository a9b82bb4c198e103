"""Reading a caller's mapping field by field: every error names the field, what was found and what is allowed. Pure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from pushq.errors import InvalidRequest, kind

#: Free-form values (an activity's attributes, a web push's options) are no deeper than this: far beyond any real one.
MAX_DEPTH: Final = 32


class Fields:
    """The keys of one mapping.

    Args:
        raw: what the caller wrote.
        name: its place, such as ``notification.apns``; the fields' names are built on it.
        known: every key that may stand in it.

    Raises:
        InvalidRequest: it is no mapping, or has a key that is not known.
    """

    def __init__(self, raw: object, name: str, known: Iterable[str]) -> None:
        names = tuple(known)
        if not isinstance(raw, Mapping):
            raise InvalidRequest(name, kind(raw), f"a mapping with some of: {', '.join(names)}")
        for key in raw:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                raise InvalidRequest(
                    f"{name}.{str(key)[:60]}",
                    "an unknown field",
                    f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(names)}",
                )
        self.raw: Mapping[str, Any] = raw
        self.name = name

    def field(self, key: str) -> str:
        return f"{self.name}.{key}"

    def refuse(self, key: str, expected: str, found: str | None = None) -> InvalidRequest:
        """The error about a field, to be raised by the caller."""
        return InvalidRequest(self.field(key), found or kind(self.raw.get(key)), expected)

    def given(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def text(
        self, key: str, matches: Callable[[str], object] | None = None, expected: str = "a text"
    ) -> str | None:
        """A text that is not empty and fits ``matches``, if that is given."""
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value or (matches is not None and not matches(value)):
            raise self.refuse(key, expected, "an empty text" if value == "" else None)
        _storable(value, self.field(key))
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if (
            isinstance(value, str)
            or not isinstance(value, Sequence)
            or not all(isinstance(v, str) for v in value)
        ):
            raise self.refuse(key, "a list of texts")
        _storable(list(value), self.field(key))
        return tuple(value)

    def one_of(self, key: str, allowed: Iterable[Any]) -> Any:
        value = self.raw.get(key)
        choices = tuple(allowed)
        if value is None:
            return None
        # 1 == True: a flag where a number belongs is a mistake.
        if isinstance(value, bool) or not isinstance(value, str | int) or value not in choices:
            raise self.refuse(key, " or ".join(repr(choice) for choice in choices))
        return value

    def whole(self, key: str, low: int, high: int, unit: str = "") -> int | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(key, f"a whole number from {low:,} to {high:,} {unit}".rstrip())
        return value

    def number(self, key: str, low: float, high: float) -> float | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.refuse(key, f"a number from {low:g} to {high:g}")
        return value

    def finite(self, key: str) -> float | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refuse(key, "a number")
        return value

    def flag(self, key: str) -> bool | None:
        value = self.raw.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.refuse(key, "True or False")

    def mapping(self, key: str) -> dict[str, Any] | None:
        """A mapping of texts to anything that JSON can hold."""
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.refuse(key, "a mapping")
        _storable(value, self.field(key))
        return dict(value)

    def string_map(self, key: str) -> dict[str, str] | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.refuse(key, "a mapping of texts to texts")
        for name, item in value.items():
            if not isinstance(name, str) or not name:
                raise InvalidRequest(self.field(key), f"the key {name!r}", "keys that are texts")
            if not isinstance(item, str):
                raise InvalidRequest(
                    f"{self.field(key)}.{name[:60]}", kind(item), "a text: write numbers as '42'"
                )
        _storable(value, self.field(key))
        return dict(value)


def _storable(value: object, name: str) -> None:
    """Everything travels as JSON and is stored by PostgreSQL, which takes no NUL."""
    try:
        document = orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as exc:
        raise InvalidRequest(
            name, f"a value that JSON cannot hold ({exc})", "texts, numbers, lists and mappings"
        ) from None
    if b"\\u0000" in document and _holds_nul(value, MAX_DEPTH):
        raise InvalidRequest(name, "a NUL character", "text without NUL characters")


def _holds_nul(value: object, depth: int) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if depth == 0:
        return True
    if isinstance(value, Mapping):
        return any(_holds_nul(key, 0) or _holds_nul(item, depth - 1) for key, item in value.items())
    return isinstance(value, Sequence) and any(_holds_nul(item, depth - 1) for item in value)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` written into it: mappings key by key, everything else as a whole."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        result[key] = (
            merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
        )
    return result
