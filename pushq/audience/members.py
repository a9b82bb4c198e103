"""Files of user ids: one per line, or CSV with a column ``user_id``. Wrong lines go to a rejects file, the others on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from pushq.audience.request import MAX_USER_ID
from pushq.errors import InvalidRequest
from pushq.rejects import Rejects, RejectsFile

MAX_LINE: Final = 65_536
#: User ids that are handed on together.
CHUNK: Final = 50_000

_BOM: Final = b"\xef\xbb\xbf"
_EXPECTED: Final = "a whole number from 1 to 9223372036854775807"


class MemberFile:
    """Reads user ids from a stream, in bounded memory. Use it as a context manager.

    Args:
        rejects: where wrong lines go; a path is a file of CSV with line, reason and record, which exists only if there are any.

    Attributes:
        accepted, rejected: lines so far.
    """

    def __init__(self, stream: BinaryIO, rejects: Path | Rejects) -> None:
        self.accepted = 0
        self._stream = stream
        self._rejects = RejectsFile(rejects) if isinstance(rejects, Path) else rejects

    @property
    def rejected(self) -> int:
        return self._rejects.count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self._rejects, RejectsFile):
            self._rejects.__exit__(kind, error, trace)

    def chunks(self) -> Iterator[list[int]]:
        """The user ids, up to 50,000 at a time, in the order of the file.

        Raises:
            InvalidRequest: the first line is a header without ``user_id``.
        """
        column: int | None = None
        chunk: list[int] = []
        for number, raw in enumerate(self._lines(), 1):
            if len(raw) > MAX_LINE:
                self._reject(number, f"longer than {MAX_LINE:,} bytes", raw[:1000])
                continue
            try:
                line = (raw.removeprefix(_BOM) if number == 1 else raw).decode().strip()
            except UnicodeDecodeError as error:
                self._reject(
                    number, f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}", raw
                )
                continue
            if not line:
                continue
            values = next(csv.reader((line,))) if column is not None or not _is_number(line) else [line]
            if number == 1 and not _is_number(line):
                column = _header(values)
                continue
            value = values[column or 0].strip() if len(values) > (column or 0) else ""
            if not _is_number(value) or not 1 <= int(value) <= MAX_USER_ID:
                self._reject(number, f"user_id: found {value[:60]!r}; expected {_EXPECTED}", raw)
                continue
            chunk.append(int(value))
            self.accepted += 1
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _lines(self) -> Iterator[bytes]:
        """Lines without their end. Of one that is too long only the beginning is kept."""
        while line := self._stream.readline(MAX_LINE + 2):
            rest = line
            while not rest.endswith(b"\n") and rest:
                rest = self._stream.readline(MAX_LINE + 2)
                line += rest if len(line) <= MAX_LINE else b""
            yield line.rstrip(b"\r\n")

    def _reject(self, number: int, reason: str, raw: bytes) -> None:
        self._rejects.add(number, reason, raw.decode(errors="backslashreplace"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 19


def _header(names: list[str]) -> int:
    lowered = [name.strip().lower() for name in names]
    if "user_id" not in lowered:
        raise InvalidRequest(
            "header", repr(",".join(names)[:100]), "a user id in each line, or a header with a column user_id"
        )
    return lowered.index("user_id")
