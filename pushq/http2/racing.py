"""Several addresses of one name: which to try in which order, and the first that accepts (RFC 8305, "Happy Eyeballs").

A name has several addresses so that load spreads over them, and so that a dead one does not matter. Each connection starts at
another address, and does not wait for a silent one longer than the stagger before it tries the next beside it.
"""

from __future__ import annotations

import socket as constants
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import gevent
from gevent import socket
from gevent.queue import Empty, Queue

#: Between two attempts (RFC 8305 section 5 recommends it).
STAGGER_S = 0.25
#: Addresses tried for one connection at most.
_MAX_ADDRESSES = 16


class Address(NamedTuple):
    """Where to connect to: an address family, and the socket address as ``connect`` takes it."""

    family: int
    sockaddr: tuple[Any, ...]


class AllFailed(Exception):
    """No address accepted.

    Attributes:
        failures: what each of them said, in the order of the answers.
    """

    def __init__(self, failures: list[OSError]) -> None:
        super().__init__(failures)
        self.failures = failures


def resolve(host: str, port: int) -> list[Address]:
    """Ask the system's resolver, never a cache of ours.

    Raises:
        OSError, UnicodeError: the name has no address, or cannot even be asked for.
    """
    found = socket.getaddrinfo(host, port, 0, constants.SOCK_STREAM, constants.IPPROTO_TCP)
    return list(dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found))


def arrange(addresses: Sequence[Address], turn: int) -> list[Address]:
    """The order to try them in.

    The families take turns, the resolver's favourite first (RFC 8305 section 4). Within a family the list starts ``turn`` places
    later, so that consecutive connections begin at different addresses.
    """
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    columns = [deque(members) for members in families.values()]
    for column in columns:
        column.rotate(-(turn % len(column)))
    order: list[Address] = []
    while any(columns):
        order += [column.popleft() for column in columns if column]
    return order[:_MAX_ADDRESSES]


def connect_first(addresses: Sequence[Address], stagger_s: float = STAGGER_S) -> socket.socket:
    """Connect to the first that accepts. The others are closed.

    The time is limited by the caller's ``gevent.Timeout``.

    Raises:
        AllFailed: every address refused, or there was none.
    """
    race = _Race()
    racers: list[gevent.Greenlet[..., None]] = []
    waiting = deque(addresses)
    failures: list[OSError] = []
    try:
        while waiting or len(failures) < len(racers):
            if waiting:
                racers.append(gevent.spawn(_run, waiting.popleft(), race))
            try:
                end = race.ends.get(timeout=stagger_s if waiting else None)
            except Empty:
                continue
            if not isinstance(end, OSError):
                return end
            failures.append(end)
        raise AllFailed(failures)
    finally:
        # Nothing here may wait: the caller's time-out would strike in the wait, and the winner would be nobody's.
        race.over = True
        gevent.killall(racers, block=False)
        while not race.ends.empty():  # photo finish
            late = race.ends.get_nowait()
            if not isinstance(late, OSError):
                late.close()


class _Race:
    """Where the racers report, and whether anybody listens."""

    def __init__(self) -> None:
        self.ends: Queue[socket.socket | OSError] = Queue()
        self.over = False


def _run(address: Address, race: _Race) -> None:
    try:
        sock = socket.socket(address.family, constants.SOCK_STREAM, constants.IPPROTO_TCP)
    except OSError as error:  # a family that this system does not have
        race.ends.put(error)
        return
    try:
        sock.connect(address.sockaddr)
    except OSError as error:
        sock.close()
        race.ends.put(error)
    except BaseException:  # killed: another one was faster
        sock.close()
        raise
    else:
        if race.over:  # connected in the very turn in which it was to be killed
            sock.close()
        else:
            race.ends.put(sock)
