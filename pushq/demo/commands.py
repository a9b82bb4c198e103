"""pushq's own commands, run the way a user would."""

from __future__ import annotations

import subprocess
import sys

from pushq.errors import PushqError


class CommandFailed(PushqError):
    """A command ended with another code than 0; its messages went to the terminal."""


def pushq_command(*arguments: str, timeout_s: float) -> None:
    """Run ``pushq ARGUMENTS`` with this process's environment; its picture goes to the same terminal, its result nowhere.

    Raises:
        CommandFailed: see there; also after ``timeout_s``.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pushq", *arguments],
            stdout=subprocess.PIPE,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"pushq {' '.join(arguments)} took longer than {timeout_s:g} s") from None
    if done.returncode != 0:
        raise CommandFailed(f"pushq {' '.join(arguments)} ended with code {done.returncode}")
