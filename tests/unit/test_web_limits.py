"""Limits around all routes, one request at a time, against a clock of the test's own and a client that does as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from pushq.web import limits
from pushq.web.limits import BODY_BYTES_S, MOST_BODY, MOST_HEADERS, Limits, SlowReader
from pushq.web.problems import Problem

Headers = Sequence[tuple[bytes, bytes]]


HOST = (b"host", b"push.example")


def scope_of(path: str = "/v1/notifications", headers: Headers = ()) -> Scope:
    named = any(name == b"host" for name, _ in headers)
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers) if named else [HOST, *headers],
    }


class Client:
    """Sends its parts one after the other, ``pause_s`` before each, and keeps what it is sent."""

    def __init__(self, parts: Sequence[bytes] = (), pause_s: float = 0.0) -> None:
        self.parts, self.pause_s = list(parts), pause_s
        self.sent: list[Message] = []
        self.taken = 0

    async def receive(self) -> Message:
        await asyncio.sleep(self.pause_s)
        if not self.parts:
            await asyncio.Event().wait()
        self.taken += 1
        part = self.parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    """A route that reads its body and says how long it was, or what it was told."""
    size = 0
    try:
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
    except Problem as problem:
        await answer(send, problem.status)
        return
    await answer(send, 200, str(size).encode())


async def reads_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, 401)


async def answer(send: Send, status: int, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def ask(app: Any, client: Client, scope: Scope, **options: Any) -> Client:
    asyncio.run(asyncio.wait_for(Limits(app, **options)(scope, client.receive, client.send), 60))
    return client


def length(size: int) -> Headers:
    return [(b"content-length", str(size).encode())]


def test_a_body_is_counted_as_it_comes_whatever_was_said_of_it() -> None:
    half = b"x" * (MOST_BODY // 2)
    chunked = [(b"transfer-encoding", b"chunked")]
    assert ask(reads_all, Client([half, half]), scope_of(headers=chunked)).status == 200
    assert ask(reads_all, Client([half, half, b"x"]), scope_of(headers=chunked)).status == 413
    client = ask(reads_all, Client([half] * 8), scope_of("/v1/devices/import", chunked))
    assert (client.status, client.sent[1]["body"]) == (200, str(4 * MOST_BODY).encode())


def test_what_says_that_it_is_too_long_reaches_no_route() -> None:
    client = ask(reads_all, Client([b"x"]), scope_of(headers=length(MOST_BODY + 1)))
    assert (client.status, client.headers[b"connection"]) == (413, b"close")
    document = json.loads(client.sent[1]["body"])
    assert (document["type"], document["limit"]) == ("urn:pushq:problem:too-large", MOST_BODY)


def test_who_does_not_go_on_with_a_body_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.05)
    client = Client([b"x", b"x"], pause_s=0.0)

    async def stalls() -> Message:
        if client.taken == 1:
            await asyncio.Event().wait()
        return await client.receive()

    asyncio.run(asyncio.wait_for(Limits(reads_all)(scope_of(headers=length(2)), stalls, client.send), 60))
    assert (client.status, client.headers[b"connection"]) == (408, b"close")


def test_who_trickles_is_told_so_after_half_a_minute() -> None:
    """A byte every ten seconds never stalls, and never ends."""
    now = 0.0
    client = Client([b"x"] * 1000)

    async def trickles() -> Message:
        nonlocal now
        now += 10.0
        return await client.receive()

    app = Limits(reads_all, clock=lambda: now)
    asyncio.run(
        asyncio.wait_for(app(scope_of("/v1/devices/import", length(1000)), trickles, client.send), 60)
    )
    assert client.status == 408
    assert client.taken <= 5

    now, client = 0.0, Client([b"x" * 20 * BODY_BYTES_S] * 20)
    asyncio.run(
        asyncio.wait_for(app(scope_of("/v1/devices/import", length(1000)), trickles, client.send), 60)
    )
    assert client.status == 200, "twice the least speed is enough, however long it takes"


def test_an_unread_body_is_read_before_the_answer_and_not_without_end() -> None:
    client = ask(reads_nothing, Client([b"x" * 1000] * 3), scope_of(headers=length(3000)))
    assert (client.status, client.taken, client.parts) == (401, 3, [])
    assert b"connection" not in client.headers, "the next request may follow"
    client = ask(
        reads_nothing, Client([b"x" * MOST_BODY] * 20), scope_of("/v1/devices/import", length(20 * MOST_BODY))
    )
    assert (client.status, client.headers[b"connection"]) == (401, b"close")
    assert client.taken < 8
    asked_first = [*length(1000), (b"expect", b"100-continue")]
    client = ask(reads_nothing, Client([b"x" * 1000]), scope_of(headers=asked_first))
    assert (client.taken, client.headers[b"connection"]) == (0, b"close"), (
        "it is not asked for what nobody wants"
    )


def test_who_takes_no_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEND_S", 0.05)

    async def never(_: Message) -> None:
        await asyncio.Event().wait()

    app = Limits(reads_nothing)

    async def run() -> None:
        with pytest.raises(SlowReader):
            await asyncio.wait_for(app(scope_of(), Client().receive, never), 60)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"a", b"b")] * (MOST_HEADERS + 1), 431),
        ([(b"a", b"b" * 20_000)], 431),
        ([*length(1), (b"transfer-encoding", b"chunked")], 400),
        ([*length(1), *length(1)], 400),
        ([(b"host", b"elsewhere.example")], 421),
        ([(b"host", b"")], 421),
        ([HOST, HOST], 400),
        ([(b"host", b"Push.Example:8080")], 401),
        ([(b"host", b"[::1]:8080")], 401),
    ],
)
def test_headers_that_are_let_through_and_those_that_are_not(headers: Headers, status: int) -> None:
    hosts = ("push.example", "[::1]")
    assert ask(reads_nothing, Client([b"x"]), scope_of(headers=headers), hosts=hosts).status == status


@pytest.mark.parametrize(("version", "status"), [("1.1", 400), ("1.0", 401)])
def test_who_names_no_host_speaks_an_old_protocol(version: str, status: int) -> None:
    scope = {**scope_of(), "headers": [], "http_version": version}
    assert ask(reads_nothing, Client([b"x"]), scope).status == status


def test_no_more_requests_are_taken_up_than_can_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_REQUESTS", 2)

    async def run() -> None:
        free = asyncio.Event()

        async def waits(scope: Scope, receive: Receive, send: Send) -> None:
            await free.wait()
            await answer(send, 200)

        app = Limits(waits)
        clients = [Client() for _ in range(3)]
        tasks = [asyncio.create_task(app(scope_of(), each.receive, each.send)) for each in clients[:2]]
        await asyncio.sleep(0)
        await app(scope_of(), clients[2].receive, clients[2].send)
        assert clients[2].status == 503
        assert int(clients[2].headers[b"retry-after"]) > 0
        free.set()
        await asyncio.gather(*tasks)
        assert [each.status for each in clients[:2]] == [200, 200]

    asyncio.run(asyncio.wait_for(run(), 60))
