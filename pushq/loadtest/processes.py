"""CPU time and memory of other processes and of all that they start, read from /proc.

Where there is no /proc (macOS) every figure is None: nobody is told a number that was not measured.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_KIB_PER_MIB: Final = 1024
#: Of smaps_rollup, in the order of :class:`Resident`.
_SIZES: Final = ("Rss", "Pss", "Pss_Anon")


@dataclass(frozen=True)
class Usage:
    """Of one named process with its descendants.

    Attributes:
        cpu_s: user and system seconds since the watch began.
        peak_mb: the largest sum of resident memory that was seen, MiB; pages that several share are divided among them.
        largest_mb: the largest resident size of a single one, MiB; shared pages count in full.
        growth_mb: what the sum was at the last look beyond that at the first, MiB.
    """

    cpu_s: float | None
    peak_mb: float | None
    largest_mb: float | None = None
    growth_mb: float | None = None


class Watch:
    """Looks at processes again and again; what a child used that has ended is kept.

    Args:
        roots: name -> process id.
        alone: names whose descendants are not theirs.
    """

    def __init__(self, roots: Mapping[str, int], *, alone: Collection[str] = ()) -> None:
        self._roots, self._alone = dict(roots), frozenset(alone)
        self._there = (_PROC / "self" / "stat").exists()
        self._ticks: dict[str, dict[int, int]] = {name: {} for name in roots}
        self._peak: dict[str, float] = dict.fromkeys(roots, 0.0)
        self._largest: dict[str, float] = dict.fromkeys(roots, 0.0)
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._before: dict[str, int] = {}
        if self._there:
            self.look()
            self._before = {name: sum(ticks.values()) for name, ticks in self._ticks.items()}

    def look(self, *, memory: bool = True) -> None:
        """Read all figures. Memory costs the kernel a walk over each process's pages, so not too often."""
        if not self._there:
            return
        below = children()
        for name, root in self._roots.items():
            family = [root] if name in self._alone else family_of(root, below)
            for pid in family:
                ticks = _cpu_ticks(pid)
                if ticks is not None:
                    self._ticks[name][pid] = ticks
            if memory:
                sizes = [resident_mb(pid) for pid in family]
                shared = sum(size.proportional for size in sizes)
                self._peak[name] = max(self._peak[name], shared)
                self._largest[name] = max(self._largest[name], *(size.whole for size in sizes))
                self._first.setdefault(name, shared)
                self._last[name] = shared

    def usage(self) -> dict[str, Usage]:
        if not self._there:
            return dict.fromkeys(self._roots, Usage(None, None))
        return {
            name: Usage(
                round((sum(ticks.values()) - self._before[name]) / _TICKS, 2),
                round(self._peak[name], 1),
                round(self._largest[name], 1),
                round(self._last[name] - self._first[name], 1),
            )
            for name, ticks in self._ticks.items()
        }


def children() -> dict[int, list[int]]:
    """The children of every process, by its id."""
    found: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None:
                found.setdefault(int(fields[1]), []).append(int(entry.name))
    return found


def family_of(root: int, below: Mapping[int, list[int]]) -> list[int]:
    """A process and all that descend from it."""
    family, ahead = [], [root]
    while ahead:
        pid = ahead.pop()
        family.append(pid)
        ahead += below.get(pid, [])
    return family


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may hold spaces and brackets itself."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return None


def _cpu_ticks(pid: int) -> int | None:
    fields = _stat(pid)
    return None if fields is None else int(fields[11]) + int(fields[12])


@dataclass(frozen=True)
class Resident:
    """Of one process, MiB.

    Attributes:
        whole: shared pages count in full.
        proportional: they are divided among those who share them.
        anonymous: of these, what is neither a file nor shared memory: what a leak is made of.
    """

    whole: float = 0.0
    proportional: float = 0.0
    anonymous: float = 0.0


def resident_mb(pid: int) -> Resident:
    """All zero when the process has ended, or belongs to somebody else."""
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return Resident()
    found = {name: int(rest.split()[0]) for name, _, rest in _pairs(text) if name in _SIZES}
    return Resident(*(found.get(name, 0) / _KIB_PER_MIB for name in _SIZES))


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    return (line.partition(":") for line in text.splitlines())
