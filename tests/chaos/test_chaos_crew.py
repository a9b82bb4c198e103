"""The crew knows who ended by itself: a worker that the suite starts again has not recovered unaided."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.chaos.crew import Crew


def test_who_ended_by_itself_is_told_from_who_was_killed(tmp_path: Path) -> None:
    with Crew({}, tmp_path) as crew:
        for name in ("beat", "beat-2", "beat-3"):
            crew.start(name)
        crew.kill("beat-2")
        crew.signal("beat-3", signal.SIGKILL)
        deadline = time.monotonic() + 10
        while crew.lives("beat-3") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert crew.ended() == ["beat-3 ended by itself with code -9"]
