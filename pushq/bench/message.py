"""What is sent: the headers of an APNs worker and bodies of any size.

Apart from the bursts, so that other clients can send the same without loading ours.
"""

from __future__ import annotations

from collections.abc import Sequence

#: What an APNs worker sends; the credential has the length of a real one.
DEFAULT_HEADERS = (
    ("authorization", "bearer " + "x" * 180),
    ("apns-topic", "com.example.app"),
    ("apns-push-type", "alert"),
    ("apns-priority", "10"),
    ("apns-expiration", "0"),
)
_BODY_HEAD = b'{"aps":{"alert":{"title":"Sale","body":"'
_BODY_TAIL = b'"}}}'
#: What differs between distinct bodies: 16 digits that belong to the burst and 8 that count.
_BODY_DIGITS = 24
MIN_BODY_BYTES = len(_BODY_HEAD) + _BODY_DIGITS + len(_BODY_TAIL)


def shared_body(size: int) -> bytes:
    """A JSON object of ``size`` octets, at least MIN_BODY_BYTES."""
    return _BODY_HEAD + b"." * (size - len(_BODY_HEAD) - len(_BODY_TAIL)) + _BODY_TAIL


def bodies_of(size: int, digits: bytes, tails: Sequence[bytes]) -> list[bytes]:
    """One per tail, each of ``size`` octets and different: with the first 16 of ``digits`` and its tail of 8 in the text."""
    front = shared_body(size)[: size - len(_BODY_TAIL) - _BODY_DIGITS] + digits[:16]
    return [front + tail + _BODY_TAIL for tail in tails]
