"""The file of rejected records, beside the file they came from: CSV with line, reason and record."""

from __future__ import annotations

import csv
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self


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
