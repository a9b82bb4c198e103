"""Headers of every answer: what browsers may do with it, and that nobody keeps it."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Scripts, styles and pictures from here and nowhere else, none of them inline; nobody frames a page or takes a form elsewhere.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

_ALWAYS: Final = tuple(
    (name.encode(), value.encode())
    for name, value in (
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        # Not "no-referrer": with that browsers send no usable Origin with a form.
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    )
)
_TLS: Final = (b"strict-transport-security", b"max-age=31536000")
_NO_STORE: Final = (b"cache-control", b"no-store")
_OURS: Final = frozenset(name for name, _ in (*_ALWAYS, _TLS))


class SecurityHeaders:
    """Around everything else. A route may say how long its answer may be kept; it cannot weaken the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        encrypted = scope.get("scheme") == "https"

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with_ours(list(message.get("headers", ())), encrypted)
            await send(message)

        await self._app(scope, receive, with_headers)


def _with_ours(theirs: list[tuple[bytes, bytes]], encrypted: bool) -> list[tuple[bytes, bytes]]:
    headers = [pair for pair in theirs if pair[0].lower() not in _OURS]
    headers += _ALWAYS
    if encrypted:
        headers.append(_TLS)
    if all(name.lower() != _NO_STORE[0] for name, _ in theirs):
        headers.append(_NO_STORE)
    return headers
