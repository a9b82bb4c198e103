"""What makes two device tokens the same token, and the only form in which a log may show one."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID


def token_hash(app: str, platform: str, environment: str, token: str) -> UUID:
    """The identity of a token: the first 16 bytes of sha256 over its four parts, joined by NUL."""
    return UUID(bytes=sha256(f"{app}\0{platform}\0{environment}\0{token}".encode()).digest()[:16])


def short_hash(token: str | bytes) -> str:
    """What logs show instead of a token: the first 8 hex digits of its sha256."""
    return sha256(token.encode() if isinstance(token, str) else token).hexdigest()[:8]
