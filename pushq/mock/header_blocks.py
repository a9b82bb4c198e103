"""Request header blocks, read fast when they look like the one before.

Clients that send a million pushes send a million header blocks which differ only in the device token and the ``apns-id``.
A block whose other bytes are known, under the same dynamic table, means the same headers: only the differing values are cut
out. Everything else goes through hpack, which also keeps the dynamic table (sizes, evictions, Huffman).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hpack import Decoder
from hpack.exceptions import HPACKError

from pushq.mock.exchange import Headers

# A client uses a few kinds of requests at a time; one that never repeats a block must not fill memory.
MAX_REMEMBERED = 256
PATH_INDEXES = (4, 5)
NAME_APNS_ID = b"apns-id"


class CompressionError(Exception):
    """A header block that cannot be decoded: the connection is lost (RFC 9113, 4.3)."""


@dataclass(slots=True, eq=False)
class HeaderGroup:
    """Requests with the same headers but for device token and ``apns-id``.

    ``path`` is complete, or the prefix that the token follows. ``good`` holds what is left of bodies that were accepted with
    these headers; with ``good_until`` (UNIX seconds) and ``shapes`` (how to read many at once, by octets of the block and of the
    body, and the rest of the body) it is the engine's memory, not this module's. ``repeats``: path or ``apns-id`` came more than once.
    """

    method: str
    path: str
    headers: Headers
    good: set[bytes] = field(default_factory=set)
    good_until: float = 0.0
    repeats: bool = False
    shapes: dict[tuple[int, int, bytes], Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Layout:
    """Where the varying values of a block stand: ``[a:b]`` is the token, ``[c:d]`` the ``apns-id`` (either may be empty).

    ``repeated`` is the engine's: the rest of the body that came last, and how often in a row.
    """

    a: int
    b: int
    c: int
    d: int
    before: bytes
    between: bytes
    after: bytes
    group: HeaderGroup
    repeated: tuple[bytes, int] = (b"", 0)


class HeaderBlocks:
    """The blocks of one connection, in the order of arrival.

    Args:
        path_prefix: the part of the path that a device token follows, or None when the token is elsewhere.
    """

    def __init__(self, path_prefix: bytes | None) -> None:
        self._decoder = Decoder()
        self._prefix = path_prefix
        self._groups: dict[tuple[bytes, bytes, bytes], HeaderGroup] = {}
        # Length of a block -> layout of the last block of that length. The engine looks here first.
        self.layouts: dict[int, Layout] = {}

    def forget(self) -> None:
        """Nothing that was good before is known to be good now."""
        for group in self._groups.values():
            group.good.clear()
        self._groups.clear()
        self.layouts.clear()

    def read(self, block: bytes) -> tuple[HeaderGroup, bytes, bytes]:
        """The headers, the token from the path and the ``apns-id`` (both ``b""`` where they stand in the headers).

        Raises:
            CompressionError: not decodable; the connection cannot go on.
        """
        slots = self._slots(block)
        if slots is None:
            # The block may change the dynamic table, and then equal bytes no longer mean equal headers.
            self.forget()
            return self._decode(block), b"", b""
        a, b, c, d = slots
        key = (block[:a], block[b:c], block[d:])
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= MAX_REMEMBERED:
                self.forget()
            group = self._decode(block)
            if group.repeats:
                # One of the two stands in the dynamic table, where the slots do not see it: nothing is cut out.
                a = b = c = d = len(block)
                key = (block, b"", b"")
            if b > a and self._prefix is not None:
                group.path = self._prefix.decode()
            if d > c:
                group.headers = tuple(header for header in group.headers if header[0] != "apns-id")
            self._groups[key] = group
        if len(self.layouts) >= MAX_REMEMBERED:
            self.layouts.clear()
        self.layouts[len(block)] = Layout(a, b, c, d, *key, group)
        return group, block[a:b], block[c:d]

    def _decode(self, block: bytes) -> HeaderGroup:
        method = path = ""
        headers: list[tuple[str, str]] = []
        try:
            decoded = list(self._decoder.decode(block, raw=True))
        except HPACKError as error:
            raise CompressionError(str(error)) from error
        for raw_name, raw_value in decoded:
            name, value = bytes(raw_name).decode("latin-1"), bytes(raw_value).decode("latin-1")
            if name == ":path":
                path = value
            elif name == ":method":
                method = value
            elif not name.startswith(":"):
                headers.append((name, value))
        names = [bytes(name) for name, _ in decoded]
        repeats = names.count(b":path") > 1 or names.count(NAME_APNS_ID) > 1
        return HeaderGroup(method, path, tuple(headers), repeats=repeats)

    def _slots(self, block: bytes) -> tuple[int, int, int, int] | None:
        """Bounds of the token and of the ``apns-id`` in the block, or None when it touches the dynamic table.

        Values that are Huffman-coded or out of place stay part of the block: only what is cut out can vary cheaply.
        """
        end = len(block)
        token = apns_id = None
        at = 0
        try:
            while at < end:
                octet = block[at]
                if octet & 0x80:
                    _, at = _integer(block, at, 0x7F)
                    continue
                if octet & 0x60:
                    return None
                index, at = _integer(block, at, 0x0F)
                name = b""
                if not index:
                    huffman_name = block[at] & 0x80
                    length, at = _integer(block, at, 0x7F)
                    name = b"" if huffman_name else block[at : at + length]
                    at += length
                plain = not block[at] & 0x80
                length, at = _integer(block, at, 0x7F)
                start, at = at, at + length
                if not plain:
                    continue
                if (
                    index in PATH_INDEXES
                    and self._prefix is not None
                    and block.startswith(self._prefix, start, at)
                ):
                    twice, token = token is not None, (start + len(self._prefix), at)
                elif name == NAME_APNS_ID or (index > 61 and self._indexed_name(index) == NAME_APNS_ID):
                    twice, apns_id = apns_id is not None, (start, at)
                else:
                    continue
                if twice:
                    return end, end, end, end
        except IndexError:
            # Truncated: hpack says so in its own words.
            return 0, 0, end, end
        if at != end or (token and apns_id and apns_id < token):
            return end, end, end, end
        a, b = token or (0, 0)
        c, d = apns_id or (end, end)
        return a, b, c, d

    def _indexed_name(self, index: int) -> bytes:
        try:
            return bytes(self._decoder.header_table.get_by_index(index)[0])
        except HPACKError:
            return b""


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """A prefixed integer (RFC 7541, 5.1) and the position after it."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            return value, at
        if shift > 28:
            raise IndexError
