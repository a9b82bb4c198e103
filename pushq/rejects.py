"""Rejected records: in a file beside the one they came from, as CSV with line, reason and record; or the first of them, in memory."""

from __future__ import annotations

import csv
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self


class Rejects(Protocol):
    """Where records go that are wrong. ``count``: so many so far."""

    count: int

    def add(self, line: int, reason: str, record: str) -> None: ...


class FirstRejects:
    """Counts all and keeps the first few, without the record, which may hold a token: for who answers with them.

    Attributes:
        first: line and reason.
    """

    def __init__(self, most: int = 100) -> None:
        self.count = 0
        self.first: list[tuple[int, str]] = []
        self._most = most

    def add(self, line: int, reason: str, record: str) -> None:
        self.count += 1
        if len(self.first) < self._most:
            self.first.append((line, reason))


class RejectsFile:
    """Made when the first record comes. Records hold tokens and user ids: only the file's owner may read it.

    Attributes:
        count: records so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file: IO[str] | None = None
        self._writer: Any = None
        # One from an earlier run would be taken for this run's.
        path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, line: int, reason: str, record: str) -> None:
        if self._file is None:
            self.path.touch(mode=0o600)
            self._file = self.path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            self._writer = csv.writer(self._file)
            self._writer.writerow(("line", "reason", "record"))
        self._writer.writerow((line, reason, record))
        self.count += 1
