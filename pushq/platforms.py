"""The platforms: what a device, an audience and a queue may name. Everything that differs by platform is found under these words."""

from __future__ import annotations

from typing import Final

PLATFORMS: Final = ("apns", "fcm", "hms")

#: How people call them.
TITLES: Final = {"apns": "APNs", "fcm": "FCM", "hms": "HMS"}
