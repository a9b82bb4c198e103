"""Counts of what a provider was asked and what it accepted, per token and in total."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Final

#: Tokens that wait in memory to be written down.
SPILL: Final = 10_000
_READ_BYTES: Final = 1 << 20


class Tally:
    """The counts of one platform.

    An acceptance is counted when the answer 200 is decided, before it is written: from then on a phone rings, whether or not
    the answer arrives.

    Ten million tokens would be gigabytes. So ``times`` has the count by the token's hash (of 64 bits: that two of a million share one
    happens once in 40 million runs, and would be told as a duplicate), and the tokens themselves, each at its first acceptance, go to
    ``fresh`` and from there to a file without a name. The fast engine writes to both directly; about 90 bytes a token.

    ``early`` counts requests for a token before the end of the wait that a fault's Retry-After had asked for.
    """

    def __init__(self) -> None:
        self.times: dict[int, int] = {}
        self.fresh: list[bytes] = []
        self._file: IO[bytes] | None = None
        #: Hashes whose count came back to nothing; they stay in ``times``, for their tokens are written down.
        self._undone: set[int] = set()
        self.requests = 0
        self.rung = 0
        self.early = 0
        self._not_before: dict[bytes, float] = {}
        self.answers: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.connections_opened = 0
        self.connections_open = 0
        self.violations: Counter[str] = Counter()

    def ring(self, token: bytes) -> None:
        mark = hash(token)
        before = self.times.get(mark)
        if before is None:
            self.fresh.append(token)
            self.times[mark] = 1
        else:
            self.times[mark] = before + 1
        self.rung += 1
        self.spill()

    def accept(self, tokens: Sequence[bytes]) -> None:
        """Count tokens as accepted; the caller counts the requests, and spills."""
        times, marks = self.times, dict(zip(map(hash, tokens), tokens, strict=True))
        if len(marks) == len(tokens) and times.keys().isdisjoint(marks):
            times.update(dict.fromkeys(marks, 1))
            self.fresh.extend(tokens)
            return
        for token in tokens:
            mark = hash(token)
            if mark not in times:
                self.fresh.append(token)
            times[mark] = times.get(mark, 0) + 1

    def spill(self) -> None:
        """Write the tokens down that were accepted for the first time, if they are many."""
        if len(self.fresh) >= SPILL:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="pushq-mock-")  # noqa: SIM115 - closed by reset and close
            self._file.write(b"".join(token + b"\n" for token in self.fresh))
            self.fresh.clear()

    @property
    def accepted(self) -> dict[bytes, int]:
        """How often each token was accepted."""
        return {token: times for token in self._tokens() if (times := self.times[hash(token)])}

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def retract(self, token: bytes, *, answered: bool = True) -> None:
        """A request that was counted is declared unprocessed by a GOAWAY. ``answered``: its answer 200 was counted as well."""
        self.rung -= 1
        if answered:
            self.answers["200"] -= 1
        mark = hash(token)
        self.times[mark] -= 1
        if not self.times[mark]:
            self._undone.add(mark)

    def told_to_wait(self, token: bytes, until: float) -> None:
        """The client was asked to leave this token alone. ``until``: UNIX seconds, counted from when it got the answer."""
        self._not_before[token] = max(until, self._not_before.get(token, until))

    def check_wait(self, token: bytes, now: float) -> None:
        """A request for this token is there: count it if it comes too soon."""
        until = self._not_before.get(token)
        if until is None:
            return
        if now < until:
            self.early += 1
        else:
            del self._not_before[token]

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Counts a connection as open while it is."""
        self.connections_opened += 1
        self.connections_open += 1
        try:
            yield
        finally:
            self.connections_open -= 1

    def reset(self) -> None:
        """Forget what was counted; open connections stay open."""
        self.times.clear()
        self.fresh.clear()
        self._undone.clear()
        self.close()
        self.requests = self.rung = self.early = 0
        self._not_before.clear()
        self.connections_opened = self.connections_open
        self.answers.clear()
        self.unanswered.clear()
        self.violations.clear()

    def as_dict(self) -> dict[str, Any]:
        distinct = len(self.times) - sum(not self.times[mark] for mark in self._undone)
        return {
            "requests": self.requests,
            "accepted": self.rung,
            "distinct": distinct,
            "duplicates": self.rung - distinct,
            "early": self.early,
            "answers": dict(sorted(self.answers.items())),
            "unanswered": dict(sorted(self.unanswered.items())),
            "violations": dict(sorted(self.violations.items())),
            "connections": {"opened": self.connections_opened, "open": self.connections_open},
        }

    def lines(self, chunk: int = 5_000) -> Iterator[bytes]:
        """``token count`` lines, joined by the thousand; the counts may move while they are read."""
        part: list[bytes] = []
        for token in self._tokens():
            if times := self.times.get(hash(token), 0):
                part.append(b"%b %d\n" % (token, times))
            if len(part) >= chunk:
                yield b"".join(part)
                part.clear()
        yield b"".join(part)

    def _tokens(self) -> Iterator[bytes]:
        """Those that were ever accepted, in the order of their first time; more may come while they are read."""
        fresh = list(self.fresh)
        if self._file is not None:
            file, at, end = self._file, 0, self._file.tell()
            while at < end and file is self._file:  # else all was forgotten meanwhile
                file.seek(at)
                block = file.read(min(_READ_BYTES, end - at))
                block = block[: block.rindex(b"\n") + 1]
                at += len(block)
                # Others write at the end meanwhile.
                file.seek(0, os.SEEK_END)
                yield from block[:-1].split(b"\n")
        yield from fresh
