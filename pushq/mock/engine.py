"""What an HTTP/2 engine is to the connection that drives it: bytes in, bytes out, and answers that fall due."""

from __future__ import annotations

from typing import Literal, Protocol

from pushq.mock.exchange import Session

# Answers leave in lots of this period (seconds); a greenlet or a timer per request would cost more than the request.
TICK_S = 0.002

End = Literal["close", "cut"]


class Engine(Protocol):
    """Times: ``tick`` is monotonic seconds (when answers fall due), ``now`` UNIX seconds (what rules look at)."""

    @property
    def ended(self) -> End | None:
        """Set once the connection must be closed, after what was returned so far has been written."""

    @property
    def session(self) -> Session:
        """What the provider remembers about the connection."""

    @property
    def pending(self) -> bool:
        """Whether ``release`` may still have something to say."""

    def opening(self) -> bytes:
        """The first bytes of the server."""

    def receive(self, data: bytes, tick: float, now: float) -> bytes:
        """Takes what arrived; returns what must be written at once."""

    def release(self, tick: float) -> bytes:
        """The answers that are due."""

    def rest(self, tick: float) -> float:
        """Seconds in which nothing that is known now falls due; 0 where that is not known."""
