"""Who may try to connect, and when: one attempt at a time per host, spaced, and fewer and fewer while they fail.

Providers take many attempts in a row for an attack (Apple, "Sending notification requests to APNs"), and a host that has just
failed does not get well by being asked by each pool of the process in turn. So all pools of a process that connect to the same
host and port stand in one line, however many greenlets ask each of them.

What failed decides whom it slows down: a host that cannot be reached keeps everybody waiting; a handshake that fails, or a
connection that is thrown out at once, only those who connect in the same way (same certificates, same proxy).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from pushq.http2.greenlets import Turn, scheduler
from pushq.http2.reasons import Reason

#: Failures that say something about the host, whoever asks.
_OF_THE_HOST: Final = frozenset(
    {Reason.DNS, Reason.CONNECT_REFUSED, Reason.CONNECT_TIMEOUT, Reason.CONNECT_FAILED}
)


class BackOff:
    """Failed attempts in a row.

    Attributes:
        failures: how many.
        open_after: no attempt before this time.
        reason: why the latest attempt failed; None after a good one.
    """

    __slots__ = ("_failed_at", "failures", "open_after", "reason")

    def __init__(self) -> None:
        self._failed_at = float("-inf")
        self.failures = 0
        self.open_after = float("-inf")
        self.reason: Reason | None = None

    def failed(
        self, reason: Reason, began: float, now: float, low: float, high: float, random: Callable[[], float]
    ) -> None:
        """Wait for ``low`` seconds, doubled by each failure before this one, at most ``high``; of that a random part from half to all.

        The jitter keeps a fleet that lost its peer from coming back as one, and the half keeps luck from making a storm. What
        ``began`` before the latest failure is not one more in a row: eight connections that end together are one bad sign, not eight.
        """
        self.reason = reason
        if began < self._failed_at:
            return
        self._failed_at = now
        ceiling = min(high, low * 2 ** min(self.failures, 30))
        self.failures += 1
        self.open_after = now + ceiling * (0.5 + 0.5 * random())


class HostGate:
    """What the pools of one host share.

    Attributes:
        turn: held during an attempt.
        spaced_until: a connection was opened; the next attempt is not before this time.
        host: failures to reach it at all.
        routes: failures after that, by the way of connecting.
    """

    def __init__(self) -> None:
        self.turn = Turn()
        self.spaced_until = float("-inf")
        self.host = BackOff()
        self.routes: dict[Hashable, BackOff] = {}


class Admission:
    """One pool's place at the gate of its host. The times are those of one monotonic clock."""

    def __init__(self, gate: HostGate, route: Hashable) -> None:
        self._gate = gate
        self._route = gate.routes.setdefault(route, BackOff())

    @property
    def turn(self) -> Turn:
        """One attempt at a time: a context manager that waits in line."""
        return self._gate.turn

    @property
    def reason(self) -> Reason | None:
        """Why there is no connection, if the latest attempt failed."""
        return self._gate.host.reason or self._route.reason

    @property
    def failures(self) -> int:
        """Failed attempts in a row."""
        return max(self._gate.host.failures, self._route.failures)

    def wait_s(self, now: float) -> float:
        """Seconds until the next attempt is allowed; 0 or less if it is."""
        gate = self._gate
        return max(gate.spaced_until, gate.host.open_after, self._route.open_after) - now

    def failed(
        self, reason: Reason, began: float, now: float, low: float, high: float, random: Callable[[], float]
    ) -> None:
        """An attempt that ``began`` then failed, or what it had opened ended too soon."""
        if reason in _OF_THE_HOST:
            self._gate.host.failed(reason, began, now, low, high, random)
        else:
            self.reached()
            self._route.failed(reason, began, now, low, high, random)

    def reached(self) -> None:
        """The host could be connected to."""
        self._gate.host.failures = 0
        self._gate.host.reason = None

    def opened(self, now: float, spacing_s: float) -> None:
        """An attempt succeeded. Whether the connection is worth anything shows later, see :meth:`proven`."""
        self.reached()
        self._route.reason = None
        self._gate.spaced_until = now + spacing_s

    def proven(self) -> None:
        """A connection of this route works: the next failure is the first again."""
        self._route.failures = 0


# Greenlets of different threads cannot stand in one line, so each thread's scheduler has its own gates.
_gates: WeakKeyDictionary[object, WeakValueDictionary[tuple[str, int], HostGate]] = WeakKeyDictionary()


def admission(host: str, port: int, route: Hashable) -> Admission:
    """The place of a pool at the gate that all pools of this thread share for ``host`` and ``port``."""
    gates = _gates.setdefault(scheduler(), WeakValueDictionary())
    gate = gates.get((host.lower(), port))
    if gate is None:
        gate = gates[host.lower(), port] = HostGate()
    return Admission(gate, route)
