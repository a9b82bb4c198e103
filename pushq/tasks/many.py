"""Many transactional calls in one message: for who takes calls in from elsewhere and has several of them at a time."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any, Final

from celery import Task
from kombu.exceptions import OperationalError

from pushq.app import PUBLISH_TIMEOUTS, TRANSACTIONAL, app, to_queue
from pushq.errors import InvalidRequest, ServiceUnavailable
from pushq.settings import load
from pushq.submission import Submission, parse_submission
from pushq.tasks import calls
from pushq.tasks.entry import SendNotification, again

log = logging.getLogger("pushq.calls")

#: Calls in one message.
MOST: Final = 100


def send_together(submissions: Sequence[tuple[uuid.UUID, Submission]]) -> None:
    """Publish valid transactional calls, each with its send's id: what ``send_notification.delay`` does for one, in one message for all.

    Raises:
        SettingsError: PUSHQ_BROKER_URL is not set.
        ValueError: there are more than :data:`MOST`, or one is a broadcast.
        ServiceUnavailable: the broker did not take the message; none of them was accepted, and each may be repeated.
    """
    if len(submissions) > MOST or any(call.kind != "transactional" for _, call in submissions):
        raise ValueError(f"at most {MOST} transactional calls, found {len(submissions)}")
    if not submissions:
        return
    if not app.conf.broker_url:
        load().need_broker()
    messages = [(str(send_id), call.as_json()) for send_id, call in submissions]
    try:
        # As for single calls: their arguments are nothing that Flower should show.
        send_notifications.apply_async(
            (messages,), argsrepr=f"({len(messages)} calls)", **to_queue(TRANSACTIONAL), **PUBLISH_TIMEOUTS
        )
    except (OperationalError, OSError) as exc:
        raise ServiceUnavailable(
            "The broker", "PUSHQ_BROKER_URL", type(exc.__cause__ or exc).__name__
        ) from exc
    calls.remember(
        *(calls.Remembered(send_id, SendNotification.name, message) for send_id, message in messages)
    )


@app.task(bind=True, name="pushq.send_notifications", max_retries=None)  # type: ignore[untyped-decorator]
def send_notifications(self: Task, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Accept the calls of one message; until all of them are accepted it comes again."""
    from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of the task need no database driver

    valid: list[tuple[uuid.UUID, Submission]] = []
    for send_id, message in messages:
        try:
            valid.append((uuid.UUID(send_id), parse_submission(message)))
        except InvalidRequest as refusal:
            # It would be refused again; the others are none the worse for it.
            calls.refuse(send_id, refusal)
            calls.forget(send_id)
    try:
        runtime().accept_together(valid)
    except Exception as exc:  # noqa: BLE001 - whatever it was, no call must be lost
        log.warning("calls_not_accepted", extra={"calls": len(valid), "error": type(exc).__name__})
        again(self, exc)
