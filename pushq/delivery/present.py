"""The means of the present, and those that running batches began with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pushq.delivery.means import Means
from pushq.providers.client import ProviderClient


@dataclass
class _Generation:
    means: Means
    batches: int = 0


class Present:
    """What the next batch delivers with. A batch keeps what it began with to its end: a changed credential cuts nothing off.

    Args:
        retire: gets each client that no batch, running or to come, uses any more; must not wait.
    """

    def __init__(self, means: Means, retire: Callable[[ProviderClient], None]) -> None:
        self._now, self._older = _Generation(means), list[_Generation]()
        self._retire = retire
        self._lock = threading.Lock()

    @property
    def means(self) -> Means:
        return self._now.means

    @contextmanager
    def hold(self) -> Iterator[Means]:
        """The present means, for one batch."""
        with self._lock:
            generation = self._now
            generation.batches += 1
        try:
            yield generation.means
        finally:
            with self._lock:
                generation.batches -= 1
                unused = self._unused()
            for client in unused:
                self._retire(client)

    def replace(self, means: Means) -> None:
        """From the next batch on."""
        with self._lock:
            self._older.append(self._now)
            self._now = _Generation(means)
            unused = self._unused()
        for client in unused:
            self._retire(client)

    def clients(self) -> list[ProviderClient]:
        """Every client that may still have work."""
        with self._lock:
            return list({id(client): client for client in self._all(self._now, *self._older)}.values())

    def _unused(self) -> list[ProviderClient]:
        """Drop the generations that nobody uses; returns the clients that were theirs alone."""
        done = [each for each in self._older if not each.batches]
        if not done:
            return []
        self._older = [each for each in self._older if each.batches]
        kept = {id(client) for client in self._all(self._now, *self._older)}
        unused = {id(client): client for client in self._all(*done) if id(client) not in kept}
        return list(unused.values())

    @staticmethod
    def _all(*generations: _Generation) -> list[ProviderClient]:
        return [client for each in generations for client in each.means.clients.values()]
