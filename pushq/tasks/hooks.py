"""What surrounds every task: its send and batch on each log line, and its span. Hung on Celery's signals, so that tasks know nothing of it.

Celery's own lines about a task (that it failed, that it is tried again) are written within, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery import Task
from celery.signals import task_postrun, task_prerun

from pushq import logs, tracing
from pushq.errors import PushqError

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class _Subject(NamedTuple):
    """What a task is about: its span's name, and what its arguments are called in logs and traces."""

    span: str
    arguments: tuple[str, ...]
    platform: str | None = None


_DELIVER: Final = "pushq.deliver_batch."
#: By task. Sweeps and clean-ups are about no send in particular.
_SUBJECTS: Final = {
    "pushq.plan_shard": _Subject(tracing.PLAN, ("send_id", "shard_no")),
    "pushq.dead_letters": _Subject(tracing.BURY, ("send_id", "batch_nos")),
    "pushq.send_broadcast": _Subject(tracing.ACCEPT, ()),
    "pushq.send_notification": _Subject(tracing.ACCEPT, ()),
}


class _Running(NamedTuple):
    span: Span
    token: object


_running: ContextVar[_Running | None] = ContextVar("pushq_task_span", default=None)


def connect() -> None:
    """Hang the hooks on Celery's signals. May be called again."""
    task_prerun.connect(_begin, weak=False, dispatch_uid="pushq-begin")
    task_postrun.connect(_end, weak=False, dispatch_uid="pushq-end")


def subject(task: str, task_id: str, args: Sequence[Any]) -> tuple[str, dict[str, Any]] | None:
    """The span's name and the fields for a task of this name; None for one that is about no send. Pure."""
    found = _SUBJECTS.get(task)
    if found is None and task.startswith(_DELIVER):
        found = _Subject(tracing.DELIVER, ("send_id", "batch_no"), task.removeprefix(_DELIVER))
    if found is None:
        return None
    # A call's send has the id of its message.
    fields = dict(zip(found.arguments, args, strict=False)) if found.arguments else {"send_id": task_id}
    return found.span, fields if found.platform is None else {**fields, "platform": found.platform}


def _begin(task: Task, task_id: str, args: Sequence[Any], **_: object) -> None:
    known = subject(task.name, task_id, args)
    if known is None:
        return
    name, fields = known
    logs.begin(**fields)
    if not tracing.on():
        return
    carried = tracing.carried_in(task.request.headers)
    if not carried and name != tracing.ACCEPT:
        carried = _in_the_ledger(fields["send_id"])
    span = tracing.start(name, kind="consumer", parent=carried, **fields)
    if span is None:
        return
    # A send is one level of its trace, however its batches release each other: all of them have the same parent.
    tracing.set_send(tracing.carried_by(span) if name == tracing.ACCEPT else carried)
    logs.begin(trace_id=tracing.trace_id(span))
    _running.set(_Running(span, tracing.enter(span)))


def _in_the_ledger(send_id: str) -> dict[str, str]:
    """The trace of a send whose message carries none: the sweeper's, which are about many sends."""
    from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of tasks need no database driver

    for _ in range(2):  # the first may meet a connection that died in the pool, which is empty after that
        try:
            return runtime().trace_of(uuid.UUID(send_id))
        except PushqError:
            continue
    return {}  # PostgreSQL is gone; the task is about to say so


def _end(task: Task, state: str | None = None, retval: object = None, **_: object) -> None:
    logs.end()
    running = _running.get()
    if running is None:
        return
    _running.set(None)
    tracing.set_send({})
    tracing.leave(running.token)
    if isinstance(retval, BaseException) and state == "FAILURE":
        tracing.fail(running.span, retval)
    tracing.end(running.span, state=state)
