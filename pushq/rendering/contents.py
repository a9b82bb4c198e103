"""What each of many recipients gets, as bytes.

A message is written down once for each variant, with marks where values will go, and the bytes are cut at the marks. A recipient's
content is then pieces joined around his values: what the provider's own builder would have written for him, at the price of a join.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

M = TypeVar("M")


@dataclass(frozen=True)
class Format(Generic[M]):
    """How a platform writes a message down, and how much it takes.

    Attributes:
        write: from a message without variants and placeholders to the bytes of a JSON document; nothing in it differs by recipient.
            It is also called with texts that have marks where values will go, so it must hand texts on as they are: no cutting, no
            escapes but JSON's (JSON inside of a JSON text is understood).
        measure: bytes of such a message as the platform counts them.
        limit: how many it takes.
    """

    write: Callable[[M], bytes]
    measure: Callable[[M], int]
    limit: int
