"""Counts of what a provider was asked and what it accepted, per token and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Tally:
    """The counts of one platform.

    An acceptance is counted when the answer 200 is decided, before it is written: from then on a phone rings, whether or not
    the answer arrives.

    ``accepted`` (token -> times) is a plain dictionary, written to directly by the fast engine; about 200 bytes a token.
    ``early`` counts requests for a token before the end of the wait that a fault's Retry-After had asked for.
    """

    def __init__(self) -> None:
        self.accepted: dict[bytes, int] = {}
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
        self.accepted[token] = self.accepted.get(token, 0) + 1
        self.rung += 1

    def retract(self, token: bytes, *, answered: bool = True) -> None:
        """A request that was counted is declared unprocessed by a GOAWAY. ``answered``: its answer 200 was counted as well."""
        self.rung -= 1
        if answered:
            self.answers["200"] -= 1
        left = self.accepted[token] - 1
        if left:
            self.accepted[token] = left
        else:
            del self.accepted[token]

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
        self.accepted.clear()
        self.requests = self.rung = self.early = 0
        self._not_before.clear()
        self.connections_opened = self.connections_open
        self.answers.clear()
        self.unanswered.clear()
        self.violations.clear()

    def as_dict(self) -> dict[str, Any]:
        distinct = len(self.accepted)
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
        tokens = list(self.accepted)
        for start in range(0, len(tokens), chunk):
            part = tokens[start : start + chunk]
            yield b"".join(b"%b %d\n" % (token, self.accepted.get(token, 0)) for token in part)
