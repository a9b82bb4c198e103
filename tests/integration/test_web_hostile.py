"""Hostile requests to a real `pushq web`: each gets its 4xx, quickly, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import text

from pushq.embedded.redis import RedisServer
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.integration.web_process import Web, open_web, urls
from tests.services.fixtures import Fleet

TABLES = ("sends", "device_tokens", "segments", "segment_members", "dead_letters")
HEAD = b"POST /v1/notifications HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GOOD: dict[str, Any] = {"app": "shop", "user_ids": [42], "notification": {"title": "Hi"}}
TOKEN = "fcm-" + "0" * 40


@pytest.fixture(scope="module")
def web(_fleet: Fleet, ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    redis = _fleet.ready("redis")
    assert isinstance(redis, RedisServer)
    with redis.client() as client:
        client.flushall()
    folder = tmp_path_factory.mktemp("web")
    with open_web(urls(ledger_url, redis.url(0), redis.url(1)), folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def slow(web: Web) -> Iterator[socket.socket]:
    """A connection of which half a request is all that comes; made with the first test, looked at in the last."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/notifications HTTP/1.1\r\nHost: ")
        yield connection


@pytest.fixture(scope="module")
def client(web: Web) -> httpx.Client:
    return web.client()


def behind(web: Web, redis: RedisServer) -> dict[str, int]:
    """Rows, and calls in the broker or noted in Redis."""
    with web.database.begin() as connection:
        found = {
            table: int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())
            for table in TABLES
        }
    broker = open_redis(ServiceUrl(redis.url(1)))
    notes = open_redis(ServiceUrl(redis.url(0)))
    try:
        queues = ("pushq.transactional", "pushq.broadcast")
        found["queued"] = sum(int(broker.llen(queue)) for queue in queues)
        found["noted"] = sum(1 for _ in notes.scan_iter("pushq:web:call:*"))
    finally:
        broker.close()
        notes.close()
    return found


@pytest.fixture(autouse=True)
def _leaves_nothing(web: Web, slow: socket.socket, redis_server: RedisServer) -> Iterator[None]:
    assert slow.fileno() > 0
    before = behind(web, redis_server)
    yield
    assert behind(web, redis_server) == before
    assert web.process.poll() is None
    wrong = [line for line in web.lines() if line["level"] in ("error", "critical")]
    assert not wrong, wrong[:2]


def nested(depth: int) -> bytes:
    return b'{"notification": ' + b'{"a":' * depth + b"1" + b"}" * depth + b', "user_ids": [1]}'


def many_keys(many: int = 10_000) -> dict[str, str]:
    return {f"key{number}": "x" for number in range(many)}


INJECTIONS = (
    "'; DROP TABLE sends; --",
    "' OR '1'='1",
    "{{7*7}}",
    "${7*7}",
    "{%import os%}",
    "<script>alert(1)</script>",
    "../../../../etc/passwd",
    "%00",
    "a\x00b",
    "\u202egnp.exe",
    "a\r\nX-Evil: 1",
)

BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"hello", 400),
    "half of it": (b'{"user_ids": [1', 400),
    "two documents": (b"{}{}", 400),
    "a list": (b"[]", 422),
    "a number": (b"1e999", 400),
    "null": (b"null", 422),
    "no UTF-8": (b'{"app": "\xff\xfe"}', 400),
    "a lone surrogate": (b'{"app": "\\ud800"}', 400),
    "NaN": (b'{"rate": NaN}', 400),
    "nested 100 deep": (nested(100), 422),
    "nested 100,000 deep": (nested(100_000), 400),
    "lists nested 200,000 deep": (b"[" * 200_000, 400),
    "a thousand lists nested": (b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", 422),
    "10,000 keys": (json.dumps(many_keys()).encode(), 422),
    "10,000 keys in the message": (json.dumps({**GOOD, "notification": many_keys()}).encode(), 422),
    "10,000 keys in its data": (
        json.dumps({**GOOD, "notification": {"title": "Hi", "data": many_keys()}}).encode(),
        422,
    ),
    "10,000 values": (json.dumps({**GOOD, "values": {"42": many_keys()}}).encode(), 422),
    "10,001 users": (json.dumps({**GOOD, "user_ids": list(range(1, 10_002))}).encode(), 422),
    "a number of many digits": (b'{"user_ids": [' + b"9" * 5000 + b'], "notification": {"title": "x"}}', 400),
    "a number of 30 digits": (b'{"user_ids": [' + b"9" * 30 + b'], "notification": {"title": "x"}}', 422),
    "a text of a megabyte": (json.dumps({**GOOD, "notification": {"title": "x" * 900_000}}).encode(), 422),
}

