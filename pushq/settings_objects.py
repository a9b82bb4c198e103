"""What all settings have in common: they are frozen, take nothing that they do not know, and tell a wrong value in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of all settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,  # a limit of nan is no limit: it compares with nothing
    )


_EXPECTED: Final = {
    "missing": "it is required",
    "extra_forbidden": "no such key",
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
}


def line(error: Any, name: str, source: Mapping[str, Any]) -> str:
    """What is wrong with a value, what was found and what is expected; of a URL not what was found, for it may hold a password.

    Args:
        error: one of pydantic's ``ValidationError.errors()``.
        name: what to call the value.
        source: what was validated.
    """
    kind, message = error["type"], error["msg"]
    if kind == "value_error":
        return f"{name}: {message.removeprefix('Value error, ')}"
    if kind == "missing":
        return f"{name}: found nothing; expected a value (it is required)"
    found = _dig(source, error["loc"])
    shown = "a value" if found is None or "url" in name.lower() else repr(found)
    if kind == "extra_forbidden":
        return f"{name}: found a key that pushq does not know; expected it removed or its spelling corrected"
    context = error.get("ctx") or {}
    if kind == "string_pattern_mismatch":
        return f"{name}: found {shown}; expected text of the form {context.get('pattern')}"
    return f"{name}: found {shown}; expected {_EXPECTED.get(kind, message[:1].lower() + message[1:])}"


def _dig(source: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        if not isinstance(source, Mapping) or part not in source:
            return None
        source = source[part]
    return source
