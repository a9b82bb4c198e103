"""What delivery needs of a provider, whichever it is."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pushq.errors import PushqError
from pushq.http2 import Answer, Burst, PoolStats
from pushq.notification import Notification
from pushq.providers.answers import Verdict
from pushq.providers.target import Target
from pushq.rendering.contents import Format


class CredentialRefused(PushqError):
    """The provider, or its token endpoint, does not accept the credential: an operator has to mend it.

    The message names the setting to look at.
    """


class CredentialUnavailable(PushqError):
    """No credential could be had right now (the token endpoint did not answer): worth another try later."""


@dataclass(frozen=True)
class Message:
    """One send as the providers see it.

    Attributes:
        notification: as the platform gets it: its overrides applied, no variants, no placeholders. Where recipients get different
            texts, they come as ``contents``, and what is here serves for the headers.
        starts_at: when the send was called, or was to begin.
        expires_at: when delivery stops making sense.
        collapse_id: the caller's, or the send's own where a repetition must replace its first copy on the phone.
        target: whom it goes to, if not to devices; a burst then has one request, and its token means nothing.
        environment: of the devices that the next burst goes to.
    """

    send_id: uuid.UUID
    notification: Notification
    starts_at: datetime
    expires_at: datetime
    collapse_id: str | None
    target: Target | None = None
    environment: str = "production"


class RequestPool(Protocol):
    """Takes bursts and fills in what became of them; :class:`pushq.http2.Pool` is one."""

    name: str

    def submit(self, burst: Burst, timeout: float) -> None:
        """Take the burst; blocks while there is no room.

        Raises:
            PoolSaturated: no room within ``timeout`` seconds.
            PoolClosed
        """

    @property
    def queued(self) -> int:
        """Requests that no connection has taken yet."""

    def stats(self) -> PoolStats: ...


class ProviderClient(Protocol):
    """One app's access to one provider. Everything in it may be used by many greenlets at once.

    Attributes:
        chunk: devices per burst; None where the provider's requests are for one device each.
    """

    platform: str
    chunk: int | None

    def start(self) -> None:
        """Open connections in advance; returns at once."""

    def close(self, grace: float) -> None:
        """Finish what is in flight within ``grace`` seconds."""

    def pool(self, environment: str) -> RequestPool:
        """Connections to the environment (``production`` or ``sandbox``)."""

    def format(self, message: Message) -> Format[Notification]:
        """How the message is written down for this platform, without what names the recipient. Pure; the same functions make
        what :meth:`burst` sends to everybody."""

    def burst(
        self,
        message: Message,
        tokens: Sequence[bytes],
        device_ids: Sequence[int],
        now: datetime,
        contents: Sequence[bytes] | None = None,
    ) -> Burst:
        """The requests for these devices, ready to be submitted.

        Args:
            contents: what each of them gets, as ``format(message).write`` would have written it; equal ones are mostly the same
                object. None: everybody gets ``message.notification``.

        Raises:
            CredentialRefused, CredentialUnavailable
        """

    def rehearse(self, message: Message, tokens: Sequence[bytes], contents: Sequence[bytes]) -> Burst | None:
        """Requests that the provider checks and delivers nothing of; None when it knows no such thing.

        Raises:
            CredentialRefused, CredentialUnavailable
        """

    def judge(self, answer: Answer, *, sent_at: datetime, now: datetime) -> Verdict:
        """What an answer other than 200 means."""

    def reauthenticate(self, burst: Burst) -> None:
        """The provider called the credential of these requests expired: get another one, as soon as its rules allow."""

    def explain(self, verdict: Verdict) -> str:
        """For an operator: what a refusal of the set-up means and which setting to look at."""
