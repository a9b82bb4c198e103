"""The command ``pushq``.

A worker runs on gevent, which must replace the standard library's sockets before anything imports them: so this module imports
nothing until it has looked at the command line.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the command."""
    if sys.argv[1:2] == ["worker"]:
        from gevent import monkey  # noqa: PLC0415

        monkey.patch_all()
    from pushq.cli.root import run  # noqa: PLC0415

    run()
