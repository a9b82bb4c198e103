"""How fast a send goes, and how long it will take. Pure: clocks are passed in."""

from __future__ import annotations

from collections import deque
from typing import Final

POLL_S: Final = 0.25
#: What the present rate is taken from: seconds, and changes of the number.
RATE_OVER_S: Final = 5.0
RATE_AT_MOST_S: Final = 60.0
RATE_STEPS: Final = 4


class Speed:
    """Recipients settled a second, lately. The clock is passed in.

    Batches settle as a whole, so a slow send moves in steps: the rate is that of the last five seconds and of at least the last few
    steps, but never of more than a minute.
    """

    def __init__(self) -> None:
        #: When the number changed, and to what; the first look as well.
        self._steps: deque[tuple[float, int]] = deque()

    def rate(self, now: float, settled: int) -> float | None:
        """The rate as of now; None while there is too little to tell."""
        steps = self._steps
        if not steps or steps[-1][1] != settled:
            steps.append((now, settled))
        while len(steps) > 1 and steps[1][0] <= now - (
            RATE_OVER_S if len(steps) > RATE_STEPS + 1 else RATE_AT_MOST_S
        ):
            steps.popleft()
        since, before = steps[0]
        if now - since < (RATE_OVER_S if len(steps) == 1 else POLL_S):
            return None
        return (settled - before) / (now - since)


def duration(seconds: float) -> str:
    """Such as ``42 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
