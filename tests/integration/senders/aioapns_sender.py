"""aioapns as an application uses it. Cases come as JSON on standard input, what it says about them goes out as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsTLSClientProtocol

from pushq.mock.process import MockProcess


async def send(asked: dict[str, Any]) -> dict[str, Any]:
    ready = asked["ready"]
    apns = ready["apns"]
    context = ssl.create_default_context(cafile=ready["ca_file"])
    context.set_alpn_protocols(["h2"])

    class Mocked(APNsTLSClientProtocol):
        APNS_SERVER = urlsplit(apns["url"]).hostname
        APNS_PORT = urlsplit(apns["url"]).port

    client = APNs(
        key=Path(apns["key_file"]).read_text(),
        key_id=apns["key_id"],
        team_id=apns["team_id"],
        topic=apns["topic"],
        ssl_context=context,
    )
    client.pool.protocol_class = Mocked
    mock = MockProcess()  # not started: it speaks to the one that is
    mock.ready = ready

    async def push(token: str, **more: Any) -> list[Any]:
        request = NotificationRequest(
            token, {"aps": {"alert": "hi"}}, push_type=more.pop("push_type", PushType.ALERT), **more
        )
        result = await client.send_notification(request)
        return [result.is_successful, result.status, result.description]

    said: dict[str, Any] = {"answers": {}}
    for name, fault in asked["faults"].items():
        mock.set_faults([{"platform": "apns", **fault}])
        said["answers"][name] = await push(asked["alive"])
    mock.set_faults([])
    said["many"] = sum([ok for ok, _, _ in await asyncio.gather(*(push(f"{n:064x}") for n in range(1, 301)))])
    said["rich"] = await push(asked["alive"], priority=5, time_to_live=3600, collapse_key="sale")
    said["background at 10"] = await push(asked["alive"], push_type=PushType.BACKGROUND, priority=10)
    said["too long a collapse id"] = await push(asked["alive"], collapse_key="x" * 65)
    client.pool.close()
    await asyncio.sleep(0.1)
    return said


logging.getLogger("aioapns").setLevel(logging.CRITICAL)
json.dump(asyncio.run(send(json.load(sys.stdin))), sys.stdout)
