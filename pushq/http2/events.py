"""What the core tells the owner of a connection, beside what it writes into the bursts."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from pushq.http2.burst import Answer


@dataclass(frozen=True, slots=True)
class SettingsReceived:
    """The peer's SETTINGS were applied and acknowledged."""


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """No new streams. ``refused`` requests above ``last_stream_id`` are REFUSED; the others may still be answered."""

    code: int
    last_stream_id: int
    debug: bytes
    refused: int

    @property
    def reason(self) -> str:
        """The provider's word for it; "" if there is none.

        APNs sends JSON with a ``reason`` (Apple, "Handling notification responses from APNs"); others, and APNs in older reports,
        send plain text or nothing, which is no word. It says what to do about a credential, never whether a request was processed.
        """
        try:
            document = orjson.loads(self.debug)
        except orjson.JSONDecodeError:
            return ""
        reason = document.get("reason") if isinstance(document, dict) else None
        return reason if isinstance(reason, str) else ""


#: An :class:`Answer` is an event too: a status other than 200 may mean something for the connection.
Event = Answer | SettingsReceived | GoAwayReceived
