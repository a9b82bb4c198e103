"""Generated devices: the same number gives the same devices, so that a report can be checked against them. Pure."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha512
from typing import Final, TextIO

from pushq.mock.settings import DEAD_PREFIX

COLUMNS: Final = (
    "user_id",
    "app",
    "platform",
    "token",
    "language",
    "country",
    "app_version",
    "tags",
    "registered_at",
    "last_seen",
)
_LANGUAGES: Final = (
    ("de", "DE"),
    ("en", "US"),
    ("fr", "FR"),
    ("es", "ES"),
    ("pt", "BR"),
    ("ja", "JP"),
    ("de", "AT"),
)
#: What the demo has unless it is asked for more.
DEFAULT_PLATFORMS: Final = ("apns", "fcm")
_OF_SIX: Final = {"apns": 3, "fcm": 2, "hms": 1}
_VERSIONS: Final = ("3.9.1", "4.0.0", "4.1.0", "4.2.0", "4.2.1")


@dataclass(frozen=True)
class Device:
    """One generated device; ``dead``: the mock will say that its token is no longer valid."""

    number: int
    user_id: int
    platform: str
    token: str
    dead: bool


def generate(
    count: int, dead_ratio: float, *, seed: int = 0, platforms: Sequence[str] = DEFAULT_PLATFORMS
) -> Iterator[Device]:
    """``count`` devices, of which every tenth user has two; APNs, FCM and HMS share them 3 to 2 to 1.

    Exactly ``int(count * dead_ratio)`` tokens are dead, spread evenly.

    Args:
        platforms: some of those; they share all of the devices.
    """
    wheel = [platform for platform in platforms for _ in range(_OF_SIX[platform])]
    for number in range(count):
        digest = sha512(f"{seed}:{number}".encode()).hexdigest()
        dead = int((number + 1) * dead_ratio) > int(number * dead_ratio)
        platform = wheel[number % len(wheel)]
        token = {
            "apns": digest[:64],
            "fcm": f"{digest[:22]}:APA91b{digest}",
            "hms": f"IQAAAACy0{digest[:121]}",
        }[platform]
        if dead:
            token = DEAD_PREFIX + token[len(DEAD_PREFIX) :]
        yield Device(number, user_of(number), platform, token, dead)


def user_of(number: int) -> int:
    """The user of the device with this number; both rise together. Users are numbered from 1, devices from 0."""
    return number * 10 // 11 + 1


def write_csv(file: TextIO, devices: Iterator[Device], *, app: str, now: datetime) -> int:
    """Write devices in the form that ``pushq tokens import`` reads; returns how many."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    registered = (now - timedelta(days=40)).isoformat(timespec="seconds")
    count = 0
    for device in devices:
        language, country = _LANGUAGES[device.number % len(_LANGUAGES)]
        writer.writerow(
            (
                device.user_id,
                app,
                device.platform,
                device.token,
                language,
                country,
                _VERSIONS[device.number % len(_VERSIONS)],
                '["vip"]' if device.number % 20 == 0 else "[]",
                registered,
                (now - timedelta(days=device.number % 25, hours=1)).isoformat(timespec="seconds"),
            )
        )
        count += 1
    return count