WRONG_TYPES: tuple[Any, ...] = (
    0,
    -1,
    1.5,
    True,
    "text",
    [],
    [[]],
    {},
    {"a": {"b": []}},
    2**63,
    2**200,
    1e308,
)
FIELDS = (
    "user_ids", "notification", "app", "platforms", "guarantee", "send_at", "rate", "retry", "values",
)  # fmt: skip
#: What is right after all.
RIGHT = {
    "platforms": ([],),
    "rate": (),
    "retry": ({},),
    "values": ({},),
    "app": ("text",),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_call(client: httpx.Client, name: str) -> None:
    body, status = BODIES[name]
    answer = client.post("/v1/notifications", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    told(answer)


def told(answer: httpx.Response) -> dict[str, Any]:
    """The problem; it has no trace of our code in it."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document: dict[str, Any] = answer.json()
    assert document["status"] == answer.status_code
    assert document["type"].startswith("urn:pushq:problem:")
    for trace in ("Traceback", ".py", "psycopg", "sqlalchemy", "SELECT "):
        assert trace not in answer.text
    return document


def test_wrong_types_everywhere(client: httpx.Client) -> None:
    """Every field gets every type: what is no 422 would have to be right."""
    for field in FIELDS:
        for value in WRONG_TYPES:
            if value in RIGHT.get(field, ()) and type(value) in (list, dict, str):
                continue
            answer = client.post("/v1/notifications", json={**GOOD, field: value})
            assert answer.status_code == 422, (field, value, answer.text)
            assert told(answer)["field"].startswith(field), (field, value)


def test_injections_are_text_or_refused(client: httpx.Client) -> None:
    for text_ in INJECTIONS:
        for body in (
            {**GOOD, "app": text_},
            {**GOOD, "guarantee": text_},
            {**GOOD, "send_at": text_},
            {**GOOD, "notification": {"title": "Hi", "link": text_}},
            {**GOOD, "notification": {"title": "Hi", "image": text_}},
        ):
            assert told(client.post("/v1/notifications", json=body))["status"] == 422
        broadcast = {"app": "shop", "notification": {"title": "Hi"}, "audience": {"segments": [text_]}}
        assert told(client.post("/v1/broadcasts", json=broadcast))["status"] == 422
        assert told(client.post("/v1/apps/shop/segments", json={"name": text_}))["status"] == 422
        assert told(client.get("/v1/sends", params={"app": text_}))["status"] == 422
        assert told(client.get("/v1/sends", params={"cursor": text_}))["status"] == 422
        assert client.get(f"/v1/apps/shop/segments/{quote(text_, safe='')}").status_code in (404, 422)
    # PostgreSQL and templates see text, and only text.
    with_template = {"title": "{{7*7}}", "data": {"a": "'; DROP TABLE sends; --"}}
    answer = client.post("/v1/notifications", json={**GOOD, "notification": with_template, "rate": 0})
    assert told(answer)["field"] == "rate"


def test_a_body_that_is_too_large_is_not_even_read(web: Web, client: httpx.Client) -> None:
    answer = client.post(
        "/v1/notifications",
        content=b" " * (1_048_576 + 1),
        headers={"Content-Type": "application/json"},
    )
    assert told(answer)["status"] == 413
    endless = (b" " * 65_536 for _ in range(40))
    answer = client.post("/v1/notifications", content=endless, headers={"Content-Type": "application/json"})
    assert told(answer)["status"] == 413
    said = web.raw(HEAD + b"Content-Length: 99999999999999\r\nExpect: 100-continue\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ")


def authorized(web: Web, more: bytes, body: bytes = b"") -> bytes:
    return HEAD + f"Authorization: Bearer {web.key('send')}\r\n".encode() + more + b"\r\n" + body


def test_requests_that_two_servers_would_read_differently(web: Web) -> None:
    good = json.dumps(GOOD).encode()
    length = b"Content-Length: %d\r\n" % len(good)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(good), good)
    for name, request in {
        "length and chunks": authorized(web, length + b"Transfer-Encoding: chunked\r\n", chunked),
        "two lengths": authorized(web, length + b"Content-Length: 3\r\n", good),
        "two equal lengths": authorized(web, length + b"Content-Length: %d, 5\r\n" % len(good), good),
        "a length with a sign": authorized(web, b"Content-Length: +%d\r\n" % len(good), good),
        "a negative length": authorized(web, b"Content-Length: -1\r\n", good),
        "an unknown coding": authorized(web, b"Transfer-Encoding: xchunked\r\n", chunked),
        "chunks twice": authorized(web, b"Transfer-Encoding: chunked, chunked\r\n", chunked),
        "a header with a space": authorized(web, b"Content-Length : %d\r\n" % len(good), good),
        "a folded header": authorized(web, b"X-A: b\r\n c: d\r\n" + length.replace(b":", b" :"), good),
        "a bare line feed in a header": authorized(web, b"X-A: b\nContent-Length: 0\r\n\x00: 1\r\n", good),
        "a NUL in a header": authorized(web, b"X-A: b\0c\r\n" + length, good),
        "a chunk with a bad size": authorized(
            web, b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"
        ),
        "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,
        "another version": good.join([b"POST / HTTP/9.9\r\n\r\n", b""]),
        "HTTP/2 without its frames": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a version that llhttp knows": b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n",
        "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: elsewhere\r\n\r\n",
        "a target with a host of its own": b"GET http://elsewhere/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a tunnel": b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n",
        "a target that is none": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "line feeds alone": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
        "a space in the target": HEAD.replace(b"/v1/notifications", b"/v1/noti fications") + b"\r\n",
    }.items():
        said = web.raw(request)
        assert said.startswith(b"HTTP/1.1 4"), (name, said[:200])
        assert said.count(b"HTTP/1.1 ") == 1, f"{name}: one answer, then the end"


def test_headers_without_end(web: Web) -> None:
    said = web.raw(HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n")
    assert said.startswith(b"HTTP/1.1 431 "), said[:200]
    assert web.raw(HEAD + b"X-A: " + b"y" * 20_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431 ")
    assert web.raw(HEAD + b"X-A: " + b"y" * 200_000).startswith(b"HTTP/1.1 400 ")
    target = b"GET /v1/sends?app=" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert web.raw(target).startswith(b"HTTP/1.1 414 ")


def test_what_stands_between_the_parts_of_a_body_has_an_end_too(web: Web) -> None:
    opened = authorized(web, b"Transfer-Encoding: chunked\r\n", b"1\r\n{\r\n")
    endless = b"y" * 200_000
    for name, request in {
        "a trailer": opened + b"0\r\nX-A: " + endless,
        "what a chunk is extended by": opened + b"1;a=" + endless,
    }.items():
        said = web.raw(request, answers=2)
        assert said.startswith(b"HTTP/1.1 400 "), (name, said[:300])
        assert said.count(b"HTTP/1.1 ") == 1, f"{name}: one answer, then the end"


def test_trailers_are_no_headers(web: Web) -> None:
    good = json.dumps(GOOD).encode()
    trailer = f"Authorization: Bearer {web.key('send')}\r\n".encode()
    body = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(good), good, trailer)
    said = web.raw(HEAD + b"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n" + body)
    assert said.startswith(b"HTTP/1.1 401 "), said[:200]


def test_keys_and_methods_that_are_none(web: Web, client: httpx.Client) -> None:
    with httpx.Client(base_url=web.address, timeout=60, trust_env=False) as stranger:
        for given in (
            "",
            "Bearer",
            "Bearer x",
            "Basic YTpi",
            f"Bearer pushq_{'0' * 16}_{'A' * 43}",
            "Bearer " + "x" * 9000,
        ):
            answer = stranger.post("/v1/notifications", json=GOOD, headers={"Authorization": given})
            assert told(answer)["status"] in (401, 429)
    assert told(client.put("/v1/notifications", json=GOOD))["status"] == 405
    assert told(client.post("/v1/notifications?dry_run=1", json=GOOD))["field"] == "dry_run"
    assert told(client.post("/v1/notifications", data={"user_ids": "1"}))["status"] == 415
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert told(client.post("/v1/notifications", content=b"\x1f\x8b", headers=packed))["status"] == 415
    for key in ("", "x" * 201, "a\tb"):
        answer = client.post("/v1/notifications", json=GOOD, headers={"Idempotency-Key": key})
        assert told(answer)["field"] == "Idempotency-Key"


def test_a_key_of_one_app_does_nothing_to_another(web: Web) -> None:
    limited = web.client("send", "devices", "segments", "sends:read", apps=["blog"])
    device = {"user_id": 1, "app": "shop", "platform": "fcm", "token": TOKEN}
    for answer in (
        limited.post("/v1/notifications", json=GOOD),
        limited.post(
            "/v1/broadcasts",
            json={"app": "shop", "notification": {"title": "x"}, "audience": {"segments": ["all"]}},
        ),
        limited.post("/v1/devices", json=device),
        limited.post("/v1/devices/unregister", json={"app": "shop", "platform": "fcm", "token": TOKEN}),
        limited.post("/v1/apps/shop/segments", json={"name": "mine"}),
        limited.get("/v1/apps/shop/segments"),
        limited.get("/v1/sends?app=shop"),
        limited.post("/v1/sends/0e746def-93b2-458b-8ff6-2de807c49363/pause"),
    ):
        assert told(answer)["status"] == 403, answer.text
    csv = f"user_id,app,platform,token\n1,shop,fcm,{TOKEN}\n"
    answer = limited.post("/v1/devices/import", content=csv, headers={"Content-Type": "text/csv"})
    assert (answer.status_code, answer.json()["rejected"]) == (200, 1), "the record is refused, not the file"


def test_streams_are_bounded_line_by_line(client: httpx.Client) -> None:
    lines = {"Content-Type": "application/x-ndjson"}
    for body in (
        b"[" * 200_000,
        b"\xff" * 200_000,
        b'{"user_id": ' + b"9" * 70_000,
        nested(500),
        b"\0" * 1000,
    ):
        answer = client.post("/v1/devices/import", content=body, headers=lines)
        assert (answer.status_code, answer.json()["inserted"]) == (200, 0), answer.text
        assert answer.json()["rejected"] >= 1
    utf16 = "user_id,app,platform,token\n".encode("utf-16")
    answer = client.post("/v1/devices/import", content=utf16, headers={"Content-Type": "text/csv"})
    assert told(answer)["status"] == 422


def test_a_call_that_breaks_off_is_no_call(web: Web) -> None:
    good = json.dumps(GOOD).encode()
    web.raw(authorized(web, b"Content-Length: %d\r\n" % len(good), good[:-1]), half_close=True, timeout=60)
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as gone:
        gone.sendall(authorized(web, b"Content-Length: %d\r\n" % len(good), good[:-1]))
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as gone:
        gone.sendall(authorized(web, b"Transfer-Encoding: chunked\r\n", b"%x\r\n" % len(good) + good))


def test_who_is_busy_with_nothing_does_not_stop_the_others(web: Web, client: httpx.Client) -> None:
    """Two hundred connections that send half a request each: others get their answers meanwhile."""
    held = [socket.create_connection(("127.0.0.1", web.port), timeout=60) for _ in range(200)]
    try:
        for connection in held:
            connection.sendall(HEAD)
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/sends").status_code == 200
    finally:
        for connection in held:
            connection.close()


def test_who_never_ends_his_headers_is_hung_up_on(web: Web, slow: socket.socket) -> None:
    assert slow.recv(1) == b"", "the server ends the connection"
