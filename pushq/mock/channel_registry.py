"""The broadcast channels that exist in one environment of APNs."""

from __future__ import annotations

import base64
import binascii

# Channel id -> message storage policy: 0 stores nothing, 1 the newest message.
Channels = dict[str, int]


class ChannelRegistry:
    """Channels by bundle id."""

    def __init__(self) -> None:
        self._channels: dict[str, Channels] = {}

    def of(self, bundle_id: str) -> Channels:
        return self._channels.setdefault(bundle_id, {})


def channel_objection(channel_id: str | None, channels: Channels) -> str | None:
    """What APNs says about the header ``apns-channel-id``; None: it is one of ``channels``."""
    if channel_id is None:
        return "MissingChannelId"
    try:
        base64.b64decode(channel_id, validate=True)
    except (binascii.Error, ValueError):
        return "BadChannelId"
    return None if channel_id in channels else "ChannelNotRegistered"
