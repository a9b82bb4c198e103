"""What the core tells the owner of a connection, beside what it writes into the bursts."""

from __future__ import annotations

from dataclasses import dataclass

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


#: An :class:`Answer` is an event too: a status other than 200 may mean something for the connection.
Event = Answer | SettingsReceived | GoAwayReceived
