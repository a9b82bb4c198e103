"""An application for the ASGI servers among the referees: 200 if the body is the one whose SHA-256 stands in the path, else 409.

``/gone/...`` is answered with 410 and a body. Every request that was read completely is a line in the file in ``REFEREE_LOG``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

_LOG = os.open(os.environ.get("REFEREE_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

Message = dict[str, Any]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path = str(scope["path"])
    os.write(_LOG, f"{path}\n".encode())
    if path.startswith("/gone/"):
        status, answer = 410, b'{"reason":"Unregistered"}'
    else:
        status, answer = (200 if path.endswith(sha256(body).hexdigest()) else 409), b""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": answer})
