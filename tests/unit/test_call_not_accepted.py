"""A call that the ledger does not take is never given up: its message is all that there is of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Task
from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError

from pushq.errors import ServiceUnavailable
from pushq.submission import Submission
from pushq.tasks import entry, runtime
from pushq.tasks.entry import EntryTask, send_notification

USER_IDS, NOTIFICATION = [7], {"title": "Sale", "body": "20% off"}


class Away:
    """A runtime whose PostgreSQL is away."""

    def accept(self, send_id: uuid.UUID, submission: Submission) -> None:
        raise ServiceUnavailable("PostgreSQL", "PUSHQ_DATABASE_URL", "gone")


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[EntryTask]:
    """The task as in a worker that has taken a message from its queue."""
    monkeypatch.setattr(runtime, "runtime", Away)
    send_notification.push_request(
        id=str(uuid.uuid4()),
        args=[message()],
        kwargs={},
        retries=0,
        called_directly=False,
        is_eager=False,
        headers=None,
        delivery_info={"exchange": "pushq", "routing_key": "pushq.transactional"},
    )
    yield send_notification
    send_notification.pop_request()


def message() -> dict[str, Any]:
    submission: Submission = send_notification.checked((USER_IDS, NOTIFICATION), {"app": "shop"})
    return submission.as_json()


def published(monkeypatch: pytest.MonkeyPatch, failure: Exception | None) -> list[dict[str, object]]:
    """What the task publishes, which the broker takes unless there is a ``failure``."""
    found: list[dict[str, object]] = []

    def apply_async(self: EntryTask, args: object, kwargs: object, **options: object) -> None:
        if failure is not None:
            raise failure
        found.append(options)

    monkeypatch.setattr(Task, "apply_async", apply_async)
    monkeypatch.setattr(send_notification.app.conf, "broker_url", "amqp://localhost//", raising=False)
    return found


def test_it_is_published_for_later(task: EntryTask, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = published(monkeypatch, None)
    with pytest.raises(Retry):
        task.run(message())
    assert [call["task_id"] for call in calls] == [task.request.id]
    assert [call["countdown"] for call in calls] == [entry.ACCEPT_AGAIN_S]


@pytest.mark.parametrize(
    "failure", [OperationalError("refused"), TimeoutError("no confirm"), RuntimeError("whatever")]
)
def test_it_goes_back_into_its_queue_when_it_cannot_be_published(
    task: EntryTask, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Rejected without that, RabbitMQ would put the only copy where nobody looks; put back at once, it would come 20 times in a moment."""
    published(monkeypatch, failure)
    pauses: list[float] = []
    monkeypatch.setattr(entry, "_pause", pauses.append)
    with pytest.raises(Reject) as caught:
        task.run(message())
    assert caught.value.requeue is True
    assert pauses == [entry.ACCEPT_AGAIN_MOST_S]


def test_the_pause_before_that_holds_up_no_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "draining", iter([False, False, True]).__next__)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    entry._pause(1000)
    assert slept == [0.5, 0.5]
