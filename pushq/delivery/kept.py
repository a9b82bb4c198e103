"""Sends that a process has read, so that not every batch reads its own again."""

from __future__ import annotations

import sys
import uuid
from typing import Final

from pushq.ledger.sends import Send

_SENDS: Final = 256
#: Of what calls say of their recipients: a megabyte of it as JSON is several in memory, and each send may bring one.
_VALUE_BYTES: Final = 16 << 20


class KeptSends:
    """The sends read last, as many as fit.

    Args:
        most: how many.
        value_bytes: what their values may take together. A send that takes more by itself is kept until the next one comes.
    """

    def __init__(self, *, most: int = _SENDS, value_bytes: int = _VALUE_BYTES) -> None:
        self._most, self._value_bytes = most, value_bytes
        self._sends: dict[uuid.UUID, tuple[Send, int]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sends)

    def get(self, send_id: uuid.UUID, version: int) -> Send | None:
        """None: not kept, or not in this version."""
        send, _ = self._sends.get(send_id, (None, 0))
        return send if send is not None and send.version == version else None

    def keep(self, send: Send) -> None:
        self._drop(send.id)
        size = _size(send)
        self._sends[send.id] = send, size
        self._bytes += size
        while len(self._sends) > 1 and (len(self._sends) > self._most or self._bytes > self._value_bytes):
            self._drop(next(iter(self._sends)))

    def _drop(self, send_id: uuid.UUID) -> None:
        _, size = self._sends.pop(send_id, (None, 0))
        self._bytes -= size


def _size(send: Send) -> int:
    """Roughly, in bytes. Names are shared among recipients, values are texts and numbers."""
    return sum(
        sys.getsizeof(values) + sum(map(sys.getsizeof, values.values())) for values in send.values.values()
    )
