"""Started with every sandbox: ``python -m pushq.embedded.guardian FOLDER`` cleans up when the owner dies without doing so.

It waits for the end of its standard input, a pipe that the owner holds open. A child that the owner forked may hold the pipe open
for longer than the owner lives, so it looks for the owner every second as well.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from pushq.embedded.sandbox import owner_lives, remove

_LOOK_S = 1.0


def watch(folder: Path, pipe: int) -> None:
    """Return when the owner of ``folder`` has closed ``pipe`` or died, and the folder is gone."""
    while owner_lives(folder):
        readable, _, _ = select.select([pipe], [], [], _LOOK_S)
        if readable and not os.read(pipe, 1):
            break
    if folder.exists():
        remove(folder)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), sys.stdin.fileno())
