"""pushq: push notifications to millions of phones, through Celery.

The names here are the whole interface for an application; importing them pulls in neither gevent nor a database driver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pushq.errors import InvalidRequest, PushqError, ServiceUnavailable, SettingsError
from pushq.version import VERSION

if TYPE_CHECKING:
    from pushq import control
    from pushq.tasks.entry import send_broadcast, send_notification

__version__ = VERSION
__all__ = [
    "InvalidRequest",
    "PushqError",
    "ServiceUnavailable",
    "SettingsError",
    "control",
    "send_broadcast",
    "send_notification",
]

_LAZY = ("send_broadcast", "send_notification")


def __getattr__(name: str) -> Any:
    # Celery is only needed by those who send; `pushq mock` and the settings are usable without it.
    if name in _LAZY:
        from pushq.tasks import entry  # noqa: PLC0415

        return getattr(entry, name)
    if name == "control":
        # The only name here that needs the database's driver.
        return importlib.import_module("pushq.control")
    raise AttributeError(f"module 'pushq' has no attribute {name!r}")
