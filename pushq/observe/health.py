"""Whether a process works (live) and whether it could be useful now (ready).

Live is the process itself: whoever kills it for being not live must gain something by it. A worker without PostgreSQL waits, and a
new one would wait as well, but without the batches that the old one has in flight: so no other program's absence makes anybody dead.
Ready is the process and what it needs: a rollout stops at the first worker whose database is not to be had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pushq.observe.errand import Errand, Unanswered

#: A probe's own patience is rarely more than a few seconds.
DEADLINE_S: Final = 2.0
#: Probes of several askers share an answer for so long.
FRESH_S: Final = 1.0

#: Says why something is not well; None when it is. May raise instead.
Check = Callable[[], "str | None"]


@dataclass(frozen=True)
class Report:
    """What a process says of itself.

    Attributes:
        checks: by name, why it is not well; None where it is.
    """

    role: str
    probe: str
    ok: bool
    checks: Mapping[str, str | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return {
            "role": self.role,
            "probe": self.probe,
            "ok": self.ok,
            "checks": {
                name: {"ok": why is None} | ({} if why is None else {"why": why})
                for name, why in self.checks.items()
            },
        }


class Health:
    """The checks of a process.

    Args:
        live: must not depend on other programs; that somebody answers at all is a check by itself.
        ready: what the process needs from others; all of ``live`` counts as well.
    """

    def __init__(
        self, role: str, live: Mapping[str, Check] | None = None, ready: Mapping[str, Check] | None = None
    ) -> None:
        self.role = role
        self._live = _errands(live or {})
        self._ready = _errands(ready or {})

    def live(self) -> Report:
        return self._report("live", self._live)

    def ready(self) -> Report:
        return self._report("ready", self._live | self._ready)

    def _report(self, probe: str, errands: Mapping[str, Errand[str | None]]) -> Report:
        deadline = time.monotonic() + DEADLINE_S
        rounds = {name: errand.start() for name, errand in errands.items()}
        checks: dict[str, str | None] = {}
        for name, asked in rounds.items():
            try:
                checks[name] = asked.result(deadline - time.monotonic())
            except Unanswered as exc:
                checks[name] = str(exc)
        return Report(self.role, probe, all(why is None for why in checks.values()), checks)


def _errands(checks: Mapping[str, Check]) -> dict[str, Errand[str | None]]:
    return {name: Errand(f"check-{name}", check, fresh_s=FRESH_S) for name, check in checks.items()}
