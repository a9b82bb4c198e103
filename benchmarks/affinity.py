"""Server and clients on cores of their own, where the system lets a process choose."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager


def split_cores() -> tuple[frozenset[int], frozenset[int]]:
    """A core for the server and one for the client; both empty, for anywhere, where there is one core or no choice."""
    if sys.platform != "linux":
        return frozenset(), frozenset()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return frozenset(), frozenset()
    return frozenset(cores[:1]), frozenset(cores[1:2])


@contextmanager
def pinned(cores: Set[int]) -> Iterator[None]:
    """Processes started in the block stay on these cores; this process comes back to its own."""
    if sys.platform != "linux" or not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
