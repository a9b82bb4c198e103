"""The sending half of a connection: requests as frames, and the windows that they must fit.

Nearly always a request fits at once, and many are packed together. One that does not (a body larger than the stream's
window or a frame, or a connection window that nobody is left to open) is sent in pieces as the peer opens its windows.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from pushq.http2 import packing
from pushq.http2.burst import Burst
from pushq.http2.errors import PeerViolation
from pushq.http2.frames import (
    DEFAULT_WINDOW,
    MAX_WINDOW,
    MIN_MAX_FRAME_SIZE,
    ErrorCode,
    data_frames,
    header_frames,
    rst_stream,
)
from pushq.http2.peer import PeerSettings
from pushq.http2.templates import TemplateEncoder

#: Frames that the peer provoked and that wait to be written. One that makes us answer faster than it reads is closed.
CONTROL_BACKLOG = 128 * 1024


@dataclass(slots=True)
class _PartialBody:
    """A request of which the windows let only a part through. The window may be negative (RFC 9113 section 6.9.2)."""

    body: bytes
    offset: int
    window: int


class Outgoing:
    """What is to be written, in order.

    Attributes:
        encoder: the request headers' HPACK state.
        window: octets of DATA that the peer will take on this connection.
        partial: by stream, what the windows have not let through yet.
    """

    def __init__(self, authority: bytes, peer: PeerSettings) -> None:
        self.encoder = TemplateEncoder(authority)
        self.window = DEFAULT_WINDOW
        self._peer = peer
        self._parts: list[bytes] = []
        self._control_size = 0
        self.partial: dict[int, _PartialBody] = {}

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self) -> bytes:
        """Everything so far; the caller owns it now."""
        data = b"".join(self._parts)
        self.clear()
        return data

    def clear(self) -> None:
        self._parts.clear()
        self._control_size = 0

    def put(self, data: bytes) -> None:
        self._parts.append(data)

    def put_provoked(self, data: bytes) -> None:
        """Queue a frame that the peer made us send.

        Raises:
            PeerViolation: it does so faster than it reads.
        """
        self._parts.append(data)
        self._control_size += len(data)
        if self._control_size > CONTROL_BACKLOG:
            raise PeerViolation(
                ErrorCode.ENHANCE_YOUR_CALM, "control frames come faster than their answers are read"
            )

    def put_requests(self, burst: Burst, room: int, first_id: int, *, alone: bool) -> int:
        """Queue at most ``room`` of the burst's next requests on consecutive streams.

        ``alone``: no other stream is open.

        Returns:
            how many; 0 when the windows do not allow one now.
        """
        largest = min(self._peer.initial_window_size, MIN_MAX_FRAME_SIZE)
        count = packing.fitting(burst.bodies, burst.cursor, room, self.window, largest)
        if count:
            self._put_packed(burst, count, first_id)
            return count
        body = _body(burst, burst.cursor)
        # In pieces it holds a stream meanwhile, so it waits for the connection window while there is hope that others open it:
        # others in flight. Without those the peer may see no reason for a WINDOW_UPDATE before we use up what is left.
        if len(body) <= self.window or (alone and self.window > 0):
            self._put_piecewise(burst, body, first_id)
            return 1
        return 0

    def _put_packed(self, burst: Burst, count: int, first_id: int) -> None:
        start, stop = burst.cursor, burst.cursor + count
        encoded = self.encoder.encode(burst.template, with_target=burst.targets is not None)
        plain = packing.largest_block(encoded, burst, start, stop) <= MIN_MAX_FRAME_SIZE
        singles = count if not plain else 1 if encoded.teaches else 0
        for index in range(start, start + singles):
            block = packing.block(encoded, burst, index, first=index == start)
            body = _body(burst, index)
            self._parts.append(
                header_frames(first_id, block, self._peer.max_frame_size, end_stream=False)
                + data_frames(first_id, body, self._peer.max_frame_size, end_stream=True)
            )
            first_id += 2
        if isinstance(burst.bodies, bytes):
            self.window -= len(burst.bodies) * count
        else:
            self.window -= sum(map(len, burst.bodies[start:stop]))
        start += singles
        if start < stop:
            self._parts.append(packing.requests(encoded, burst, start, stop, first_id))

    def _put_piecewise(self, burst: Burst, body: bytes, stream_id: int) -> None:
        encoded = self.encoder.encode(burst.template, with_target=burst.targets is not None)
        block = packing.block(encoded, burst, burst.cursor, first=True)
        self._parts.append(header_frames(stream_id, block, self._peer.max_frame_size, end_stream=not body))
        if body:
            self.partial[stream_id] = _PartialBody(body, 0, self._peer.initial_window_size)
            self._continue_bodies()

    def _continue_bodies(self) -> None:
        for stream_id, partial in list(self.partial.items()):
            size = min(partial.window, self.window, len(partial.body) - partial.offset)
            if size <= 0:
                continue
            end = partial.offset + size
            piece = partial.body[partial.offset : end]
            finished = end == len(partial.body)
            self._parts.append(data_frames(stream_id, piece, self._peer.max_frame_size, end_stream=finished))
            partial.offset = end
            partial.window -= size
            self.window -= size
            if finished:
                del self.partial[stream_id]

    def open_window(self, increment: int) -> None:
        """The peer's WINDOW_UPDATE for the connection."""
        if increment == 0:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        self.window += increment
        if self.window > MAX_WINDOW:
            raise PeerViolation(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE lifts the window over 2**31-1")
        self._continue_bodies()

    def open_stream_window(self, stream_id: int, increment: int) -> ErrorCode:
        """The peer's WINDOW_UPDATE for a stream; anything but NO_ERROR must end that stream."""
        if increment == 0:
            return ErrorCode.PROTOCOL_ERROR
        partial = self.partial.get(stream_id)
        if partial is None:
            return ErrorCode.NO_ERROR  # its body is on the way, the window is of no use any more
        if partial.window + increment > MAX_WINDOW:
            return ErrorCode.FLOW_CONTROL_ERROR
        partial.window += increment
        self._continue_bodies()
        return ErrorCode.NO_ERROR

    def move_stream_windows(self, change: int) -> None:
        """The peer's INITIAL_WINDOW_SIZE has changed by so much."""
        for partial in self.partial.values():
            partial.window += change
            if partial.window > MAX_WINDOW:
                raise PeerViolation(
                    ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE lifts a window over 2**31-1"
                )
        self._continue_bodies()

    def cancel_bodies(self, open_streams: Container[int]) -> None:
        """Reset the streams whose answer came before the request was complete: the rest is not wanted."""
        for stream_id in [waiting for waiting in self.partial if waiting not in open_streams]:
            del self.partial[stream_id]
            self._parts.append(rst_stream(stream_id, ErrorCode.CANCEL))

    def forget_body(self, stream_id: int) -> None:
        """The stream was reset."""
        self.partial.pop(stream_id, None)


def _body(burst: Burst, index: int) -> bytes:
    return burst.bodies if isinstance(burst.bodies, bytes) else burst.bodies[index]
