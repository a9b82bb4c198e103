"""From a send to what one platform's client gets of it. Pure; what a preview shows is composed here as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pushq.ledger.sends import Send
from pushq.notification import Notification
from pushq.providers.client import Message
from pushq.rendering.contents import Values
from pushq.submission import Submission


def compose(send: Send, platform: str) -> tuple[Message, Notification]:
    """The message, and the notification as it is written for this platform: with its variants and placeholders, if it has any."""
    notification = send.notification.for_platform(platform)
    collapse = send.notification.collapse_id
    if collapse is None and not send.at_most_once:
        # A repetition must replace its first copy on the phone.
        collapse = send.id.hex
    message = Message(send.id, notification.plain(), send.starts_at, send.expires_at, collapse, send.target)
    return message, notification


def values_of(send: Send, user_id: int, attributes: Mapping[str, Any] | None) -> Values | None:
    """What is known of a recipient: his device's attributes, and over them what the call says of him."""
    given = send.values.get(user_id)
    return attributes if given is None else {**(attributes or {}), **given}


def send_of(submission: Submission, app: str) -> Send:
    """The send that a call would become in this app."""
    return Send(
        submission.send_id(),
        submission.kind,
        app,
        submission.guarantee,
        submission.notification,
        submission.called_at,
        submission.expires_at,
        values=submission.values or {},
        target=submission.audience.target,
    )
