"""Bulk import of device tokens: a stream of CSV or JSON lines in, windows of COPY into PostgreSQL.

Each record is a registration as in :mod:`pushq.tokens.registration`, with one difference: it speaks of the time it carries
(``registered_at``; without one, the start of the import), and what is newer than that stays as it is. So a file may be imported
again after a crash, or late, without taking back what phones have registered since.

Records are checked in this thread while another one stores the window before. Nothing but two windows is held in memory. A window is
stored under the gate of :mod:`pushq.tokens.locks`: its hashes are looked up in one query, what is new to the table is copied straight
into it over two connections, and only what is there already goes through a staging table.
"""

from __future__ import annotations

import gzip
import logging
import sys
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from sqlalchemy import text

from pushq.database import Database
from pushq.errors import InvalidRequest, PushqError
from pushq.rejects import Rejects, RejectsFile
from pushq.tokens.cache import TokenCache
from pushq.tokens.device import describe
from pushq.tokens.lines import read_blocks
from pushq.tokens.records import CsvReader, JsonLinesReader
from pushq.tokens.rows import COLUMNS, RowEncoder
from pushq.tokens.storing import Storage

logger = logging.getLogger("pushq.tokens")

#: Records that are stored together. The look-up of their hashes reads the whole index once per window while the table is small, so
#: fewer windows cost less; two of them are in memory, about half a kilobyte per record.
WINDOW: Final = 200_000
FORMATS: Final = ("csv", "jsonl")
_APP: Final = COLUMNS.index("app")


class UnreadableFile(PushqError):
    """Reading failed in mid-file."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the records of a file: ``records`` is the sum of the counts after it but ``moved``.

    Attributes:
        inserted: devices new to the table.
        updated: devices that were there, of the same user.
        superseded: what is stored is newer than the record; nothing was changed.
        repeated: records whose token stands again further down in the file, where it counts.
        rejected: records that are wrong; they stand in ``rejects_file``.
        moved: devices of other users that lost their token to a record.
        seconds: from the first byte to the last commit.
    """

    records: int
    inserted: int
    updated: int
    superseded: int
    repeated: int
    rejected: int
    moved: int
    rejects_file: str | None
    seconds: float

    @property
    def per_second(self) -> int:
        return round(self.records / self.seconds) if self.seconds else 0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 3), "per_second": self.per_second}


def import_file(
    database: Database,
    path: Path,
    *,
    format: str | None = None,  # noqa: A002 - what the option is called
    app: str | None = None,
    rejects: Path | None = None,
    cache: TokenCache | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> ImportReport:
    """Import the file at ``path``; ``-`` is standard input, ``.gz`` is unpacked.

    Args:
        database: its pool must allow 3 connections.
        format: ``csv`` or ``jsonl``; None: by the file's name, CSV for standard input.
        app: for records that name none.
        rejects: where wrong records go; None: ``FILE.rejects.csv`` beside the file. It exists only if there are any.
        progress: called with the number of bytes read from the file so far (packed bytes, if it is packed).

    Raises:
        InvalidRequest: the file cannot be read, or its header is wrong. Nothing was stored.
        ServiceUnavailable: PostgreSQL went away. Whole windows were stored; import the file again.
    """
    standard_input = str(path) == "-"
    if rejects is None:
        rejects = Path("stdin.rejects.csv") if standard_input else path.with_name(f"{path.name}.rejects.csv")
    with ExitStack() as stack:
        if standard_input:
            raw: BinaryIO = sys.stdin.buffer
        else:
            try:
                raw = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise InvalidRequest("file", f"{str(path)!r}: {error.strerror}", "a readable file") from None
        stream: BinaryIO = raw
        if path.suffix == ".gz":
            stream = stack.enter_context(gzip.open(raw))  # type: ignore[assignment] # GzipFile reads like a BinaryIO
        counted = _Counted(stream, raw.tell if not standard_input else None, progress)
        return import_stream(
            database, counted, format=format or format_of(path), app=app, rejects=rejects, cache=cache
        )


def format_of(path: Path) -> str:
    """``csv`` or ``jsonl`` by the name; CSV for standard input.

    Raises:
        InvalidRequest: the name tells neither.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    if suffix in (".csv", ".txt") or str(path) == "-":
        return "csv"
    raise InvalidRequest(
        "file", f"the name {path.name!r}", "a name that ends in .csv or .jsonl (or .gz after it), or --format"
    )


class _Counted:
    """A stream that tells how far it was read."""

    def __init__(
        self, stream: BinaryIO, position: Callable[[], int] | None, progress: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._position = position
        self._progress = progress
        self._read = 0

    def read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except (OSError, EOFError, zlib.error) as error:  # no gzip, or a part of one; a disk that fails
            raise UnreadableFile(
                f"The file cannot be read to its end: {error}. Records before that may have been stored; importing them again is harmless."
            ) from error
        self._read += len(data)
        self._progress(self._position() if self._position else self._read)
        return data


def import_stream(
    database: Database,
    stream: Any,
    *,
    format: str,  # noqa: A002 - what the option is called
    rejects: Path | Rejects,
    app: str | None = None,
    apps: Collection[str] | None = None,
    cache: TokenCache | None = None,
    window: int = WINDOW,
) -> ImportReport:
    """Import from an object with ``read(size) -> bytes``. See :func:`import_file`.

    Args:
        rejects: a path, for a file; or what takes them.
        apps: records of any other app are rejected; None: of none.
    """
    if format not in FORMATS:
        raise InvalidRequest("format", repr(format), " or ".join(FORMATS))
    started = time.monotonic()
    with database.begin() as connection:
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    encode = RowEncoder(now).encode
    rows: dict[str, str] = {}
    accepted = 0

    def take(values: Sequence[Any]) -> None:
        nonlocal accepted
        identity, line = encode(values)
        rows[identity] = line
        accepted += 1

    def take_granted(values: Sequence[Any]) -> None:
        if apps is not None and values[_APP] not in apps:
            raise InvalidRequest("app", describe(values[_APP]), f"one of: {', '.join(sorted(apps))}")
        take(values)

    sink = take if apps is None else take_granted
    reader = CsvReader(sink, app=app) if format == "csv" else JsonLinesReader(sink, app=app)
    with ExitStack() as stack:
        rejected = stack.enter_context(RejectsFile(rejects)) if isinstance(rejects, Path) else rejects
        storage = stack.enter_context(Storage(database, cache))
        # Small ones first, so that PostgreSQL gets to work early.
        size = max(window // 4, 1)
        for block in read_blocks(stream):
            for reject in reader.feed(block):
                rejected.add(reject.line, reject.reason, reject.text)
            if len(rows) >= size:
                storage.submit(rows)
                rows = {}
                size = min(size * 2, window)
        for reject in reader.finish():
            rejected.add(reject.line, reject.reason, reject.text)
        if rows:
            storage.submit(rows)
        storage.finish()
        report = ImportReport(
            records=accepted + rejected.count,
            inserted=storage.inserted,
            updated=storage.updated,
            superseded=storage.superseded,
            repeated=accepted - storage.inserted - storage.updated - storage.superseded,
            rejected=rejected.count,
            moved=storage.moved,
            rejects_file=str(rejects) if rejected.count and isinstance(rejects, Path) else None,
            seconds=time.monotonic() - started,
        )
    logger.info("tokens_imported", extra=report.as_json())
    return report
