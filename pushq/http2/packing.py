"""A slice of a burst as octets: HEADERS and DATA of many requests, joined.

Only the common shape is packed here: the block fits one frame, the body fits one frame and the windows. Everything is
done by column (stream ids, targets, bodies) inside ``zip``, ``map`` and ``join``; a Python statement per request would cost more than the rest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, repeat

from pushq.http2.burst import Burst
from pushq.http2.frames import END_HEADERS, END_STREAM, UINT32, FrameType
from pushq.http2.templates import Encoded, LengthPrefixed

_HEADERS_END = bytes((FrameType.HEADERS, END_HEADERS))
_DATA_END = bytes((FrameType.DATA, END_STREAM))


class _FrameHeads(dict[int, bytes]):
    """The five octets of a frame's head before the stream id, by length."""

    def __init__(self, kind_and_flags: bytes) -> None:
        super().__init__()
        self._tail = kind_and_flags

    def __missing__(self, length: int) -> bytes:
        # Bounded: lengths beyond a frame (16 KiB) never get here.
        head = self[length] = UINT32.pack(length)[1:] + self._tail
        return head


_HEADERS_HEAD = _FrameHeads(_HEADERS_END)
_DATA_HEAD = _FrameHeads(_DATA_END)


def fitting(bodies: bytes | Sequence[bytes], start: int, room: int, window: int, largest: int) -> int:
    """How many requests from ``start`` on can be packed: at most ``room``, together at most ``window`` octets of body,
    and none empty or larger than ``largest``. 0 means that the next one needs the slow way, or has to wait."""
    if isinstance(bodies, bytes):
        size = len(bodies)
        return min(room, window // size) if 0 < size <= largest else 0
    sizes = list(map(len, bodies[start : start + room]))
    if window < sum(sizes):
        del sizes[bisect_right(list(accumulate(sizes)), window) :]
    if sizes and (max(sizes) > largest or min(sizes) == 0):
        return next(position for position, size in enumerate(sizes) if size > largest or size == 0)
    return len(sizes)


def block(encoded: Encoded, burst: Burst, index: int, *, first: bool) -> bytes:
    """The header block of one request."""
    parts = [encoded.first_prefix if first else encoded.prefix]
    if encoded.path is not None and burst.targets is not None:
        target = burst.targets[index]
        parts += (encoded.path[len(target)], target)
    parts.append(encoded.first_suffix if first else encoded.suffix)
    if burst.values is not None:
        for heads, value in zip(encoded.varying, burst.values[index], strict=True):
            parts += (heads[len(value)], value)
    return b"".join(parts)


def largest_block(encoded: Encoded, burst: Burst, start: int, stop: int) -> int:
    """An upper bound for the size of the blocks of these requests."""
    size = len(encoded.prefix) + len(encoded.suffix)
    if encoded.path is not None and burst.targets is not None:
        longest = max(map(len, burst.targets[start:stop]))
        size += len(encoded.path[longest]) + longest
    for heads, column in zip(encoded.varying, burst.columns, strict=False):
        longest = max(map(len, column[start:stop]))
        size += len(heads[longest]) + longest
    return size


def requests(encoded: Encoded, burst: Burst, start: int, stop: int, first_id: int) -> bytes:
    """The requests ``start`` to ``stop`` as frames of consecutive streams, with the blocks that teach nothing."""
    count = stop - start
    ids = list(map(UINT32.pack, range(first_id, first_id + 2 * count, 2)))
    # A column is one value for all rows, or a value per row.
    columns: list[bytes | Sequence[bytes]] = [encoded.prefix]
    block_size: int | list[int] = len(encoded.prefix) + len(encoded.suffix)
    if encoded.path is not None and burst.targets is not None:
        block_size = _add_literals(columns, encoded.path, burst.targets[start:stop], block_size)
    columns.append(encoded.suffix)
    for heads, column in zip(encoded.varying, burst.columns, strict=False):
        block_size = _add_literals(columns, heads, column[start:stop], block_size)
    if isinstance(burst.bodies, bytes):
        columns += (_DATA_HEAD[len(burst.bodies)], ids, burst.bodies)
    else:
        bodies = burst.bodies[start:stop]
        columns += (list(map(_DATA_HEAD.__getitem__, map(len, bodies))), ids, bodies)
    headers_heads = (
        _HEADERS_HEAD[block_size]
        if isinstance(block_size, int)
        else list(map(_HEADERS_HEAD.__getitem__, block_size))
    )
    joined = _join_constants([headers_heads, ids, *columns])
    return b"".join(chain.from_iterable(zip(*joined, strict=False)))  # the ids are finite and end it


def _join_constants(columns: Sequence[bytes | Sequence[bytes]]) -> list[Iterable[bytes]]:
    """Neighbouring constants become one: fewer pieces per request."""
    joined: list[Iterable[bytes]] = []
    constant = b""
    for column in columns:
        if isinstance(column, bytes):
            constant += column
            continue
        if constant:
            joined.append(repeat(constant))
            constant = b""
        joined.append(column)
    if constant:
        joined.append(repeat(constant))
    return joined


def _add_literals(
    columns: list[bytes | Sequence[bytes]],
    heads: LengthPrefixed,
    values: Sequence[bytes],
    block_size: int | list[int],
) -> int | list[int]:
    """Append a literal's two columns; the sizes of the blocks with them, one number while they are all equal."""
    sizes = list(map(len, values))
    if len(set(sizes)) == 1:
        head = heads[sizes[0]]
        columns += (head, values)
        grown = len(head) + sizes[0]
        return block_size + grown if isinstance(block_size, int) else [size + grown for size in block_size]
    prefixes = [heads[size] for size in sizes]
    columns += (prefixes, values)
    before = repeat(block_size) if isinstance(block_size, int) else block_size
    return [size + len(prefix) + value for size, prefix, value in zip(before, prefixes, sizes, strict=False)]
