"""aioapns, an APNs client on asyncio and h2, pointed at another server: a client per connection, 100 requests at a time on each."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from itertools import islice

from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsTLSClientProtocol

from benchmarks.peers.load import Clock, Load, main

IN_FLIGHT = 100
TIMEOUT_S = 60.0


def run(load: Load) -> dict[str, float]:
    return asyncio.run(_run(load))


async def _run(load: Load) -> dict[str, float]:
    if load.key_file is None:
        raise SystemExit("--key-file is missing: aioapns signs its requests")
    logging.getLogger("aioapns").setLevel(logging.ERROR)
    context = ssl.create_default_context(cafile=str(load.cafile))
    context.set_alpn_protocols(["h2"])

    class Local(APNsTLSClientProtocol):
        APNS_SERVER = load.host
        APNS_PORT = load.port

    # One client would put everything on one connection until its streams are used up.
    clients = []
    for _ in range(load.connections):
        client = APNs(
            key=load.key_file.read_text(),
            key_id="ABCDE12345",
            team_id="ABCDE12345",
            topic="com.example.app",
            max_connections=1,
            ssl_context=context,
        )
        client.pool.protocol_class = Local
        clients.append(client)
    message, tokens = json.loads(load.body), load.tokens()
    statuses: list[str] = []

    async def send(client: APNs, part: list[str]) -> None:
        waiting = iter(part)

        async def one_by_one() -> None:
            for token in waiting:
                request = NotificationRequest(
                    token, message, time_to_live=0, priority=10, push_type=PushType.ALERT
                )
                statuses.append((await client.send_notification(request)).status)

        await asyncio.gather(*(one_by_one() for _ in range(IN_FLIGHT)))

    for client in clients:  # connected and warm
        await asyncio.wait_for(client.send_notification(NotificationRequest("00", message)), TIMEOUT_S)
    parts = [list(islice(tokens, share)) for share in load.shares()]
    clock = Clock()
    await asyncio.gather(*(send(client, part) for client, part in zip(clients, parts, strict=True)))
    report = clock.report(len(statuses), statuses.count("200"))
    for client in clients:
        client.pool.close()
    await asyncio.sleep(0)
    return report


if __name__ == "__main__":
    main(run, __doc__)
