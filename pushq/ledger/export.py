"""Export: the recipients of a send as a file, one row each, as CSV, JSON lines or Parquet.

Rows are written as they are read; a file appears under its name only when it is complete.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import orjson

from pushq.database import Database
from pushq.errors import InvalidRequest, PushqError
from pushq.ledger.recipients import Block, check_outcomes, recipients

FIELDS: Final = (
    "send_id",
    "batch_no",
    "position",
    "user_id",
    "device_id",
    "platform",
    "outcome",
    "reason",
    "status",
    "attempt",
    "time",
)
#: Rows in one row group of a Parquet file.
GROUP: Final = 100_000


class MissingLibrary(PushqError):
    """A format needs a library that is not installed."""


class ExportFailed(PushqError):
    """The file cannot be written."""


def rows(block: Block) -> Iterator[tuple[Any, ...]]:
    """The recipients of a block, in the order of :data:`FIELDS`."""
    return zip(
        repeat(str(block.send_id)),
        repeat(block.batch_no),
        block.positions,
        block.user_ids,
        block.device_ids,
        repeat(block.platform),
        block.outcomes,
        block.reasons,
        block.statuses,
        block.attempts,
        block.times,
        strict=False,  # some go on for ever
    )


class Format(ABC):
    """Writes blocks to a stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    @abstractmethod
    def write(self, block: Block) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Write what is still to be written; the stream stays open."""


class Csv(Format):
    """RFC 4180 with a header; an empty field is a value that is not there, times are ISO 8601."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)
        self._writer.writerow(FIELDS)
        self._flush()

    def write(self, block: Block) -> None:
        shown: dict[datetime | None, str | None] = {
            time: time.isoformat() if time else None for time in set(block.times)
        }
        self._writer.writerows((*row[:-1], shown[row[-1]]) for row in rows(block))
        self._flush()

    def finish(self) -> None:
        self._flush()

    def _flush(self) -> None:
        self._stream.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()


class JsonLines(Format):
    """One JSON object a line, always with all fields."""

    def write(self, block: Block) -> None:
        option = orjson.OPT_APPEND_NEWLINE
        self._stream.write(
            b"".join(orjson.dumps(dict(zip(FIELDS, row, strict=True)), option=option) for row in rows(block))
        )

    def finish(self) -> None:
        """Nothing is held back."""


class Parquet(Format):
    """Apache Parquet, zstd; texts that repeat are dictionaries, times are UTC microseconds.

    Raises:
        MissingLibrary: pyarrow is not installed.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra
            from pyarrow.parquet import ParquetWriter  # noqa: PLC0415
        except ImportError as exc:
            raise MissingLibrary(
                "Parquet needs pyarrow, which is not installed. Run: pip install 'pushq[parquet]', or choose csv or jsonl"
            ) from exc
        self._arrow = pa
        whole, small, word = (
            pa.int64(),
            pa.int32(),
            pa.dictionary(pa.int32(), pa.string()),
        )
        types = (
            word,
            small,
            small,
            whole,
            whole,
            word,
            word,
            word,
            small,
            small,
            pa.timestamp("us", tz="UTC"),
        )
        self._schema = pa.schema(list(zip(FIELDS, types, strict=True)))
        self._writer = ParquetWriter(stream, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, block: Block) -> None:
        columns = [list(column) for column in zip(*rows(block), strict=True)]
        self._waiting.append(
            self._arrow.table(
                [
                    self._arrow.array(column, kind)
                    for column, kind in zip(columns, self._schema.types, strict=True)
                ],
                schema=self._schema,
            )
        )
        self._rows += len(block)
        if self._rows >= GROUP:
            self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(
            self._arrow.concat_tables(self._waiting).unify_dictionaries(), row_group_size=2 * GROUP
        )
        self._waiting, self._rows = [], 0

    def finish(self) -> None:
        if self._rows:
            self._write_group()
        self._writer.close()


FORMATS: Final[dict[str, type[Format]]] = {"csv": Csv, "jsonl": JsonLines, "parquet": Parquet}


def choose_format(name: str | None, output: Path | None, *, stream: bool = False) -> str:
    """The format that is named, or the one that the file's name ends with, or CSV.

    Args:
        stream: where there is no file, whether rows go to a stream of the caller's own; else they go to standard output.

    Raises:
        InvalidRequest: there is no such format, or none can be told; Parquet to standard output.
    """
    chosen = name
    if chosen is None:
        chosen = "csv" if output is None else output.suffix.lower().removeprefix(".")
        if chosen not in FORMATS:
            raise InvalidRequest(
                "format", f"nothing, and the file name {str(output)!r}", f"one of: {', '.join(FORMATS)}"
            )
    if chosen not in FORMATS:
        raise InvalidRequest("format", repr(chosen), f"one of: {', '.join(FORMATS)}")
    if chosen == "parquet" and output is None and not stream:
        raise InvalidRequest("output", "nothing", "a file, for a Parquet file is not read as a stream")
    return chosen


def export(
    database: Database,
    send_id: uuid.UUID,
    stream: BinaryIO,
    format_: str,
    *,
    outcomes: Collection[str] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Write a send's recipients, or those with one of these outcomes, to a stream.

    Args:
        progress: called with the number of rows written so far.

    Returns:
        the number of rows.
    """
    writer = FORMATS[format_](stream)
    written = 0
    for block in recipients(database, send_id, outcomes):
        writer.write(block)
        written += len(block)
        progress(written)
    writer.finish()
    return written


class _Sink(io.RawIOBase):
    """What was written since it was last taken. It knows how much that was in all: Parquet asks."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def export_parts(
    database: Database, send_id: uuid.UUID, format_: str, *, outcomes: Collection[str] = ()
) -> Iterator[bytes]:
    """The bytes that :func:`export` writes, part by part, for who hands them on. Bounded memory: a part is a few batches.

    The first part comes before anything is read, so that errors of the choice are raised with it: MissingLibrary, InvalidRequest.
    """
    wanted = check_outcomes(outcomes)
    with _Sink() as sink:
        writer = FORMATS[format_](cast("BinaryIO", sink))
        yield sink.take()
        for block in recipients(database, send_id, wanted):
            writer.write(block)
            if part := sink.take():
                yield part
        writer.finish()
        yield sink.take()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces ``path`` when the block has ended well, and leaves nothing behind when it has not.

    Of a symbolic link it is the target that is replaced. What is no regular file (a device, a pipe) is written as it comes.

    Raises:
        ExportFailed: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as stream:
                yield stream
            return
        whole = path.resolve()
        unfinished = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}.part")
        try:
            with unfinished.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(whole)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as exc:
        raise ExportFailed(f"{str(path)!r} cannot be written: {exc.strerror or exc}") from exc
