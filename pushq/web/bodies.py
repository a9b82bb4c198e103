"""Request bodies: a JSON object as a whole, or lines as a stream that a thread reads."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Collection
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request

from pushq.errors import InvalidRequest, kind
from pushq.web.problems import Problem

#: Deeper than any message: what is below is refused before anybody walks through it.
MOST_DEPTH: Final = 64
#: Seconds that a thread waits for the next part of a body; the limits of :mod:`pushq.web.limits` come first.
PART_S: Final = 60.0


def media_type(request: Request, expected: Collection[str]) -> str:
    """The body's media type, without parameters.

    Raises:
        Problem: it is none of those expected, in another charset than UTF-8 or packed (415).
    """
    name, *parameters = [part.strip() for part in request.headers.get("content-type", "").lower().split(";")]
    charset = next((p[8:].strip('"') for p in parameters if p.startswith("charset=")), "utf-8")
    coding = request.headers.get("content-encoding", "identity").lower()
    if name not in expected or charset not in ("utf-8", "utf8", "us-ascii") or coding != "identity":
        found = request.headers.get("content-type", "nothing")[:60]
        wanted = f"{' or '.join(expected)}, in UTF-8 and unpacked"
        raise Problem(
            415,
            "media-type",
            f"Content-Type: found {found}; expected {wanted}",
            field="Content-Type",
            found=found,
            expected=wanted,
        )
    return name


async def read_object(request: Request, *, empty: bool = False) -> dict[str, Any]:
    """The body as a JSON object.

    Args:
        empty: whether no body at all is an empty object.

    Raises:
        Problem: it is no JSON (400), another media type (415), too large (413) or too slow (408).
        InvalidRequest: it is JSON, but no object, or nested too deeply.
    """
    raw = await request.body()
    if empty and not raw:
        return {}
    media_type(request, ("application/json",))
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Problem(
            400,
            "unreadable-json",
            f"line {error.lineno}, column {error.colno}: {error.msg}",
            line=error.lineno,
            column=error.colno,
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(
            "body", kind(value)[:80] if not isinstance(value, list) else "a list", "a JSON object"
        )
    if raw.count(b"{") + raw.count(b"[") > MOST_DEPTH and _deeper(value, MOST_DEPTH):
        raise InvalidRequest("body", f"more than {MOST_DEPTH} levels", "fewer")
    return value


def _deeper(value: Any, most: int) -> bool:
    """Whether containers are nested deeper; without recursion."""
    level = [value]
    for _ in range(most):
        below = []
        for item in level:
            below += [
                child
                for child in (item.values() if isinstance(item, dict) else item)
                if isinstance(child, dict | list)
            ]
        if not below:
            return False
        level = below
    return True


class Upload(io.RawIOBase):
    """A body that a thread reads while it arrives. No more of it is in memory than one part and what the reader asked for.

    Attributes:
        failed: why it ended early: a Problem, or that the client is gone. Whoever reads gets the same.
    """

    def __init__(self, parts: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._parts, self._loop = parts, loop
        self._rest = memoryview(b"")
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises Problem: the client is gone (400), or too slow (408)."""
        while not self._rest and not self._over:
            self._rest = memoryview(self._next())
        many = min(len(buffer), len(self._rest))
        buffer[:many] = self._rest[:many]
        self._rest = self._rest[many:]
        return many

    def _next(self) -> bytes:
        asked = asyncio.run_coroutine_threadsafe(self._part(), self._loop)
        try:
            return asked.result(PART_S)
        except ClientDisconnect:
            raise Problem(400, "incomplete-body", "The connection ended before the body did") from None
        except TimeoutError:
            asked.cancel()
            raise Problem(408, "slow-body", f"nothing came for {PART_S:.0f} s") from None

    async def _part(self) -> bytes:
        try:
            return await anext(self._parts)
        except StopAsyncIteration:
            self._over = True
            return b""


def upload(request: Request) -> io.BufferedReader:
    """The request's body for a thread; close it when done."""
    return io.BufferedReader(Upload(aiter(request.stream()), asyncio.get_running_loop()), 1 << 16)
