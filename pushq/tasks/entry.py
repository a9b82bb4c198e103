"""The two tasks that an application calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from inspect import Signature, signature
from typing import Any

from celery import Task
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from pushq.app import PUBLISH_TIMEOUTS, app
from pushq.errors import InvalidRequest, ServiceUnavailable
from pushq.settings import load
from pushq.submission import Guarantee, Submission, parse_submission, submit

#: Celery's own names for an option that only makes sense on a running task.
_FORBIDDEN_OPTIONS = ("countdown", "eta", "retries", "link", "link_error", "chain", "group_id", "chord")


class EntryTask(Task):  # type: ignore[misc]
    """Checks a call before it is published, and gives it its send's id as task id.

    Subclasses say in ``call`` which arguments there are; it is never run, only its signature and its result count.
    """

    abstract = True

    call: Callable[..., Submission]

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Check the call and publish it.

        Returns:
            a result whose ``id`` is the send's id.

        Raises:
            SettingsError: PUSHQ_BROKER_URL is not set.
            InvalidRequest: names the argument, what was found and what is allowed; nothing was published.
            ServiceUnavailable: the broker did not take the message; nothing was accepted, the call may be repeated.
        """
        for name in _FORBIDDEN_OPTIONS:
            if options.get(name) is not None:
                raise InvalidRequest(
                    name,
                    "a Celery option",
                    "send_at, to send later" if name in ("countdown", "eta") else "none",
                )
        submission = self.checked(args or (), kwargs or {})
        send_id = uuid.UUID(task_id) if task_id else submission.send_id()
        if not self.app.conf.broker_url:
            load().need_broker()
        try:
            return super().apply_async(
                (submission.as_json(),), {}, task_id=str(send_id), **PUBLISH_TIMEOUTS, **options
            )
        except (OperationalError, OSError) as exc:
            raise ServiceUnavailable(
                "The broker", "PUSHQ_BROKER_URL", type(exc.__cause__ or exc).__name__
            ) from exc

    def checked(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Submission:
        if len(args) == 1 and not kwargs and isinstance(args[0], Mapping) and "called_at" in args[0]:
            return parse_submission(
                args[0]
            )  # Celery publishes the task again as it is (redelivery, Flower's "retry")
        try:
            bound = _arguments(type(self)).bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidRequest(f"{self.name}()", str(exc), f"{_arguments(type(self))}") from None
        return self.call(*bound.args, **bound.kwargs)

    def run(self, submission: dict[str, Any]) -> None:
        from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of the task need no database driver

        runtime().accept(uuid.UUID(self.request.id), parse_submission(submission))


def _arguments(task: type[EntryTask]) -> Signature:
    full = signature(task.call)
    return full.replace(parameters=list(full.parameters.values())[1:])


class SendBroadcast(EntryTask):
    """Send one notification to an audience, however large.

    ``send_broadcast.delay(...)`` returns at once; the result's ``id`` is the send's id.
    """

    name = "pushq.send_broadcast"

    def call(
        self,
        notification: Any,
        audience: Any,
        *,
        app: str | None = None,
        guarantee: Guarantee = "at_most_once",
        idempotency_key: str | None = None,
        send_at: datetime | str | None = None,
        rate: int | None = None,
        retry: Mapping[str, float] | None = None,
    ) -> Submission:
        return submit(
            "broadcast",
            notification=notification,
            audience=audience,
            app=app,
            guarantee=guarantee,
            idempotency_key=idempotency_key,
            send_at=send_at,
            rate=rate,
            retry=retry,
            called_at=datetime.now(UTC),
        )


class SendNotification(EntryTask):
    """Send one notification to the devices of some users, ahead of all broadcasts."""

    name = "pushq.send_notification"

    def call(
        self,
        user_ids: Sequence[int],
        notification: Any,
        *,
        app: str | None = None,
        platforms: Sequence[str] | None = None,
        guarantee: Guarantee = "at_least_once",
        idempotency_key: str | None = None,
        send_at: datetime | str | None = None,
        rate: int | None = None,
        retry: Mapping[str, float] | None = None,
        values: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> Submission:
        audience: dict[str, Any] = {"user_ids": user_ids}
        if platforms is not None:
            audience["platforms"] = platforms
        return submit(
            "transactional",
            notification=notification,
            audience=audience,
            app=app,
            guarantee=guarantee,
            idempotency_key=idempotency_key,
            send_at=send_at,
            rate=rate,
            retry=retry,
            values=values,
            called_at=datetime.now(UTC),
        )


send_broadcast = app.register_task(SendBroadcast())
send_notification = app.register_task(SendNotification())
