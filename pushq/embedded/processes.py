"""Who a process is, and which server processes belong to a folder.

A pid alone says nothing: the kernel gives it to the next process. A process is known by its pid and start time together; a
server of ours is known by its program's name and by our folder, which has a random name, on its command line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

#: How each server is asked to stop, at once and without saving: its data is thrown away. PostgreSQL would leave a segment of
#: shared memory behind on SIGKILL; Erlang's own shutdown takes seconds.
STOP_SIGNALS: Mapping[str, signal.Signals] = MappingProxyType(
    {
        "postgres": signal.SIGQUIT,
        "redis-server": signal.SIGTERM,
        "beam.smp": signal.SIGKILL,
        "epmd": signal.SIGKILL,
    }
)
_PROC = Path("/proc")
_PS_TIMEOUT_S = 10.0
_POLL_S = 0.05


def started(pid: int) -> str | None:
    """When the process started, as text that no other process with this pid will ever have; None when there is none.

    A zombie counts as none: it runs no more.
    """
    if sys.platform != "linux":
        fields = _ps("-o", "stat=,lstart=", "-p", str(pid)).split(maxsplit=1)
        return None if len(fields) < 2 or fields[0].startswith("Z") else fields[1].strip()
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The program's name, in parentheses, may hold anything: fields count from behind it. State is field 3, start time 22.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def servers_in(folder: Path) -> list[tuple[int, str]]:
    """(pid, program) of every server whose command line names a path in ``folder``."""
    inside = f"{folder}/"
    found = []
    for pid, arguments in _command_lines():
        program = arguments[0].rpartition("/")[2]
        if program in STOP_SIGNALS and any(a == str(folder) or inside in a for a in arguments):
            found.append((pid, program))
    return found


def stop_servers_in(folder: Path, timeout: float) -> list[int]:
    """Stop every server of ``folder`` and wait until they are gone, with SIGKILL after ``timeout`` seconds.

    Returns the pids that are still there a second after SIGKILL: none, unless the kernel holds them.
    """
    for pid, program in servers_in(folder):
        _signal(pid, STOP_SIGNALS[program])
        # A stopped process (SIGSTOP) would see the signal only when continued.
        _signal(pid, signal.SIGCONT)
    if _wait_until_none(folder, timeout):
        return []
    for pid, _ in servers_in(folder):
        _signal(pid, signal.SIGKILL)
    _wait_until_none(folder, 1.0)
    return [pid for pid, _ in servers_in(folder)]


def _wait_until_none(folder: Path, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while servers_in(folder):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    # Gone already: fine. Another user's: not ours to stop, and the wait that follows reports it.
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    if sys.platform != "linux":
        yield from _parse_ps(_ps("-axww", "-o", "pid=,command=").splitlines())
        return
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        # A zombie's command line is empty; a process that just ended has none to read.
        with suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if arguments[0]:
                yield int(entry.name), arguments


def _parse_ps(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for line in lines:
        pid, _, command = line.strip().partition(" ")
        arguments = command.split()
        if pid.isdigit() and arguments:
            yield int(pid), arguments


def _ps(*arguments: str) -> str:
    answer = subprocess.run(
        ["ps", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PS_TIMEOUT_S,
        check=False,
    )
    return answer.stdout
