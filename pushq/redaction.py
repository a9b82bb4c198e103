"""What must not stand in a log line or a trace: known secrets, and text with the shape of one.

The code that logs leaves secrets out; this is for text that is not ours: messages of libraries, of providers, of PostgreSQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from pushq.service_urls import ServiceUrl
from pushq.settings import Settings

MASK: Final = "***"
#: A shorter password is also part of ordinary words, and masking it would make lines unreadable and tell its length.
SHORTEST_KNOWN: Final = 8
#: Characters of one text that are kept.
LONGEST: Final = 8_000

_SHAPES: Final = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | \beyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?      # a JWT: APNs' provider token, an assertion for OAuth
    | \bya29\.[\w.-]+                               # Google's access tokens
    | \bpushq_[0-9a-f]{16}_[0-9A-Za-z]{43}          # an API key
    | \b(?i:bearer)\s+[\w.~+/=-]{20,}
    | \b[0-9a-fA-F]{64,}\b                          # an APNs device token
    | [\w:-]{100,}                                  # a device token of FCM or HMS
    | (?<=://)[^\s/@]+(?=@)                         # a user and a password in a URL
    """,
    re.VERBOSE | re.DOTALL,
)


def passwords(settings: Settings) -> list[str]:
    """The passwords in the settings' URLs, as written and decoded."""
    values = (getattr(settings, name) for name in Settings.model_fields)
    return sorted(frozenset().union(*(one.passwords() for one in values if isinstance(one, ServiceUrl))))


class Redactor:
    """Masks secrets in texts.

    Args:
        known: secrets to look for; those below eight characters are left out.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        long = sorted({one for one in known if len(one) >= SHORTEST_KNOWN}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, long))) if long else None

    def text(self, text: str) -> str:
        """``text`` without secrets, and its end alone when it is very long (a traceback's end says what happened)."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        # Cut at the end: half a secret has no shape any more.
        text = _SHAPES.sub(MASK, text)
        return f"[...] {text[-LONGEST:]}" if len(text) > LONGEST else text

    def value(self, value: object) -> object:
        """The same for a field of a log line: numbers stay, texts inside of lists and mappings are cleaned, the rest is shown as text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {str(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item) for item in value]
        return self.text(str(value))
