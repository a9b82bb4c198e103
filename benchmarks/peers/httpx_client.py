"""httpx, asynchronous, HTTP/2: a client per connection and 100 requests at a time on each."""

from __future__ import annotations

import asyncio
import ssl
from itertools import islice

import httpx

from benchmarks.peers.load import HEADERS, PATH_PREFIX, Clock, Load, main

IN_FLIGHT = 100


def run(load: Load) -> dict[str, float]:
    return asyncio.run(_run(load))


async def _run(load: Load) -> dict[str, float]:
    context = ssl.create_default_context(cafile=str(load.cafile))
    # One client would put everything on one connection until its streams are used up.
    clients = [
        httpx.AsyncClient(
            http1=False,
            http2=True,
            verify=context,
            limits=httpx.Limits(max_connections=1),
            timeout=60,
            trust_env=False,
            headers=dict(HEADERS),
        )
        for _ in range(load.connections)
    ]
    prefix, body, tokens = f"{load.url}{PATH_PREFIX}", load.body, load.tokens()
    statuses: list[int] = []

    async def send(client: httpx.AsyncClient, part: list[str]) -> None:
        waiting = iter(part)

        async def one_by_one() -> None:
            for token in waiting:
                answer = await client.post(prefix + token, content=body)
                statuses.append(answer.status_code)

        await asyncio.gather(*(one_by_one() for _ in range(IN_FLIGHT)))

    try:
        for client in clients:  # connected and warm
            (await client.post(f"{prefix}00", content=body)).raise_for_status()
        parts = [list(islice(tokens, share)) for share in load.shares()]
        clock = Clock()
        await asyncio.gather(*(send(client, part) for client, part in zip(clients, parts, strict=True)))
        return clock.report(len(statuses), statuses.count(200))
    finally:
        for client in clients:
            await client.aclose()


if __name__ == "__main__":
    main(run, __doc__)
