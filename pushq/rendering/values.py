"""Values that a call brings along: what placeholders say to each of its users."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import Any, Final

import orjson

from pushq.errors import InvalidRequest
from pushq.rendering.templates import Placeholder, default_of

#: They travel with the call and stay in the ledger as long as the send does.
MAX_BYTES: Final = 1_048_576


def parse(
    value: object,
    placeholders: Sequence[Placeholder],
    defaults: Mapping[str, str],
    user_ids: Collection[int] | None,
    field: str = "values",
) -> dict[int, dict[str, Any]] | None:
    """Check a call's values.

    A name that any user has here is the call's own: everybody must have it, or the placeholder a default. Other names are left to the
    devices' attributes.

    Args:
        value: by user id, values by placeholder's name: texts, or numbers.
        placeholders: those of the message.
        defaults: the message's.
        user_ids: whom the call is to; None where it does not name them.

    Raises:
        InvalidRequest: names the user and the value.
    """
    if value is None:
        return None
    if user_ids is None:
        raise InvalidRequest(field, "values in a call to an audience", "user_ids that they belong to")
    if not isinstance(value, Mapping):
        raise InvalidRequest(field, type(value).__name__, "a mapping of user ids to mappings of values")
    names = list(dict.fromkeys(placeholder.name for placeholder in placeholders))
    wanted, result = frozenset(user_ids), {}
    for key, values in value.items():
        user_id = _user_id(key, field)
        where = f"{field}.{user_id}"
        if user_id not in wanted:
            raise InvalidRequest(where, "a user whom the call is not to", "ids among user_ids")
        if not isinstance(values, Mapping):
            raise InvalidRequest(where, type(values).__name__, "a mapping of placeholders' names to values")
        result[user_id] = {name: _value(item, name, names, where) for name, item in values.items()}
    _complete(result, placeholders, defaults, user_ids, field)
    size = len(orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS))
    if size > MAX_BYTES:
        raise InvalidRequest(field, f"{size:,} bytes of JSON", f"at most {MAX_BYTES:,}; split the call")
    return result or None


def _user_id(key: object, field: str) -> int:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 20:
        return int(key)  # JSON has no other keys
    raise InvalidRequest(f"{field}.{str(key)[:40]}", "no user id", "user ids as keys")


def _value(item: Any, name: object, names: Sequence[str], where: str) -> str | int | float:
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        raise InvalidRequest(
            f"{where}.{str(name)[:64]}",
            "a value that no placeholder of the message asks for",
            f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(names) or 'none'}",
        )
    field = f"{where}.{name}"
    if isinstance(item, str):
        if "\0" in item or not _encodable(item):
            raise InvalidRequest(field, "a text with a NUL or a lone surrogate", "text without either")
    elif isinstance(item, bool) or not isinstance(item, int | float) or not isfinite(item):
        raise InvalidRequest(field, type(item).__name__, "a text or a finite number")
    elif isinstance(item, int) and not -(2**63) <= item < 2**63:
        raise InvalidRequest(field, "a number out of range", "a whole number of 64 bits")
    return item  # type: ignore[no-any-return]


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _complete(
    values: Mapping[int, Mapping[str, Any]],
    placeholders: Sequence[Placeholder],
    defaults: Mapping[str, str],
    user_ids: Collection[int],
    field: str,
) -> None:
    own = {name for given in values.values() for name in given}
    needed = {p.name for p in placeholders if p.name in own and default_of(p, defaults) is None}
    if not needed:
        return
    for user_id in user_ids:
        given = values.get(user_id, {})
        for name in needed:
            if given.get(name, "") == "":
                raise InvalidRequest(
                    f"{field}.{user_id}.{name}",
                    "nothing",
                    f"a value, as for other users of this call, or a default: {{{name}|friend}}",
                )
