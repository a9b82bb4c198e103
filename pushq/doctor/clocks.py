"""Whether this machine's clock agrees with the others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from pushq.doctor.findings import Finding, Status

#: A registration this close to Apple's timestamp counts as the later one (pushq.providers.apns.responses): a clock that is
#: further off makes dead tokens live and living ones dead.
FAILED_S: Final = 5.0
WARNING_S: Final = 2.0
_ADVICE: Final = "Let NTP set the clock of this machine (chronyc tracking, timedatectl), or of the other if that one is wrong."


@dataclass(frozen=True)
class Reading:
    """Another clock, read once.

    Attributes:
        theirs: UNIX seconds.
        asked, answered: by our clock, around the reading.
        precision_s: how finely the other clock tells the time.
    """

    theirs: float
    asked: float
    answered: float
    precision_s: float = 0.0

    @property
    def ahead_s(self) -> float:
        """How far our clock is ahead at least, by what the reading can tell; negative if it is behind."""
        low = self.asked - (self.theirs + self.precision_s)
        high = self.answered - self.theirs
        return low if low > 0 else high if high < 0 else 0.0


def date_header(headers: Mapping[str, str], asked: float, answered: float) -> Reading | None:
    """From an answer's ``Date`` (RFC 9110: whole seconds); None when there is none to trust."""
    try:
        at = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return None
    return Reading(at.timestamp(), asked, answered, 1.0)


def judge_clock(subject: str, whose: str, reading: Reading) -> Finding:
    """What the difference means."""
    ahead = reading.ahead_s
    way = "ahead of" if ahead > 0 else "behind"
    if abs(ahead) < WARNING_S:
        return Finding(subject, Status.OK, f"agrees with {whose}")
    status = Status.WARNING if abs(ahead) < FAILED_S else Status.FAILED
    return Finding(subject, status, f"this machine is {abs(ahead):.1f} s {way} {whose}", _ADVICE)


def now() -> float:
    return time.time()
