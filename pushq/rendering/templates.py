"""Texts with placeholders: ``Hello {first_name|friend}``.

A placeholder is a name in braces, and may have a default behind a bar. ``{{`` is an opening brace, ``}}`` a closing one; a closing
brace outside of a placeholder may stand alone. A default cannot contain braces. There is nothing else: no look into objects, no format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from pushq.errors import InvalidRequest

NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,63}").fullmatch
NAME_RULE: Final = "a name of lower-case letters, digits and _, such as {first_name} or {first_name|friend}"

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|\{")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Where a value goes. ``default`` stands in where there is none; None: the text has none."""

    name: str
    default: str | None = None


Piece: TypeAlias = str | Placeholder
#: What gives a placeholder its text.
Fill: TypeAlias = Callable[[Placeholder], str]


@lru_cache(maxsize=4096)
def pieces(text: str) -> tuple[Piece, ...]:
    """The text cut at its placeholders, with doubled braces made single. No two literals stand together, and none is empty.

    Raises:
        ValueError: ``(found, expected)`` about what is no placeholder.
    """
    result: list[Piece] = []
    literal, end = "", 0
    for match in _TOKEN.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        token, inside = match[0], match[1]
        if token in ("{{", "}}"):
            literal += token[0]
            continue
        if inside is None:
            raise ValueError("an opening brace that nothing closes", "{{ for a brace, or a placeholder")
        name, bar, default = inside.partition("|")
        if not NAME(name):
            raise ValueError(
                f"the placeholder {{{inside[:60]}}}", f"{NAME_RULE}, or {{{{ for a brace that is meant"
            )
        if literal:
            result.append(literal)
            literal = ""
        result.append(Placeholder(name, default if bar else None))
    literal += text[end:]
    if literal:
        result.append(literal)
    return tuple(result)


def check(text: str, field: str) -> None:
    """Raise InvalidRequest, naming ``field``, when the text's braces make no sense."""
    try:
        pieces(text)
    except ValueError as exc:
        raise InvalidRequest(field, exc.args[0], exc.args[1]) from None


def placeholders(text: str) -> tuple[Placeholder, ...]:
    """The placeholders of a text that :func:`check` has passed, in their order."""
    return tuple(piece for piece in pieces(text) if isinstance(piece, Placeholder))


def fill(text: str, value: Fill) -> str:
    """The text with each placeholder replaced."""
    return "".join(piece if isinstance(piece, str) else value(piece) for piece in pieces(text))


def default_of(placeholder: Placeholder, defaults: Mapping[str, str]) -> str | None:
    """What stands in for a missing value: the placeholder's own default, then the message's; None: nothing does."""
    return placeholder.default if placeholder.default is not None else defaults.get(placeholder.name)
