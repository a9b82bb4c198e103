"""Connections to a real `pushq web`: whoever was accepted is told so, whatever else stands in the connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pushq.embedded.redis import RedisServer
from tests.integration.web_process import Web, open_web, urls
from tests.services.fixtures import Fleet

HEAD = b"POST /v1/notifications HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CALL: dict[str, Any] = {"app": "shop", "user_ids": [42], "notification": {"title": "Hi"}}
ALIVE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def web(_fleet: Fleet, ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    redis = _fleet.ready("redis")
    assert isinstance(redis, RedisServer)
    with open_web(urls(ledger_url, redis.url(0), redis.url(1)), tmp_path_factory.mktemp("web")) as opened:
        yield opened


def authorized(web: Web, more: bytes, body: bytes) -> bytes:
    return HEAD + f"Authorization: Bearer {web.key('send')}\r\n".encode() + more + b"\r\n" + body


def test_what_follows_a_call_does_not_take_its_answer_away(web: Web) -> None:
    """It was accepted: whoever sent it must be told so, whatever comes behind it in the connection."""
    good = json.dumps(CALL).encode()
    call = authorized(web, b"Content-Length: %d\r\n" % len(good), good)
    for name, behind_it in {
        "no request": b"\0" * 100,
        "a broken header": b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
        "a head without end": b"GET /" + b"y" * 200_000,
    }.items():
        said = web.raw(call + behind_it, answers=2)
        assert said.startswith(b"HTTP/1.1 202 "), (name, said[:200])
        assert said.count(b"HTTP/1.1 ") == 1, f"{name}: one answer, then the end"
    broken = authorized(web, b"Transfer-Encoding: chunked\r\n", b"zz\r\n")
    for before in (1, 2):
        said = web.raw(call * before + broken, answers=before + 1)
        assert said.count(b"HTTP/1.1 202 ") == said.count(b"HTTP/1.1 ") == before, said
    said = web.raw(call + call + ALIVE + b"\r\n", answers=3)
    assert (said.count(b"HTTP/1.1 202 "), said.count(b"HTTP/1.1 200 ")) == (2, 1)


def test_who_would_rather_speak_another_protocol_is_served_in_this_one(web: Web) -> None:
    """Java's client offers h2c with its first request, whatever that is."""
    good = json.dumps(CALL).encode()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    after = ALIVE + offer + b"\r\n"
    for request in (
        authorized(web, offer + b"Content-Length: %d\r\n" % len(good), good),
        authorized(
            web, offer + b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(good), good)
        ),
    ):
        said = web.raw(request + after + after, answers=3)
        assert said.startswith(b"HTTP/1.1 202 "), said[:300]
        assert said.count(b"HTTP/1.1 200 ") == 2, said


def test_thousands_of_such_offers_at_once_are_as_many_requests(web: Web) -> None:
    offered = ALIVE + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    said = web.raw(offered * 2_000, answers=2_000)
    assert said.count(b"HTTP/1.1 200 ") == 2_000
