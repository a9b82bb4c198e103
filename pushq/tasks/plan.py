"""Planning, one shard a task."""

from __future__ import annotations

import uuid

from pushq.app import app

#: Pages in one run of the task; then it publishes itself again, so that many sends share the workers.
PAGES_PER_RUN = 25


@app.task(name="pushq.plan_shard")  # type: ignore[untyped-decorator]
def plan_shard(send_id: str, shard_no: int) -> None:
    from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of the task need no database driver

    runtime().plan(uuid.UUID(send_id), shard_no, PAGES_PER_RUN)
