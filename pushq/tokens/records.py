"""The records of a token file: CSV with a header, or JSON lines. What is no record comes out as a reject with its line and reason.

A record of CSV may span lines inside quotes, but a quote that is never closed costs only its own line: the lines after it are
read as if it were not there.
"""

from __future__ import annotations

import csv
import difflib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeAlias

import orjson

from pushq.errors import InvalidRequest
from pushq.tokens.lines import Block
from pushq.tokens.rows import COLUMNS, REQUIRED

#: How many lines a quoted field may span; it bounds what a stray quote makes us read twice.
MAX_SPAN: Final = 50


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that does not go in.

    Attributes:
        line: number of the physical line where it begins.
        text: the line as it stands in the file.
    """

    line: int
    reason: str
    text: str


#: What takes the values of a record, in the order of COLUMNS; it raises InvalidRequest. Its result is of no concern here.
Sink: TypeAlias = Callable[[Sequence[Any]], Any]

_APP: Final = COLUMNS.index("app")


class CsvReader:
    """Reads blocks of CSV. Feed every block, then call :meth:`finish`.

    Args:
        sink: called with the values of each record.
        app: stands in where the file has no ``app`` column or an empty field in it.
    """

    def __init__(self, sink: Sink, *, app: str | None = None) -> None:
        self._sink = sink
        self._app = app
        self._pick: Callable[[Sequence[str]], tuple[str, ...]] | None = None
        self._width = 0
        self._app_at: int | None = None
        self._waiting: deque[tuple[int, str | None]] = deque()

    def feed(self, block: Block) -> Iterator[Reject]:
        lines: Iterable[tuple[int, str | None]] = enumerate(block.lines, block.first)
        if self._waiting:
            self._waiting.extend(lines)
            yield from self._drain(block, last=False)
            return
        pick, sink, width = self._pick, self._sink, self._width
        for number, line in lines:
            if line is None:
                yield Reject(number, *block.faults[number])
            elif not line:
                continue
            elif pick is None:
                self._read_header(line)
                pick, width = self._pick, self._width
            elif '"' in line:
                # The rest of the block is read with a look-ahead.
                self._waiting.append((number, line))
                self._waiting.extend(lines)
                yield from self._drain(block, last=False)
                return
            else:
                values = line.split(",")
                if len(values) != width:
                    yield Reject(number, self._wrong_width(len(values)), line)
                    continue
                try:
                    sink(pick(values))
                except InvalidRequest as error:
                    yield Reject(number, str(error), line)

    def finish(self) -> Iterator[Reject]:
        """Read what a quote at the end of the last block held back.

        Raises:
            InvalidRequest: the file has no header.
        """
        yield from self._drain(Block(0, [], {}), last=True)
        if self._pick is None:
            raise InvalidRequest("file", "no line", f"a header line with the columns {', '.join(REQUIRED)}")

    def _drain(self, block: Block, *, last: bool) -> Iterator[Reject]:
        waiting = self._waiting
        while waiting:
            number, line = waiting[0]
            if line is None:
                waiting.popleft()
                yield Reject(number, *block.faults[number])
                continue
            if not line:
                waiting.popleft()
                continue
            if self._pick is None:
                waiting.popleft()
                self._read_header(line)
                continue
            if '"' not in line:
                waiting.popleft()
                reason = self._offer(line.split(","))
                if reason:
                    yield Reject(number, reason, line)
                continue
            values = _split(line)
            span = 1
            if values is None:
                values, span = self._join(line)
                if values is None and not last and span == len(waiting) and span < MAX_SPAN:
                    return  # the quote may be closed in the next block
            reason = (
                self._offer(values)
                if values is not None
                else "a quote that is not closed, or text after a closing quote"
            )
            if reason and span > 1:
                # Lines that were swallowed by a stray quote stand for themselves.
                span, reason = 1, "a quote that is not closed on its line"
            for _ in range(span if not reason else 1):
                waiting.popleft()
            if reason:
                yield Reject(number, reason, line)

    def _join(self, line: str) -> tuple[list[str] | None, int]:
        """The values of a record that spans lines and how many it spans; or None and how many lines were looked at."""
        joined = line
        span = 1
        for _, following in islice(self._waiting, 1, MAX_SPAN):
            if following is None:
                return None, MAX_SPAN
            span += 1
            joined = f"{joined}\n{following}"
            if '"' in following:
                values = _split(joined)
                if values is not None:
                    return values, span
        return None, span

    def _offer(self, values: Sequence[str]) -> str | None:
        """Hand a record on; the reason if it is refused."""
        assert self._pick is not None
        if len(values) != self._width:
            return self._wrong_width(len(values))
        try:
            self._sink(self._pick(values))
        except InvalidRequest as error:
            return str(error)
        return None

    def _wrong_width(self, found: int) -> str:
        return f"record: found {found} columns; expected {self._width} as in the header"

    def _read_header(self, line: str) -> None:
        names = [name.strip().lower() for name in _split(line) or []]
        for name in names:
            if name not in COLUMNS:
                near = difflib.get_close_matches(name, COLUMNS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"columns of {', '.join(COLUMNS)}"
                raise InvalidRequest("header", f"the column {name[:60]!r}", hint)
            if names.count(name) > 1:
                raise InvalidRequest("header", f"the column {name} twice", "each column once")
        for name in REQUIRED:
            if name not in names and (name != "app" or self._app is None):
                expected = (
                    "a column app, or the option --app"
                    if name == "app"
                    else f"the columns {', '.join(REQUIRED)}"
                )
                raise InvalidRequest("header", f"no column {name}", expected)
        self._width = len(names)
        positions = {name: position for position, name in enumerate(names)}
        # Columns that the file does not have are picked from behind the record's last value.
        absent = len(names)
        default_app = absent + 1
        picked = [positions.get(name, default_app if name == "app" else absent) for name in COLUMNS]
        take = itemgetter(*picked)
        spare = ["", self._app or ""]
        app_at = positions.get("app")
        if app_at is None or self._app is None:
            self._pick = lambda values: take([*values, *spare])
        else:
            app = self._app

            def pick(values: Sequence[str]) -> tuple[str, ...]:
                taken = take([*values, *spare])
                return taken if taken[_APP] else (*taken[:_APP], app, *taken[_APP + 1 :])

            self._pick = pick


def _split(text: str) -> list[str] | None:
    """The values of one CSV record, or None if its quotes do not add up."""
    try:
        records = list(csv.reader(text.splitlines(keepends=True) if "\n" in text else (text,), strict=True))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else None


class JsonLinesReader:
    """Reads blocks of JSON lines: one object per line, with the fields of COLUMNS."""

    def __init__(self, sink: Sink, *, app: str | None = None) -> None:
        self._sink = sink
        self._app = app

    def feed(self, block: Block) -> Iterator[Reject]:
        sink, loads, app, known = self._sink, orjson.loads, self._app, frozenset(COLUMNS)
        for number, line in enumerate(block.lines, block.first):
            if line is None:
                yield Reject(number, *block.faults[number])
                continue
            if not line or line.isspace():
                continue
            try:
                record = loads(line)
                if type(record) is not dict:
                    raise InvalidRequest("record", "JSON that is no object", "one object per line")
                if not known.issuperset(record):
                    raise self._unknown(record)
                get = record.get
                values = [get(name) for name in COLUMNS]
                if app is not None and not values[_APP]:
                    values[_APP] = app
                sink(values)
            except orjson.JSONDecodeError as error:
                yield Reject(
                    number,
                    f"record: found text that is no JSON ({error.msg}, column {error.colno}); expected an object",
                    line,
                )
            except InvalidRequest as error:
                yield Reject(number, str(error), line)

    def finish(self) -> Iterator[Reject]:
        return iter(())

    @staticmethod
    def _unknown(record: dict[str, Any]) -> InvalidRequest:
        name = next(name for name in record if name not in COLUMNS)
        near = difflib.get_close_matches(name, COLUMNS, n=1)
        return InvalidRequest(
            "record",
            f"the field {name[:60]!r}",
            f"did you mean {near[0]}?" if near else f"fields of {', '.join(COLUMNS)}",
        )
