"""The two tasks that an application calls."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from inspect import Signature, signature
from typing import Any, Final, NoReturn

from celery import Task
from celery.exceptions import Reject
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from pushq import tracing
from pushq.app import BROADCAST, PUBLISH_TIMEOUTS, TRANSACTIONAL, app, to_queue
from pushq.errors import InvalidRequest, ServiceUnavailable
from pushq.settings import load
from pushq.submission import Guarantee, Submission, parse_submission, submit
from pushq.tasks import calls

#: Options by which a caller, or Celery's retry, has a message go another way than to its queue at once.
_WAYS = ("queue", "exchange", "routing_key", "countdown", "eta")
#: Options that only make sense on other tasks.
_FORBIDDEN_OPTIONS = ("countdown", "eta", "retries", "link", "link_error", "chain", "group_id", "chord")

log = logging.getLogger("pushq.calls")

#: Where calls go, by their kind.
QUEUES: Final = {"broadcast": BROADCAST, "transactional": TRANSACTIONAL}

#: Wait before a call is tried again that the ledger could not take (PostgreSQL away); doubles each time. Below the time after which
#: Redis' messages come back by themselves.
ACCEPT_AGAIN_S: Final = 2
ACCEPT_AGAIN_MOST_S: Final = 20


class EntryTask(Task):  # type: ignore[misc]
    """Checks a call before it is published, and gives it its send's id as task id.

    Subclasses say in ``call`` which arguments there are; it is never run, only its signature and its result count.
    """

    abstract = True
    max_retries = None  # until the ledger has it

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
        again = _published(args or (), kwargs or {})
        for name in () if again else _FORBIDDEN_OPTIONS:
            if options.get(name) is not None:
                raise InvalidRequest(
                    name,
                    "a Celery option",
                    "send_at, to send later" if name in ("countdown", "eta") else "none",
                )
        submission = self.checked(args or (), kwargs or {})
        remembered = options.pop("remembered", 0)
        send_id = uuid.UUID(task_id) if task_id else submission.send_id()
        if not self.app.conf.broker_url:
            load().need_broker()
        message = submission.as_json()
        headers = dict(options.pop("headers", None) or {})
        trace = nullcontext(headers) if again else tracing.call(send_id, submission.kind, load)
        try:
            with trace as traced:
                headers.update(traced)
                # The arguments stand in task events otherwise: Flower would show the message and whom it is for.
                options.update(
                    PUBLISH_TIMEOUTS,
                    task_id=str(send_id),
                    headers=headers or None,
                    argsrepr=f"({submission.kind}, {submission.app})",
                )
                if all(options.get(way) is None for way in _WAYS):
                    options.update(to_queue(QUEUES[submission.kind]))
                result = super().apply_async((message,), {}, **options)
        except (OperationalError, OSError) as exc:
            raise ServiceUnavailable(
                "The broker", "PUSHQ_BROKER_URL", type(exc.__cause__ or exc).__name__
            ) from exc
        calls.remember(
            calls.Remembered(str(send_id), self.name, message, remembered, tracing.carried_in(headers))
        )
        return result

    def checked(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Submission:
        if _published(args, kwargs):
            return parse_submission(args[0])
        try:
            bound = _arguments(type(self)).bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidRequest(f"{self.name}()", str(exc), f"{_arguments(type(self))}") from None
        return self.call(*bound.args, **bound.kwargs)

    def run(self, submission: dict[str, Any]) -> None:
        from pushq.tasks.runtime import runtime  # noqa: PLC0415 - callers of the task need no database driver

        call = parse_submission(submission)
        try:
            runtime().accept(uuid.UUID(self.request.id), call)
        except InvalidRequest:
            calls.forget(self.request.id)
            raise  # it would be refused again
        except Exception as exc:  # noqa: BLE001 - whatever it was, the call must not be lost
            log.warning("call_not_accepted", extra={"send_id": self.request.id, "error": type(exc).__name__})
            again(self, exc)


def again(task: Task, exc: Exception) -> NoReturn:
    """Have a message come again whose calls the ledger could not take: to be called within ``except``.

    The message is all that there is of these calls until the ledger has them, and a task that fails is acknowledged. A call that expires
    meanwhile is accepted all the same: the ledger shows then what became of it.
    """
    wait = min(ACCEPT_AGAIN_MOST_S, ACCEPT_AGAIN_S * 2 ** min(task.request.retries, 10))
    try:
        raise task.retry(exc=exc, countdown=wait) from exc
    except Reject as unpublished:
        # Celery would have this message dead-lettered when it cannot publish the next one. Put back it is tried again, though not
        # at once: RabbitMQ lets go of what comes back too often (x-delivery-limit).
        _pause(ACCEPT_AGAIN_MOST_S)
        raise Reject(unpublished.reason, requeue=True) from exc


def _pause(seconds: float) -> None:
    """Wait, though not in the way of a shutdown."""
    from pushq.tasks.runtime import draining  # noqa: PLC0415 - as above

    end = time.monotonic() + seconds
    while not draining() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))


def _published(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Celery publishes the task again as it is: a redelivery, a retry, Flower's "retry"."""
    return len(args) == 1 and not kwargs and isinstance(args[0], Mapping) and "called_at" in args[0]


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
