"""Faults beyond stop and kill, which every server has itself."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import psutil

from pushq.embedded.server import Server


def pause(server: Server) -> None:
    """SIGSTOP the server and all its children: connections stay open and nothing answers, as behind a cut cable."""
    _signal_tree(server, signal.SIGSTOP)


def resume(server: Server) -> None:
    """Undo :func:`pause`."""
    _signal_tree(server, signal.SIGCONT)


@contextlib.contextmanager
def paused(server: Server) -> Iterator[None]:
    """:func:`pause` for the life of the block."""
    pause(server)
    try:
        yield
    finally:
        resume(server)


def restart(server: Server) -> None:
    """Stop in order and start again on the same port, with the same data if the server keeps any."""
    server.stop()
    server.start()


def crash(server: Server) -> None:
    """SIGKILL the server and wait until its children are gone too: only then may it start again on the same data."""
    children = _tree(server)[1:]
    server.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=10)


def _tree(server: Server) -> list[psutil.Process]:
    if server.process is None:
        return []
    try:
        parent = psutil.Process(server.process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal_tree(server: Server, number: signal.Signals) -> None:
    # The parent first: stopped, it starts no further child.
    for process in _tree(server)[:1]:
        process.send_signal(number)
    for process in _tree(server)[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
