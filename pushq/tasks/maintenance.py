"""Dead letters, the sweeper and the nightly clean-up."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from pushq.app import app


@app.task(name="pushq.dead_letters")  # type: ignore[untyped-decorator]
def dead_letters(send_id: str, batch_nos: Sequence[int]) -> None:
    from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of the task need no database driver

    runtime().bury(uuid.UUID(send_id), batch_nos)


@app.task(name="pushq.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of the task need no database driver

    runtime().sweep()


@app.task(name="pushq.cleanup")  # type: ignore[untyped-decorator]
def cleanup() -> None:
    from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of the task need no database driver

    runtime().cleanup()
