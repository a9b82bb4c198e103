"""What the peer has told us in SETTINGS."""

from __future__ import annotations

from dataclasses import dataclass

from pushq.http2.errors import PeerViolation
from pushq.http2.frames import (
    DEFAULT_HEADER_TABLE_SIZE,
    DEFAULT_WINDOW,
    MAX_MAX_FRAME_SIZE,
    MAX_WINDOW,
    MIN_MAX_FRAME_SIZE,
    SETTING,
    ErrorCode,
    Setting,
)

#: Lowest and highest legal value from a server, and the error for anything else (RFC 9113 section 6.5.2).
_RANGES: dict[int, tuple[int, int, ErrorCode]] = {
    Setting.ENABLE_PUSH: (0, 0, ErrorCode.PROTOCOL_ERROR),
    Setting.INITIAL_WINDOW_SIZE: (0, MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR),
    Setting.MAX_FRAME_SIZE: (MIN_MAX_FRAME_SIZE, MAX_MAX_FRAME_SIZE, ErrorCode.PROTOCOL_ERROR),
}


@dataclass(slots=True)
class PeerSettings:
    """Values in force, RFC defaults until the peer says otherwise.

    ``max_concurrent_streams`` None means that the peer named no limit; ``received`` that its first SETTINGS came.
    """

    received: bool = False
    header_table_size: int = DEFAULT_HEADER_TABLE_SIZE
    max_concurrent_streams: int | None = None
    initial_window_size: int = DEFAULT_WINDOW
    max_frame_size: int = MIN_MAX_FRAME_SIZE

    def apply(self, payload: bytes) -> list[tuple[int, int]]:
        """Apply a SETTINGS payload; unknown settings are ignored. Returns the (setting, value) pairs as they came.

        Raises:
            PeerViolation: a length or value that RFC 9113 forbids.
        """
        if len(payload) % SETTING.size:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} octets")
        self.received = True
        pairs: list[tuple[int, int]] = list(SETTING.iter_unpack(payload))
        for key, value in pairs:
            if key in _RANGES:
                low, high, error = _RANGES[key]
                if not low <= value <= high:
                    raise PeerViolation(error, f"{Setting(key).name} = {value}")
            if key == Setting.HEADER_TABLE_SIZE:
                self.header_table_size = value
            elif key == Setting.MAX_CONCURRENT_STREAMS:
                self.max_concurrent_streams = value
            elif key == Setting.INITIAL_WINDOW_SIZE:
                self.initial_window_size = value
            elif key == Setting.MAX_FRAME_SIZE:
                self.max_frame_size = value
        return pairs
