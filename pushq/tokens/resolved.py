"""What a batch needs to know of its devices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self


@dataclass(slots=True)
class Resolved:
    """The lists are aligned with the ids asked for.

    Attributes:
        tokens: None where the device is no longer an active one of that user, app and platform.
        attributes: None where there are none.
        hits: positions answered by the cache.
        misses: positions that PostgreSQL had to answer.
    """

    tokens: list[bytes | None]
    environments: list[str | None]
    languages: list[str | None]
    attributes: list[dict[str, Any] | None]
    hits: int = 0
    misses: int = 0

    @classmethod
    def joined(cls, parts: Iterable[Resolved]) -> Self:
        whole = cls([], [], [], [])
        for part in parts:
            whole.tokens += part.tokens
            whole.environments += part.environments
            whole.languages += part.languages
            whole.attributes += part.attributes
            whole.hits += part.hits
            whole.misses += part.misses
        return whole
