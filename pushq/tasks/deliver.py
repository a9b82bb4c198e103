"""Delivery, one batch a task, or some small ones; one task for each platform, so that they are routed apart."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from celery import Task

from pushq.app import PUBLISH_TIMEOUTS, app


def _deliver(task: Task, send_id: str, batch_no: int) -> None:
    from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of the task need no database driver

    countdown = runtime().deliver(uuid.UUID(send_id), batch_no)
    if countdown is not None:
        raise task.retry(countdown=countdown, **PUBLISH_TIMEOUTS)


# max_retries=None: the policy counts, and reads attempts from the ledger, not from the message.
@app.task(bind=True, name="pushq.deliver_batch.apns", max_retries=None)  # type: ignore[untyped-decorator]
def deliver_apns(self: Task, send_id: str, batch_no: int) -> None:
    _deliver(self, send_id, batch_no)


@app.task(bind=True, name="pushq.deliver_batch.fcm", max_retries=None)  # type: ignore[untyped-decorator]
def deliver_fcm(self: Task, send_id: str, batch_no: int) -> None:
    _deliver(self, send_id, batch_no)


@app.task(bind=True, name="pushq.deliver_batch.hms", max_retries=None)  # type: ignore[untyped-decorator]
def deliver_hms(self: Task, send_id: str, batch_no: int) -> None:
    _deliver(self, send_id, batch_no)


def _deliver_together(platform: str, batches: Sequence[tuple[str, int]]) -> None:
    from pushq.tasks.runtime import runtime  # noqa: PLC0415 - as above

    runtime().deliver_together(platform, [(uuid.UUID(send_id), number) for send_id, number in batches])


@app.task(name="pushq.deliver_together.apns")  # type: ignore[untyped-decorator]
def deliver_together_apns(batches: Sequence[tuple[str, int]]) -> None:
    _deliver_together("apns", batches)


@app.task(name="pushq.deliver_together.fcm")  # type: ignore[untyped-decorator]
def deliver_together_fcm(batches: Sequence[tuple[str, int]]) -> None:
    _deliver_together("fcm", batches)


@app.task(name="pushq.deliver_together.hms")  # type: ignore[untyped-decorator]
def deliver_together_hms(batches: Sequence[tuple[str, int]]) -> None:
    _deliver_together("hms", batches)
