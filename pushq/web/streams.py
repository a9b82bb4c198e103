"""Answers that go on. What makes them is closed with them, and streams of events end with the key or session that opened them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pushq.errors import PushqError

#: In the request's state: whether who asked might still ask.
STILL_ALLOWED: Final = "still_allowed"


class Stream(StreamingResponse):
    """An answer whose parts come from an asynchronous generator.

    When the client goes away in mid-answer the generator is closed here and now; the framework would leave that to the garbage collector.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self.body_iterator, "aclose", None)
            if close is not None:
                await close()


class EndedAccess:
    """Around all routes: looks at each part of a stream of events. Where nothing is said for a while a comment is, so it looks often."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stream = ended = False

        async def watched(message: Message) -> None:
            nonlocal stream, ended
            if ended:
                # To whom goes on all the same it looks like a client that has gone.
                raise OSError("the key or session of this stream has ended")
            if message["type"] == "http.response.start":
                stream = any(
                    name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message.get("headers", ())
                )
            elif stream and message.get("more_body") and not await _still_allowed(scope):
                ended = True
                # The server says that the client has gone, and that ends the stream.
                message = {"type": "http.response.body", "body": b"", "more_body": False}
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
