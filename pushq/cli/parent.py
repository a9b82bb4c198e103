"""A process that must not outlive the one that started it."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Final

POLL_S: Final = 0.5
GRACE_S: Final = 10.0


def end_with(parent_pid: int | None) -> None:
    """Watch the parent from a background thread: when it is gone, this process gets SIGTERM, and SIGKILL ten seconds later."""
    if parent_pid is not None:
        threading.Thread(target=_watch, args=(parent_pid,), name="pushq-parent", daemon=True).start()


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
