"""Header blocks of answers: what the core must know of them, with as little decoding as HPACK allows.

A peer that obeys our SETTINGS_HEADER_TABLE_SIZE = 0 opens its next block with a table size update to 0; from then on
every block stands alone, and the first octet of an answer is its status. Until that update has been seen, or for ever
if the peer ignores the setting or was not asked, every block that touches the table has to pass through the stateful decoder
in its order.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpack import Decoder
from hpack.exceptions import HPACKError

from pushq.http2.errors import PeerViolation
from pushq.http2.frames import DEFAULT_HEADER_TABLE_SIZE, ErrorCode

#: ``:status: 200`` as a reference into the static table.
STATUS_200 = 0x88
#: A dynamic table size update to 0.
_TABLE_EMPTIED = 0x20

#: The decoded size that is still accepted; announced as MAX_HEADER_LIST_SIZE.
MAX_HEADER_LIST_SIZE = 65_536
#: Blocks remembered while the table does not change.
_REMEMBERED_BLOCKS = 64

Fields = Sequence[tuple[bytes, bytes]]

STATUS_200_FIELDS: Fields = ((b":status", b"200"),)
_STATIC_COUNT = 61


class ResponseDecoder:
    """The decoding half of one connection's HPACK state.

    Attributes:
        stateless: every block from now on stands alone.
    """

    def __init__(self, announced_table_size: int) -> None:
        self._wants_stateless = announced_table_size == 0
        self._decoder = Decoder(max_header_list_size=MAX_HEADER_LIST_SIZE)
        # What the peer may still use until it has seen our SETTINGS.
        self._decoder.max_allowed_table_size = max(announced_table_size, DEFAULT_HEADER_TABLE_SIZE)
        self._remembered: dict[bytes, Fields] = {}
        self.stateless = False

    def decode(self, block: bytes) -> Fields:
        """The fields of a block, in order.

        Raises:
            PeerViolation: COMPRESSION_ERROR; the connection's state cannot be recovered.
        """
        remembered = self._remembered.get(block)
        if remembered is not None:
            return remembered
        table = self._decoder.header_table
        newest = table.dynamic_entries[0] if table.dynamic_entries else None
        count, limit = len(table.dynamic_entries), table.maxsize
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except HPACKError as error:
            raise PeerViolation(
                ErrorCode.COMPRESSION_ERROR, f"header block: {type(error).__name__}: {error}"
            ) from error

        if self._wants_stateless and block[:1] == bytes((_TABLE_EMPTIED,)) and table.maxsize == 0:
            self.stateless = True
            self._decoder.max_allowed_table_size = 0
        newest_now = table.dynamic_entries[0] if table.dynamic_entries else None
        if newest_now is newest and len(table.dynamic_entries) == count and table.maxsize == limit:
            if len(self._remembered) >= _REMEMBERED_BLOCKS:
                self._remembered.clear()
            self._remembered[block] = fields
        else:
            self._remembered.clear()
        return fields


def stands_alone(block: bytes) -> bool:
    """Whether a block neither reads nor changes the dynamic table: only static references and unindexed literals.

    Such a block may be skipped in any state. False is always safe, and is the answer for what is rare or damaged.
    """
    offset, size = 0, len(block)
    try:
        while offset < size:
            octet = block[offset]
            offset += 1
            if octet & 0x80:
                if not 0 < octet & 0x7F <= _STATIC_COUNT:
                    return False
                continue
            if octet & 0x60:  # inserts, or resizes the table
                return False
            index = octet & 0x0F
            if index == 0x0F:
                index += block[offset]
                offset += 1
                if index > _STATIC_COUNT:
                    return False
            strings = 1 if index else 2
            for _ in range(strings):
                length = block[offset] & 0x7F
                if length == 0x7F:
                    return False
                offset += 1 + length
    except IndexError:
        return False
    return offset == size


def status_of(fields: Fields) -> int | None:
    """The status, or None if the block has none that is valid (section 8.3.2)."""
    statuses = [value for name, value in fields if name == b":status"]
    if len(statuses) != 1 or fields[0][0] != b":status" or len(statuses[0]) != 3 or not statuses[0].isdigit():
        return None
    status = int(statuses[0])
    return status if status >= 100 else None


def headers_of(fields: Fields) -> dict[str, str]:
    """Regular fields by lower-case name; repeated ones joined as section 5.3 of RFC 9110 allows."""
    headers: dict[str, str] = {}
    for name, value in fields:
        if name.startswith(b":"):
            continue
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
