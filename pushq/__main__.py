"""``python -m pushq`` is the command ``pushq``."""

from pushq.cli import main

main()
