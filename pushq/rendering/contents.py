"""What each of many recipients gets, as bytes.

A message is written down once for each variant, with marks where values will go, and the bytes are cut at the marks. A recipient's
content is then pieces joined around his values: what the provider's own builder would have written for him, at the price of a join.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Any, Final, Generic, Protocol, Self, TypeAlias, TypeVar

import orjson

from pushq.rendering import languages
from pushq.rendering.templates import Fill, Placeholder, default_of

#: Why a recipient gets no request at all.
VALUE_MISSING: Final = "value_missing"
PAYLOAD_TOO_LARGE: Final = "payload_too_large"

#: What is known of a recipient, by name: texts and numbers. An empty text is as good as none, and so is anything else.
Values: TypeAlias = Mapping[str, Any]

_NOBODY: Final[Values] = {}
#: Spellings of language tags that are remembered; beyond it (somebody makes them up) they are looked up anew.
_REMEMBERED: Final = 4096


class Composed(Protocol):
    """A message with variants and placeholders, as far as rendering has to know it."""

    @property
    def languages(self) -> Mapping[str, Any]: ...
    @property
    def defaults(self) -> Mapping[str, str]: ...
    def in_language(self, tag: str | None) -> Self: ...
    def filled(self, fill: Fill) -> Self: ...


M = TypeVar("M", bound=Composed)


@dataclass(frozen=True)
class Format(Generic[M]):
    """How a platform writes a message down, and how much it takes.

    Attributes:
        write: from a message without variants and placeholders to the bytes of a JSON document; nothing in it differs by recipient.
            It is also called with texts that have marks where values will go, so it must hand texts on as they are: no cutting, no
            escapes but JSON's, by orjson (JSON inside of a JSON text is understood).
        measure: bytes of such a message as the platform counts them; a longer text counts at most by what it adds to ``write``.
        limit: how many it takes.
    """

    write: Callable[[M], bytes]
    measure: Callable[[M], int]
    limit: int


@dataclass(slots=True)
class Rendered:
    """One entry per recipient.

    Attributes:
        contents: None for those who get no request; without values, equal ones are the same object.
        refused: why not, by position: VALUE_MISSING or PAYLOAD_TOO_LARGE.
    """

    contents: list[bytes | None]
    refused: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Cut:
    """A variant's bytes around its values.

    Attributes:
        pieces: one more than slots.
        slots: by place, the placeholder and how many times JSON has to escape its value.
        longest: bytes that surely are not too many.
    """

    tag: str | None
    pieces: tuple[bytes, ...]
    slots: tuple[tuple[Placeholder, int], ...]
    longest: int


class Renderer(Generic[M]):
    """Renders one message for one platform. Variants are cut when the first recipient needs them."""

    def __init__(self, message: M, platform: Format[M]) -> None:
        self._message, self._format = message, platform
        self._cuts: dict[str | None, _Cut] = {}
        self._chosen: dict[str | None, str | None] = {}

    def render(
        self, tags: Sequence[str | None] | None, values: Sequence[Values | None] | None, many: int
    ) -> Rendered:
        """The contents for some recipients.

        Args:
            tags: their languages; None: nobody's is known.
            values: what is known of each; None likewise.
            many: how many they are.
        """
        result = Rendered([None] * many)
        if tags is None or not self._message.languages:
            self._render(self._cut(None), range(many), values, result)
            return result
        groups: dict[str | None, list[int]] = {}
        for index, tag in enumerate(tags):
            chosen = self._choose(tag)
            group = groups.get(chosen)
            if group is None:
                group = groups[chosen] = []
            group.append(index)
        for chosen, rows in groups.items():
            self._render(self._cut(chosen), rows, values, result)
        return result

    def write(self, tag: str | None, values: Values) -> bytes:
        """The content for one recipient, by the platform's own builder: what :meth:`render` has to be equal to."""
        return self._format.write(self._naive(self._choose(tag), values))

    def size(self, tag: str | None, values: Values) -> int:
        """Bytes of it as the platform counts them."""
        return self._format.measure(self._naive(self._choose(tag), values))

    def missing(self, tag: str | None, values: Values) -> tuple[str, ...]:
        """Names of the values without which there is no content."""
        slots = self._cut(self._choose(tag)).slots
        names = [slot.name for slot, _ in slots if self._column(slot, [values])[0] is None]
        return tuple(dict.fromkeys(names))

    def _choose(self, tag: str | None) -> str | None:
        try:
            return self._chosen[tag]
        except KeyError:
            chosen = languages.choose(tag, self._message.languages)
            if len(self._chosen) < _REMEMBERED:
                self._chosen[tag] = chosen
            return chosen

    def _cut(self, tag: str | None) -> _Cut:
        cut = self._cuts.get(tag)
        if cut is None:
            cut = self._cuts[tag] = self._make_cut(tag)
        return cut

    def _make_cut(self, tag: str | None) -> _Cut:
        variant, write = self._message.in_language(tag), self._format.write
        # No text is empty: some options must not be.
        bare = variant.filled(lambda _: "x")
        written = write(bare)
        nonce = next(word for number in count() if (word := b"pushq%dz" % number) not in written)
        found: list[Placeholder] = []

        def mark(placeholder: Placeholder) -> str:
            found.append(placeholder)
            # The quote tells how often the text is escaped on its way: once \", in JSON inside of JSON \\\".
            return f'{nonce.decode()}{len(found) - 1}"'

        pieces, slots, end = [], [], 0
        marked = write(variant.filled(mark))
        for match in re.finditer(nonce + rb'(\d+)(\\+)"', marked):
            pieces.append(marked[end : match.start()])
            slots.append((found[int(match[1])], len(match[2]).bit_length()))
            end = match.end()
        pieces.append(marked[end:])
        longest = self._format.limit - self._format.measure(bare) + len(written) - len(slots)
        return _Cut(tag, tuple(pieces), tuple(slots), longest)

    def _render(
        self, cut: _Cut, rows: Sequence[int], values: Sequence[Values | None] | None, result: Rendered
    ) -> None:
        contents = result.contents
        if not cut.slots:
            for row in rows:
                contents[row] = cut.pieces[0]
            return
        known = [_NOBODY] * len(rows) if values is None else [values[row] or _NOBODY for row in rows]
        columns = [self._column(placeholder, known) for placeholder, _ in cut.slots]
        missing = {place for column in columns for place in _missing(column)}
        if missing:
            for place in missing:
                result.refused[rows[place]] = VALUE_MISSING
            kept = [place for place in range(len(rows)) if place not in missing]
            rows, known = [rows[place] for place in kept], [known[place] for place in kept]
            columns = [[column[place] for place in kept] for column in columns]
        parts: list[Iterable[bytes]] = [repeat(cut.pieces[0])]
        for column, (_, depth), piece in zip(columns, cut.slots, cut.pieces[1:], strict=True):
            parts += ([escape(text or "", depth) for text in column], repeat(piece))
        bodies = list(map(b"".join, zip(*parts, strict=False)))  # the columns end it
        for row, body in zip(rows, bodies, strict=True):
            contents[row] = body
        if bodies and max(map(len, bodies)) > cut.longest:
            self._refuse_large(cut, rows, known, result)

    def _refuse_large(
        self, cut: _Cut, rows: Sequence[int], known: Sequence[Values], result: Rendered
    ) -> None:
        for row, values in zip(rows, known, strict=True):
            body = result.contents[row]
            if body is None or len(body) <= cut.longest:
                continue
            if self._format.measure(self._naive(cut.tag, values)) > self._format.limit:
                result.contents[row] = None
                result.refused[row] = PAYLOAD_TOO_LARGE

    def _naive(self, tag: str | None, values: Values) -> M:
        return self._message.in_language(tag).filled(
            lambda placeholder: self._column(placeholder, [values])[0] or ""
        )

    def _column(self, placeholder: Placeholder, known: Sequence[Values]) -> list[str | None]:
        """The text that each recipient has in the placeholder's place; None: he has no value, and there is no default."""
        name, default = placeholder.name, default_of(placeholder, self._message.defaults)
        return [
            value if type(value := values.get(name)) is str and value else as_text(value) or default
            for values in known
        ]


def as_text(value: object) -> str | None:
    """How a value is read out; None: it is none."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    text = repr(value)
    return text.removesuffix(".0") if isinstance(value, float) else text


def escape(text: str, depth: int) -> bytes:
    """The text as it stands between the quotes of a JSON text, or of one inside of another (depth 2)."""
    escaped = orjson.dumps(text)[1:-1]
    for _ in range(depth - 1):
        escaped = orjson.dumps(escaped.decode())[1:-1]
    return escaped


def _missing(column: Sequence[str | None]) -> list[int]:
    return [place for place, text in enumerate(column) if text is None] if None in column else []
