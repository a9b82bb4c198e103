"""Log lines: a constant event name and its fields."""

from __future__ import annotations

import logging
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
    "data",
}


class ConsoleFormatter(logging.Formatter):
    """``12:00:01.234 INFO pushq.delivery batch_settled batch_no=3 send_id=...``"""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        fields = " ".join(
            f"{key}={value}"
            for key, value in vars(record).items()
            if key not in _STANDARD and value is not None
        )
        text = super().formatMessage(record)
        return f"{text} {fields}" if fields else text


def configure(level: str) -> None:
    """Send log records to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pushq").setLevel(level)
    logging.getLogger("celery").setLevel("INFO" if level == "DEBUG" else "WARNING")
    logging.getLogger("celery.beat").setLevel("WARNING")
