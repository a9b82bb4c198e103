"""``python -m pushq.embedded.sweep [FOLDER]``: remove what crashed owners left behind (``make clean`` does it)."""

from __future__ import annotations

import sys
from pathlib import Path

from pushq.embedded.sandbox import sweep

if __name__ == "__main__":
    for removed in sweep(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        sys.stdout.write(f"removed {removed}\n")
