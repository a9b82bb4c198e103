"""How much memory this process has."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_MIB = 1024 * 1024
_STATUS = Path("/proc/self/status")


def peak_rss_mb() -> float:
    """The highest resident size since the start of the program, in MiB.

    Where the kernel tells it, VmHWM is read: the figure of getrusage survives exec, so that a small program started by a
    large one would report the size of its parent.
    """
    peak = _status_kib("VmHWM")
    if peak is not None:
        return peak / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if sys.platform == "darwin" else peak / 1024


def rss_mb() -> float | None:
    """The resident size now, in MiB; None where the kernel does not tell."""
    size = _status_kib("VmRSS")
    return None if size is None else size / 1024


def _status_kib(field: str) -> int | None:
    try:
        text = _STATUS.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    return None
