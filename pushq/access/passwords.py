"""Passwords of the console's users, kept as scrypt (RFC 7914)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import unicodedata
from typing import Final

from pushq.errors import InvalidRequest

#: 32 MiB and about a tenth of a second for each try. In the stored text, so that it can grow later.
N: Final = 2**15
R: Final = 8
P: Final = 1
_MAXMEM: Final = 64 * 2**20
SHORTEST: Final = 12
LONGEST: Final = 256


def check_password(password: str, name: str) -> None:
    """Raise :class:`~pushq.errors.InvalidRequest` for one that is too short, too long or the user's own name. Never shows it."""
    expected = f"{SHORTEST} to {LONGEST} characters; several random words are good"
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidRequest("password", f"{len(password)} characters", expected)
    if name.casefold() in password.casefold() and len(password) < len(name) + 8:
        raise InvalidRequest("password", "the user's name with little else", expected)
    if len(set(password)) < 5:
        raise InvalidRequest("password", "hardly any different characters", expected)


def hashed(password: str) -> str:
    """What is stored: ``scrypt$N$r$p$salt$hash``."""
    salt = secrets.token_bytes(16)
    parts = (str(N), str(R), str(P), _text(salt), _text(_scrypt(password, salt, N, R, P)))
    return "$".join(("scrypt", *parts))


#: Checked in the place of a user who does not exist, so that the answer takes as long.
NOBODY: Final = "$".join(("scrypt", str(N), str(R), str(P), "A" * 22 + "==", "A" * 43 + "="))


def matches(password: str, stored: str) -> bool:
    """Whether this is the password, in constant time; takes about a tenth of a second and lets other threads run meanwhile."""
    kind, n, r, p, salt, expected = stored.split("$")
    if kind != "scrypt":
        raise ValueError(f"password hash of kind {kind!r}; expected scrypt")
    found = _scrypt(password[: LONGEST + 1], base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, base64.b64decode(expected))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # The same letter can be typed as one character or as two.
    typed = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(typed, salt=salt, n=n, r=r, p=p, maxmem=_MAXMEM, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
