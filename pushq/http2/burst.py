"""A run of requests that share one template, and what became of each: one byte per request, no object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Protocol

from pushq.errors import InvalidRequest
from pushq.http2.errors import BurstMisused
from pushq.http2.reasons import Reason
from pushq.http2.templates import PATH_BYTES, VALUE_BYTES, HeaderTemplate


class Code(IntEnum):
    """What is known about a request. The last five are final.

    OK: status 200, complete. ANSWERED: any other final status, see ``Burst.answers``.
    NOT_SENT, REFUSED: surely not processed. UNKNOWN: written, and may have been processed.
    """

    QUEUED = 0
    IN_FLIGHT = 1
    OK = 2
    ANSWERED = 3
    NOT_SENT = 4
    REFUSED = 5
    UNKNOWN = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a status other than 200.

    Attributes:
        headers: lower-case names; repeated fields joined by ``", "``.
        body: at most 16 KiB of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Signal(Protocol):
    """An event that greenlets can wait for. The pool brings one, so that this module needs no scheduler."""

    def set(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class Burst:
    """Requests that share a template. The caller keeps it and reads ``codes`` at any time.

    Attributes:
        codes: a :class:`Code` per request.
        columns: ``values`` by header.
        answers: by index, where the code is ANSWERED.
        reasons: by index, where it is NOT_SENT, REFUSED or UNKNOWN; a :class:`Reason` or what ``cancel`` was given.
        first_written_at: the pool's clock when the first request was handed to a connection; None before.
    """

    __slots__ = (
        "_cancelled",
        "_remaining",
        "_signal",
        "answers",
        "bodies",
        "codes",
        "columns",
        "count",
        "cursor",
        "first_written_at",
        "queued_at",
        "reasons",
        "targets",
        "template",
        "values",
    )

    def __init__(
        self,
        template: HeaderTemplate,
        count: int,
        *,
        targets: Sequence[bytes] | None = None,
        bodies: bytes | Sequence[bytes],
        values: Sequence[tuple[bytes, ...]] | None = None,
    ) -> None:
        """``targets`` are appended to the template's path, ``values`` go to its varying headers in their order.

        The sequences are read while the burst runs and must not change. One ``bytes`` object as ``bodies`` is everybody's body.

        Raises:
            InvalidRequest: lengths that do not agree, or a target or value that HTTP/2 cannot carry. One such request
                would make the peer close the connection under all others.
        """
        _check_lengths(template, count, targets, bodies, values)
        if targets is not None:
            _check_octets("targets", targets, PATH_BYTES, "visible ASCII")
        columns = _columns(values)
        for name, column in zip(template.varying, columns, strict=False):
            _check_octets(f"values[{name.decode()}]", column, VALUE_BYTES, "no control characters")
        self.template = template
        self.count = count
        self.targets = targets
        self.bodies = bodies
        self.values = values
        self.columns = columns
        self.codes = bytearray(count)
        self.answers: dict[int, Answer] = {}
        self.reasons: dict[int, str] = {}
        self.first_written_at: float | None = None
        #: Index of the first request that no connection has taken. Moved by the core only.
        self.cursor = 0
        self.queued_at = 0.0
        self._remaining = count
        self._signal: Signal | None = None
        self._cancelled: Callable[[int], None] | None = None

    def __repr__(self) -> str:
        states = ", ".join(f"{self.codes.count(code)} {code.name}" for code in Code if self.codes.count(code))
        return f"<Burst {self.template.path_prefix.decode()} {self.count}: {states}>"

    @property
    def exchanges(self) -> int:
        """How many HTTP requests it makes: one each, unless a provider takes many recipients in one."""
        return self.count

    @property
    def done(self) -> bool:
        return self._remaining == 0

    def wait(self, timeout: float) -> bool:
        """Block until every request has a final code, at most ``timeout`` seconds. True when they have.

        Raises:
            BurstMisused: the burst was never submitted, so that waiting would be in vain.
        """
        if self._remaining == 0:
            return True
        if self._signal is None:
            raise BurstMisused("wait() before the burst was submitted to a pool")
        return self._signal.wait(timeout)

    def cancel(self, reason: str = Reason.CANCELLED) -> None:
        """Make everything that no connection has taken NOT_SENT at once. What is in flight goes on."""
        start = self.cursor
        if start == self.count:
            return
        self.cursor = self.count
        withdrawn = self.count - start
        self.codes[start:] = bytes((Code.NOT_SENT,)) * withdrawn
        self.reasons.update(dict.fromkeys(range(start, self.count), reason))
        if self._cancelled is not None:
            self._cancelled(withdrawn)
        self.settle(withdrawn)

    def forget(self) -> None:
        """Let go of what was sent, once all of it has ended; what became of it stays."""
        self.targets, self.bodies, self.values, self.columns = None, b"", None, ()

    def attach(self, signal: Signal, cancelled: Callable[[int], None]) -> None:
        """For the pool: take the burst. ``cancelled`` hears how many requests leave the queue without being written.

        Raises:
            BurstMisused: it was submitted before.
        """
        if self._signal is not None:
            raise BurstMisused("a burst can be submitted once")
        self._signal = signal
        self._cancelled = cancelled
        if self._remaining == 0:
            signal.set()

    def settle(self, finished: int) -> None:
        """For the core: that many requests more have a final code."""
        self._remaining -= finished
        if self._remaining == 0 and self._signal is not None:
            self._signal.set()


def _check_lengths(
    template: HeaderTemplate,
    count: int,
    targets: Sequence[bytes] | None,
    bodies: bytes | Sequence[bytes],
    values: Sequence[tuple[bytes, ...]] | None,
) -> None:
    if count < 0:
        raise InvalidRequest("count", str(count), "0 or more")
    if targets is not None and len(targets) != count:
        raise InvalidRequest("targets", f"{len(targets)} targets", f"{count}, one per request")
    if not isinstance(bodies, bytes) and len(bodies) != count:
        raise InvalidRequest("bodies", f"{len(bodies)} bodies", f"one for all, or {count}")
    wanted = len(template.varying)
    if values is None:
        if wanted:
            raise InvalidRequest("values", "none", f"{wanted} per request, as the template's varying headers")
    elif len(values) != count or set(map(len, values)) - {wanted}:
        raise InvalidRequest("values", f"{len(values)} rows", f"{count} rows of {wanted}")


def _columns(values: Sequence[tuple[bytes, ...]] | None) -> Sequence[Sequence[bytes]]:
    """The values of each varying header; rows of the same length."""
    if not values:
        return ()
    return (list(chain.from_iterable(values)),) if len(values[0]) == 1 else tuple(zip(*values, strict=True))


def _check_octets(field: str, items: Sequence[bytes], allowed: bytes, expected: str) -> None:
    if not b"".join(items).translate(None, allowed):
        return
    for index in _offenders(items, allowed):
        # A target is a push token: its place is named, not its text.
        raise InvalidRequest(f"{field}[{index}]", "an octet that a header cannot carry", expected)


def _offenders(items: Sequence[bytes], allowed: bytes) -> Iterator[int]:
    return (index for index, item in enumerate(items) if item.translate(None, allowed))
