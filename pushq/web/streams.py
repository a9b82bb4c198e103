"""Streams of events end when the key or the session that opened them does, not when the stream would have ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pushq.errors import PushqError

#: In the request's state: whether who asked might still ask.
STILL_ALLOWED: Final = "still_allowed"


class EndedAccess:
    """Around all routes: looks at each part of a stream of events. Where nothing is said for a while a comment is, so it looks often."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stream = False

        async def watched(message: Message) -> None:
            nonlocal stream
            if message["type"] == "http.response.start":
                stream = any(
                    name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message.get("headers", ())
                )
            elif stream and message.get("more_body") and not await _still_allowed(scope):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                # To whom the stream belongs this looks like a client that has gone.
                raise OSError("the key or session of this stream has ended")
            await send(message)

        await self._app(scope, receive, watched)


async def _still_allowed(scope: Scope) -> bool:
    ask: Callable[[], Awaitable[bool]] | None = scope.get("state", {}).get(STILL_ALLOWED)
    if ask is None:
        return True  # nobody was asked for a key
    try:
        return await ask()
    except PushqError:
        return False  # nobody knows: the client asks again and gets an answer that says so
