"""Faults of a whole connection: one that closes when idle, one that gives its window back late. Pure: ticks come in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IdleClose:
    """End a connection that had no open stream for ``after_s``: with a GOAWAY of this code and text, or ``silent``."""

    after_s: float
    code: int = 0
    debug: bytes = b""
    silent: bool = False


@dataclass(frozen=True, slots=True)
class LateWindow:
    """The connection's window is HTTP/2's default, and what was used of it comes back after ``delay_s``, at most ``piece`` octets
    in one WINDOW_UPDATE."""

    delay_s: float
    piece: int


@dataclass(frozen=True, slots=True)
class ConnectionFaults:
    """What is wrong with the connections that are opened from now on."""

    idle_close: IdleClose | None = None
    late_window: LateWindow | None = None


class WindowDebt:
    """Octets of DATA that came and were not given back yet."""

    def __init__(self, late: LateWindow) -> None:
        self._late = late
        self._owed: deque[tuple[float, int]] = deque()

    def __bool__(self) -> bool:
        return bool(self._owed)

    def used(self, octets: int, tick: float) -> None:
        if octets:
            self._owed.append((tick + self._late.delay_s, octets))

    def due(self, tick: float) -> list[int]:
        """The WINDOW_UPDATEs to send now."""
        increments: list[int] = []
        while self._owed and self._owed[0][0] <= tick:
            _, octets = self._owed.popleft()
            while octets > 0:
                increments.append(min(octets, self._late.piece))
                octets -= increments[-1]
        return increments


class IdleClock:
    """How long a connection has had no open stream."""

    def __init__(self, close: IdleClose) -> None:
        self.close = close
        self._busy_at: float | None = None

    def busy(self, tick: float) -> None:
        self._busy_at = tick

    def expired(self, tick: float) -> bool:
        """Whether it is time; the clock starts when it is first asked."""
        if self._busy_at is None:
            self._busy_at = tick
        return tick - self._busy_at >= self.close.after_s
