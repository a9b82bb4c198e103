"""The hash partitions of `device_tokens`: their names, and which of them holds a user. Pure.

A walk over all devices takes one partition after the other: each page then reads one index in its order.
"""

from __future__ import annotations

from typing import Final

PARTITIONS: Final = 16

_MASK: Final = 0xFFFFFFFF
#: PostgreSQL's HASH_PARTITION_SEED, its two halves; and what ``hash_combine64`` adds to the hash of a first column.
_SEED_HIGH: Final = 0x7A5B2236
_SEED_LOW: Final = 0x7996DCFD
_COMBINED: Final = 0x49A0F4DD15E5A8E3
#: Where all three words of a 4 byte key's hash begin: 0x9e3779b9 + 4 + 3923095.
_START: Final = (0x9E3779B9 + 4 + 3923095) & _MASK


def partition_names() -> list[str]:
    """In the order of their numbers; fit to be put into a statement."""
    return [partition_name(number) for number in range(PARTITIONS)]


def partition_name(number: int) -> str:
    return f"device_tokens_p{number:02d}"


def partition_of(user_id: int) -> int:
    """The number of the partition that holds this user's devices, as PostgreSQL computes it.

    Bob Jenkins' lookup3 with PostgreSQL's seed for hash partitions (``hashint8extended`` in its sources). PostgreSQL cannot change it
    without moving everybody's rows, so it has been the same since version 11.
    """
    low, high = user_id & _MASK, (user_id >> 32) & _MASK
    return (_hashed(low ^ (high if user_id >= 0 else ~high & _MASK)) + _COMBINED) % PARTITIONS


def _rotated(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (32 - bits))) & _MASK


def _seeded() -> tuple[int, int, int]:
    """The three words after the seed was mixed in: the same for every key."""
    a, b, c = (_START + _SEED_HIGH) & _MASK, (_START + _SEED_LOW) & _MASK, _START
    for first, second, third in ((4, 6, 8), (16, 19, 4)):
        a = ((a - c) & _MASK) ^ _rotated(c, first)
        c = (c + b) & _MASK
        b = ((b - a) & _MASK) ^ _rotated(a, second)
        a = (a + c) & _MASK
        c = ((c - b) & _MASK) ^ _rotated(b, third)
        b = (b + a) & _MASK
    return a, b, c


_A, _B, _C = _seeded()


def _hashed(key: int) -> int:
    """The 64 bits of a 4 byte key's hash."""
    a, b, c = (_A + key) & _MASK, _B, _C
    c = ((c ^ b) - _rotated(b, 14)) & _MASK
    a = ((a ^ c) - _rotated(c, 11)) & _MASK
    b = ((b ^ a) - _rotated(a, 25)) & _MASK
    c = ((c ^ b) - _rotated(b, 16)) & _MASK
    a = ((a ^ c) - _rotated(c, 4)) & _MASK
    b = ((b ^ a) - _rotated(a, 14)) & _MASK
    c = ((c ^ b) - _rotated(b, 24)) & _MASK
    return (b << 32) | c
