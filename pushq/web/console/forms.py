"""Forms as browsers send them: ``application/x-www-form-urlencoded``, bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final
from urllib.parse import parse_qsl

from fastapi import Depends
from starlette.requests import Request

from pushq.errors import InvalidRequest
from pushq.web.problems import Problem

MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
#: A message is at most 4 KiB at its provider; a thousand user ids and overrides fit as well.
MOST_BYTES: Final = 256 * 1024
MOST_FIELDS: Final = 2000


@dataclass(frozen=True)
class Form:
    """What somebody filled in. Texts come without spaces around them, and an empty one is as good as none."""

    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        values = self.fields.get(name)
        return (values[-1].strip() or None) if values else None

    def raw(self, name: str) -> str:
        values = self.fields.get(name)
        return values[-1] if values else ""

    def texts(self, name: str) -> list[str]:
        return [text for value in self.fields.get(name, ()) if (text := value.strip())]

    def on(self, name: str) -> bool:
        return bool(self.fields.get(name))

    def number(self, name: str, called: str, low: int, high: int) -> int | None:
        """A whole number.

        Raises:
            InvalidRequest: it is none, or out of its range.
        """
        text = self.text(name)
        if text is None:
            return None
        plain = text.replace(",", "").replace("\N{NO-BREAK SPACE}", "").replace(" ", "")
        if not (plain.isascii() and plain.removeprefix("-").isdigit() and len(plain) <= 20):
            raise InvalidRequest(called, repr(text[:60]), f"a whole number from {low:,} to {high:,}")
        if not low <= int(plain) <= high:
            raise InvalidRequest(called, text[:60], f"a whole number from {low:,} to {high:,}")
        return int(plain)


def parse(body: bytes) -> Form:
    """Read a body.

    Raises:
        Problem: it is too large, or no form.
    """
    if len(body) > MOST_BYTES:
        raise Problem(413, "too-large", f"found {len(body):,} bytes; expected at most {MOST_BYTES:,}")
    try:
        pairs = parse_qsl(
            body.decode(),
            keep_blank_values=True,
            strict_parsing=False,
            max_num_fields=MOST_FIELDS,
            errors="strict",
        )
    except ValueError:  # no UTF-8, or too many fields
        raise Problem(
            422, "invalid-request", f"the form cannot be read, or has more than {MOST_FIELDS:,} fields"
        ) from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        # Browsers send line ends as CR LF.
        found.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return Form(found)


async def _read(request: Request) -> Form:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != MEDIA_TYPE:
        raise Problem(415, "media-type", f"expected {MEDIA_TYPE}")
    return parse(await request.body())


#: A handler's parameter of this type is the form that was sent.
Filled = Annotated[Form, Depends(_read)]
