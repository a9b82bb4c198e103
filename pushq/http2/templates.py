"""Header templates and their HPACK encoding (RFC 7541) for one connection.

Requests of one template differ in the path's tail and a few short fields only. So a template is encoded once: what is
common becomes references into the connection's dynamic table, and a request is then ``prefix + path + suffix``.

The encoder is our own because three things are needed that hpack's has not: literals without indexing (its only other
choice is never-indexed), an encoding that is known not to change the table (so that it may be repeated for every
request), and no header values in a debug log (``authorization`` is one of them). hpack's decoder is the referee in the tests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hpack.table import HeaderTable

from pushq.errors import InvalidRequest
from pushq.http2.frames import DEFAULT_HEADER_TABLE_SIZE

#: An entry's size is its octets plus 32 (section 4.1).
_ENTRY_OVERHEAD = 32
_STATIC_COUNT = HeaderTable.STATIC_TABLE_LENGTH
_STATIC_FIELDS = {field: index for index, field in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
_STATIC_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}

_INDEXED, _INDEXED_BITS = 0x80, 7
_INSERTING, _INSERTING_BITS = 0x40, 6
_SIZE_UPDATE, _SIZE_UPDATE_BITS = 0x20, 5
_LITERAL, _LITERAL_BITS = 0x00, 4

#: Lower-case token characters (RFC 9110 section 5.6.2), which is all that a field name may have in HTTP/2.
_NAME_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
VALUE_BYTES = bytes(range(0x20, 0x7F)) + b"\t" + bytes(range(0x80, 0x100))
PATH_BYTES = bytes(range(0x21, 0x7F))

#: Encodings kept per connection. A worker uses a handful at a time; the bound is for the one that never ends.
_CACHED_TEMPLATES = 256


@dataclass(frozen=True, eq=False, repr=False)
class HeaderTemplate:
    """What many requests have in common. Compared by identity: share one object among bursts.

    ``:method`` POST, ``:scheme`` https and ``:authority`` (from the pool's origin) are implied.

    Attributes:
        path_prefix: ``b"/3/device/"``, or the whole path for a burst without targets.
        headers: regular headers in lower case, the same for all requests.
        varying: names of headers whose value differs per request (``b"apns-id"``). Sent as literals without indexing.
        unindexed: names among ``headers`` that must not enter the dynamic table (they change with every template).
    """

    path_prefix: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    varying: tuple[bytes, ...] = ()
    unindexed: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not self.path_prefix.startswith(b"/") or self.path_prefix.translate(None, PATH_BYTES):
            raise InvalidRequest(
                "template.path_prefix", repr(self.path_prefix)[:80], "a path: '/' and visible ASCII"
            )
        for name in (*(name for name, _ in self.headers), *self.varying):
            if not name or name.translate(None, _NAME_BYTES):
                raise InvalidRequest(
                    "template.headers", f"name {name!r}", "lower-case field names, no pseudo-header"
                )
        for name, value in self.headers:
            if value.translate(None, VALUE_BYTES) or value != value.strip(b" \t"):
                # The value may be a credential: never shown.
                raise InvalidRequest(
                    f"template.headers[{name.decode()}]",
                    "a control character or space at an end",
                    "visible characters",
                )

    def __repr__(self) -> str:
        """Without values: one of them is a credential."""
        names = b", ".join(name for name, _ in self.headers).decode()
        return f"<HeaderTemplate {self.path_prefix.decode()} [{names}]>"


def integer(value: int, prefix_bits: int, pattern: int = 0) -> bytes:
    """An HPACK integer (section 5.1) whose first octet carries ``pattern`` above the prefix."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((pattern | value,))
    octets = bytearray((pattern | limit,))
    value -= limit
    while value >= 128:
        octets.append(value & 127 | 128)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def string(value: bytes) -> bytes:
    """A string literal without Huffman coding, which would cost CPU per request to save a fifth of a token."""
    return integer(len(value), 7) + value


class LengthPrefixed(dict[int, bytes]):
    """``field name and length prefix`` by length of the value, made on first use: the rest of a literal is the value itself."""

    def __init__(self, head: bytes, constant: bytes = b"") -> None:
        """``constant`` is a beginning that all values share and that is not in their length."""
        super().__init__()
        self._head = head
        self._constant = constant

    def __missing__(self, length: int) -> bytes:
        prefix = self[length] = self._head + integer(len(self._constant) + length, 7) + self._constant
        return prefix


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Encoded:
    """A template as octets. A block is ``prefix, path[len(t)] + t, suffix, varying[0][len(v)] + v, ...``.

    Attributes:
        first_prefix, first_suffix: for the first block after the table has to learn something; equal to the others if not.
        path: None when the whole path stands in the prefix.
    """

    first_prefix: bytes
    first_suffix: bytes
    prefix: bytes
    suffix: bytes
    path: LengthPrefixed | None
    varying: tuple[LengthPrefixed, ...]

    @property
    def teaches(self) -> bool:
        """Whether the first block differs from the following ones because it changes the peer's table."""
        return self.first_prefix != self.prefix or self.first_suffix != self.suffix


class TemplateEncoder:
    """The encoding half of one connection's HPACK state.

    The blocks must be written to the connection in the order in which they were asked for.
    """

    def __init__(self, authority: bytes) -> None:
        self._authority = authority
        self._table: deque[tuple[bytes, bytes]] = deque()  # newest first, as the indices count
        self._size = 0
        self._limit = DEFAULT_HEADER_TABLE_SIZE
        self._pending_sizes: list[int] = []
        self._generation = 0
        self._cache: dict[tuple[HeaderTemplate, bool], tuple[int, Encoded]] = {}

    def limit_table(self, peer_limit: int) -> None:
        """Apply the peer's SETTINGS_HEADER_TABLE_SIZE. More than the default is never used."""
        limit = min(peer_limit, DEFAULT_HEADER_TABLE_SIZE)
        if limit == self._limit:
            return
        # The smallest size since the last block has to be announced as well as the final one (section 4.2).
        lowest = min([limit, *self._pending_sizes])
        self._pending_sizes = [lowest] if lowest == limit else [lowest, limit]
        self._limit = limit
        self._evict(limit)
        self._generation += 1

    def encode(self, template: HeaderTemplate, *, with_target: bool) -> Encoded:
        """The octets for the requests that follow. If they ``teach``, the very next block must be the first one."""
        key = (template, with_target)
        cached = self._cache.get(key)
        if cached is not None and cached[0] == self._generation:
            return cached[1]

        pseudo = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", self._authority)]
        if not with_target:
            pseudo.append((b":path", template.path_prefix))
        updates = b"".join(integer(size, _SIZE_UPDATE_BITS, _SIZE_UPDATE) for size in self._pending_sizes)
        self._pending_sizes = []
        first_prefix = updates + b"".join(self._field(field, insert=True) for field in pseudo)
        first_suffix = b"".join(
            self._field(field, insert=field[0] not in template.unindexed) for field in template.headers
        )
        encoded = Encoded(
            first_prefix=first_prefix,
            first_suffix=first_suffix,
            prefix=b"".join(self._field(field, insert=False) for field in pseudo),
            suffix=b"".join(self._field(field, insert=False) for field in template.headers),
            path=LengthPrefixed(self._literal_name(b":path"), template.path_prefix) if with_target else None,
            varying=tuple(LengthPrefixed(self._literal_name(name)) for name in template.varying),
        )
        if len(self._cache) >= _CACHED_TEMPLATES:
            self._cache.clear()
        # What is kept for next time teaches nothing any more.
        self._cache[key] = (
            self._generation,
            Encoded(
                encoded.prefix, encoded.suffix, encoded.prefix, encoded.suffix, encoded.path, encoded.varying
            ),
        )
        return encoded

    def _field(self, field: tuple[bytes, bytes], *, insert: bool) -> bytes:
        index = _STATIC_FIELDS.get(field) or self._dynamic_index(field)
        if index:
            return integer(index, _INDEXED_BITS, _INDEXED)
        name, value = field
        size = _ENTRY_OVERHEAD + len(name) + len(value)
        if not insert or size > self._limit:  # an entry larger than the table would only empty it
            return self._literal_name(name) + string(value)
        name_index = _STATIC_NAMES.get(name, 0)
        octets = integer(name_index, _INSERTING_BITS, _INSERTING)
        if not name_index:
            octets += string(name)
        self._evict(self._limit - size)
        self._table.appendleft(field)
        self._size += size
        self._generation += 1
        return octets + string(value)

    def _literal_name(self, name: bytes) -> bytes:
        """The head of a literal without indexing. Names are taken from the static table only: those indices never move."""
        index = _STATIC_NAMES.get(name, 0)
        octets = integer(index, _LITERAL_BITS, _LITERAL)
        return octets if index else octets + string(name)

    def _dynamic_index(self, field: tuple[bytes, bytes]) -> int:
        for position, entry in enumerate(self._table, _STATIC_COUNT + 1):
            if entry == field:
                return position
        return 0

    def _evict(self, room: int) -> None:
        while self._size > room:
            name, value = self._table.pop()
            self._size -= _ENTRY_OVERHEAD + len(name) + len(value)
