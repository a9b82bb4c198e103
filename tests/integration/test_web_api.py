"""A real `pushq web` with real servers: calls reach the broker once or not at all, and streams are read and written piece by piece."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from pushq.embedded.postgres import PostgresServer
from pushq.embedded.redis import RedisServer
from pushq.embedded.sandbox import Sandbox
from pushq.embedded.server import free_port
from pushq.ledger import sends
from tests.integration.ledger_world import World, bare_app
from tests.integration.ledger_world import open_world as open_ledger
from tests.integration.web_process import Web, open_web, urls
from tests.services.fixtures import Fleet

PATIENCE_S = 60.0
GOOD: dict[str, Any] = {"app": "shop", "user_ids": [42], "notification": {"title": "Hi"}}
CONFIG = """
[apps.shop.fcm]
project_id = "pushq-demo"
service_account_file = "secret"
"""


@pytest.fixture(scope="module")
def web(_fleet: Fleet, ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    redis = _fleet.ready("redis")
    assert isinstance(redis, RedisServer)
    folder = tmp_path_factory.mktemp("web")
    with open_web(urls(ledger_url, redis.url(0), redis.url(1)), folder) as opened:
        yield opened


@pytest.fixture
def client(web: Web) -> httpx.Client:
    return web.client()


@pytest.fixture
def ledger(postgres: PostgresServer, ledger_url: str, tmp_path: Path) -> Iterator[World]:
    """The ledger that the process works on."""
    with open_ledger(ledger_url, bare_app(tmp_path), batch_size=2500) as world:
        world.empty()
        yield world


def queued(redis: RedisServer, queue: str = "pushq.transactional", database: int = 1) -> list[str]:
    """Sends whose calls are in the broker, oldest first: alone, or with others in one message."""
    with redis.client(database) as broker:
        messages = [json.loads(message) for message in reversed(broker.lrange(queue, 0, -1))]
    found: list[str] = []
    for message in messages:
        if message["headers"]["task"] == "pushq.send_notifications":
            ((calls,), _, _) = json.loads(base64.b64decode(message["body"]))
            found += [send_id for send_id, _ in calls]
        else:
            found.append(message["headers"]["id"])
    return found


def until(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


# Calls


def test_an_accepted_call_is_in_its_queue_under_its_id(
    client: httpx.Client, redis_server: RedisServer
) -> None:
    answer = client.post("/v1/notifications", json=GOOD)
    assert (answer.status_code, answer.json()["repeated"]) == (202, False)
    send_id = answer.json()["send_id"]
    assert answer.headers["location"] == f"/v1/sends/{send_id}"
    broadcast = client.post(
        "/v1/broadcasts",
        json={"app": "shop", "notification": {"title": "Hi"}, "audience": {"segments": ["all"]}},
    ).json()
    assert queued(redis_server) == [send_id]
    assert queued(redis_server, "pushq.broadcast") == [broadcast["send_id"]]
    # No worker has taken it up, and yet who asks is told that it is there.
    shown = client.get(answer.headers["location"]).json()
    assert (shown["state"], shown["app"], shown["finished"]) == ("accepted", "shop", False)


def test_calls_that_arrive_together_are_all_accepted(web: Web, redis_server: RedisServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        clients = [web.client("send") for _ in range(8)]

        def call(number: int) -> str:
            answer = clients[number % 8].post("/v1/notifications", json={**GOOD, "user_ids": [number + 1]})
            assert answer.status_code == 202, answer.text
            return str(answer.json()["send_id"])

        answered = list(pool.map(call, range(200)))
    assert sorted(queued(redis_server)) == sorted(answered)


def test_an_idempotency_key_is_one_send(
    client: httpx.Client, redis_server: RedisServer, ledger: World
) -> None:
    key = {"Idempotency-Key": "order A-17"}
    first = client.post("/v1/notifications", json=GOOD, headers=key)
    again = client.post("/v1/notifications", json=GOOD, headers=key)
    assert again.status_code == 202
    assert again.json() == {"send_id": first.json()["send_id"], "repeated": True}
    other = client.post("/v1/notifications", json={**GOOD, "user_ids": [43]}, headers=key)
    assert (other.status_code, other.json()["type"]) == (409, "urn:pushq:problem:idempotency-conflict")
    assert set(queued(redis_server)) == {first.json()["send_id"]}
    # Long after, when only the ledger remembers.
    send_id = uuid.UUID(first.json()["send_id"])
    call = ledger.submission(
        kind="transactional", audience={"user_ids": [42]}, notification={"title": "Hi"}, app="shop",
        idempotency_key="order A-17",
    )  # fmt: skip
    assert call.send_id() == send_id, "the same call from Python is the same send"
    sends.accept(ledger.database, ledger.settings, send_id, call)
    with redis_server.client(0) as notes:
        notes.flushdb()
    assert client.post("/v1/notifications", json=GOOD, headers=key).json()["repeated"]
    with redis_server.client(0) as notes:
        notes.flushdb()
    other = client.post("/v1/notifications", json={**GOOD, "user_ids": [43]}, headers=key)
    assert other.status_code == 409


def test_of_two_calls_at_once_with_one_key_one_is_refused(web: Web, redis_server: RedisServer) -> None:
    clients = [web.client("send") for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(
                lambda n: clients[n].post(
                    "/v1/notifications",
                    json={**GOOD, "user_ids": [n + 1]},
                    headers={"Idempotency-Key": "race"},
                ),
                range(6),
            )
        )
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409, 409]
    assert len(queued(redis_server)) == 1


def test_with_the_broker_down_nothing_is_accepted_and_nothing_remembered(
    sandbox: Sandbox, database: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    broker = RedisServer(sandbox, folder=f"broker-{uuid.uuid4().hex[:8]}")
    broker.start()
    key = {"Idempotency-Key": "once"}
    with open_web(urls(database, redis_server.url(0), broker.url(0)), tmp_path) as web:
        client = web.client()
        assert client.get("/readyz").status_code == 200
        broker.stop()
        for _ in range(2):
            refused = client.post("/v1/notifications", json=GOOD, headers=key)
            assert refused.status_code == 503, refused.text
            assert refused.headers["content-type"] == "application/problem+json"
            assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["type"] == "urn:pushq:problem:unavailable"
        with redis_server.client(0) as notes:
            assert not list(notes.scan_iter("pushq:web:call:*"))
        assert client.get("/healthz").status_code == 200
        until(lambda: client.get("/readyz").status_code == 503, "not ready without a broker")
        assert client.get("/readyz").json()["checks"] == {"database": True, "redis": True, "broker": False}
        broker.start()
        # What was refused left no trace: another body under the same key is a first call.
        other = {**GOOD, "user_ids": [43]}
        answer = httpx.Response(0)
        deadline = time.monotonic() + PATIENCE_S
        while answer.status_code != 202:
            assert time.monotonic() < deadline, answer.text
            answer = client.post("/v1/notifications", json=other, headers=key)
        assert not answer.json()["repeated"]
        assert queued(broker, database=0) == [answer.json()["send_id"]]
    broker.stop()


def test_with_rabbitmq_away_a_call_is_refused_and_others_go_on(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    nobody = f"amqp://guest:guest@127.0.0.1:{free_port()}//"
    with open_web(urls(database, redis_url, nobody), tmp_path) as web:
        client = web.client()
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/notifications", json=GOOD), range(4)))
        assert {answer.status_code for answer in answers} == {503}
        assert all("retry-after" in answer.headers for answer in answers)
        device = {"user_id": 1, "app": "shop", "platform": "fcm", "token": "fcm-" + "1" * 40}
        assert client.post("/v1/devices", json=device).status_code == 201


def test_without_redis_calls_are_taken_and_devices_registered(
    sandbox: Sandbox, database: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    cache = RedisServer(sandbox, folder=f"cache-{uuid.uuid4().hex[:8]}")
    cache.start()
    with open_web(urls(database, cache.url(0), redis_server.url(1)), tmp_path) as web:
        client = web.client()
        cache.stop()
        assert (
            client.post("/v1/notifications", json=GOOD, headers={"Idempotency-Key": "k"}).status_code == 202
        )
        device = {"user_id": 1, "app": "shop", "platform": "fcm", "token": "fcm-" + "1" * 40}
        assert client.post("/v1/devices", json=device).status_code == 201
        assert len(queued(redis_server)) == 1


def test_the_configuration_says_which_apps_there_are(
    database: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("none")
    file = tmp_path / "pushq.toml"
    file.write_text(CONFIG)
    settings = urls(database, redis_server.url(0), redis_server.url(1)) | {
        "PUSHQ_CONFIG": str(file),
        "PUSHQ_RELOAD_SECONDS": "0.2",
    }
    with open_web(settings, tmp_path) as web:
        client = web.client()
        unnamed = {key: value for key, value in GOOD.items() if key != "app"}
        assert client.post("/v1/notifications", json=unnamed).status_code == 202, "there is only one"
        refused = client.post("/v1/notifications", json={**GOOD, "app": "blog"})
        assert (refused.status_code, refused.json()["field"]) == (422, "app")
        device = {"user_id": 1, "app": "blog", "platform": "fcm", "token": "fcm-" + "1" * 40}
        assert client.post("/v1/devices", json=device).json()["field"] == "app"
        file.write_text(CONFIG + CONFIG.replace("shop", "blog"))
        until(lambda: client.post("/v1/devices", json=device).status_code == 201, "the new app is not known")
        refused = client.post("/v1/notifications", json=unnamed)
        assert (refused.status_code, refused.json()["field"]) == (422, "app"), "now it has to be said which"


# Sends


def test_sends_are_listed_page_by_page(client: httpx.Client, web: Web, ledger: World) -> None:
    made = [str(ledger.accept()) for _ in range(7)]
    ledger.change("UPDATE sends SET created_at = date_trunc('day', now())")
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/v1/sends", params={"limit": "3", **cursor}).json()
        seen += [send["send_id"] for send in page["sends"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(seen) == sorted(made), "each once, though all are of one moment"
    ledger.change("UPDATE sends SET state = 'paused' WHERE id = :id", id=made[2])
    paused = client.get("/v1/sends", params={"state": ["paused", "done"]}).json()["sends"]
    assert [send["send_id"] for send in paused] == [made[2]]
    assert client.get("/v1/sends?app=other").json() == {"sends": [], "next_cursor": None}
    elsewhere = web.client("sends:read", apps=["other"])
    assert elsewhere.get("/v1/sends").json()["sends"] == []
    assert elsewhere.get(f"/v1/sends/{made[0]}").status_code == 403


def test_the_brake_is_on_record(client: httpx.Client, ledger: World) -> None:
    send_id = str(ledger.accept())
    path = f"/v1/sends/{send_id}"
    assert client.post(f"{path}/pause").json() == {"send_id": send_id, "changed": True, "state": "paused"}
    assert client.post(f"{path}/pause").json()["changed"] is False
    assert client.get(path).json()["state"] == "paused"
    assert client.put(f"{path}/rate", json={"rate": 500}).json()["changed"]
    assert client.get(path).json()["rate"] == 500
    assert client.post(f"{path}/resume", json={"trust_rejections": True}).json()["state"] == "planning"
    assert client.post(f"{path}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{path}/replay", json={"outcomes": ["cancelled"]}).json()["recipients"] == 0
    assert client.post(f"/v1/sends/{uuid.uuid4()}/pause").status_code == 404
    done = ledger.rows("SELECT action, actor FROM audit_log WHERE object_id = :id ORDER BY id", id=send_id)
    assert [row.action for row in done] == ["send.pause", "send.rate", "send.resume", "send.cancel"]
    assert {row.actor for row in done} == {"test"}


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def test_events_tell_of_a_send_until_it_ends(client: httpx.Client, web: Web, ledger: World) -> None:
    send_id = ledger.accept()
    path = f"/v1/sends/{send_id}"
    states: list[list[str]] = [[], []]
    began = [threading.Event(), threading.Event()]

    def watch(number: int) -> None:
        with web.client("sends:read").stream("GET", f"{path}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            for name, document in events(response):
                states[number].append(f"{name} {document['state']}")
                began[number].set()

    watchers = [threading.Thread(target=watch, args=(number,)) for number in range(2)]
    for watcher in watchers:
        watcher.start()
    for each in began:
        assert each.wait(PATIENCE_S)
    client.post(f"{path}/pause")
    until(lambda: all("progress paused" in seen for seen in states), "the pause was not told")
    client.post(f"{path}/cancel")
    for watcher in watchers:
        watcher.join(PATIENCE_S)
        assert not watcher.is_alive()
    for seen in states:
        assert seen == ["progress planning", "progress paused", "progress cancelled", "end cancelled"]
    assert client.get(f"/v1/sends/{uuid.uuid4()}/events").status_code == 404


def test_an_accepted_call_can_be_followed_before_the_ledger_has_it(
    client: httpx.Client, ledger: World, redis_server: RedisServer
) -> None:
    body = {"app": "shop", "notification": {"title": "Sale"}, "audience": {"segments": ["all"]}}
    send_id = uuid.UUID(client.post("/v1/broadcasts", json=body).json()["send_id"])
    seen = []
    with client.stream("GET", f"/v1/sends/{send_id}/events") as response:
        for name, document in events(response):
            seen.append(document["state"])
            if seen == ["accepted"]:
                from pushq.ledger import sends  # noqa: PLC0415 - as above

                sends.accept(ledger.database, ledger.settings, send_id, ledger.submission())
            elif seen[-1] == "planning":
                ledger.change("UPDATE sends SET state = 'cancelled', finished_at = now()")
            assert name in ("progress", "end")
    assert seen == ["accepted", "planning", "cancelled", "cancelled"]
    assert queued(redis_server, "pushq.broadcast")


def peak(web: Web) -> int:
    """The most memory that the process has had, in bytes."""
    status = Path(f"/proc/{web.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def test_an_export_is_a_stream(client: httpx.Client, web: Web, ledger: World) -> None:
    ledger.add_devices("fcm", 60_000)
    send_id = ledger.send()
    small = client.get(f"/v1/sends/{send_id}/export", params={"format": "jsonl", "outcome": "accepted"})
    assert (small.status_code, small.content) == (200, b"")
    before = peak(web)
    rows = size = 0
    with client.stream("GET", f"/v1/sends/{send_id}/export") as response:
        assert response.headers["content-type"].startswith("text/csv")
        for part in response.iter_bytes():
            rows += part.count(b"\n")
            size += len(part)
    assert rows == 60_001
    assert size > 4_000_000
    assert peak(web) - before < 40_000_000, "a part of it at a time"
    parquet = client.get(f"/v1/sends/{send_id}/export", params={"format": "parquet"}).content
    assert parquet[:4] == parquet[-4:] == b"PAR1"
    wrong = client.get(f"/v1/sends/{send_id}/export", params={"outcome": "lost"})
    assert (wrong.status_code, client.get(f"/v1/sends/{uuid.uuid4()}/export").status_code) == (422, 404)
    done = ledger.rows("SELECT action FROM audit_log WHERE object_id = :id", id=str(send_id))
    assert "send.export" in {row.action for row in done}


# Devices and segments


def test_devices_come_in_and_their_tokens_do_not_come_out(client: httpx.Client, ledger: World) -> None:
    token = "fcm-" + "7" * 40
    device = {"user_id": 7, "app": "shop", "platform": "fcm", "token": token, "language": "de", "tags": ["a"]}
    made = client.post("/v1/devices", json=device)
    assert (made.status_code, made.json()["created"]) == (201, True)
    assert client.post("/v1/devices", json=device).status_code == 200
    device_id = made.json()["device_id"]
    path = f"/v1/users/7/devices/{device_id}"
    change = {"language": "pt-BR", "tags": None, "attributes": {"first_name": "Ada"}, "country": None}
    assert client.patch(path, json=change).status_code == 204
    (found,) = client.get("/v1/users/7/devices").json()["devices"]
    assert (found["language"], found["tags"], found["attributes"]) == ("pt-BR", [], {"first_name": "Ada"})
    assert token not in json.dumps(found)
    assert client.patch(path, json={"token": "x"}).json()["field"] == "token"
    assert client.patch("/v1/users/8/devices/1", json=change).status_code == 404
    moved = client.post("/v1/devices", json={**device, "user_id": 8})
    assert moved.json()["moved_from"] == [7]
    assert client.patch(path, json=change).status_code == 404, "the phone is somebody else's"
    gone = {"app": "shop", "platform": "fcm", "token": token}
    assert client.post("/v1/devices/unregister", json=gone).json() == {"unregistered": 1}
    assert client.post("/v1/devices/unregister", json=gone).json() == {"unregistered": 0}
    again = client.post("/v1/devices", json=device).json()["device_id"]
    assert client.delete(f"/v1/users/7/devices/{again}").status_code == 204
    assert client.delete(f"/v1/users/7/devices/{again}").status_code == 404


def test_an_import_is_read_as_it_comes(client: httpx.Client, web: Web, ledger: World) -> None:
    before = peak(web)
    size = 0

    def lines() -> Iterator[bytes]:
        nonlocal size
        yield b"user_id,app,platform,token,language\n"
        for start in range(1, 20_001, 500):
            part = b"".join(
                b"%d,shop,fcm,fcm-%040d,de\n" % (user, user) + b"junk " * 300 + b"\n"
                for user in range(start, start + 500)
            )
            size += len(part)
            yield part

    answer = client.post("/v1/devices/import", content=lines(), headers={"Content-Type": "text/csv"})
    report = answer.json()
    assert (report["inserted"], report["rejected"], len(report["rejects"])) == (20_000, 20_000, 100)
    assert report["rejects"][0]["line"] == 3
    assert "junk" not in answer.text.replace("'junk", ""), "no record of it"
    assert size > 25_000_000
    assert peak(web) - before < 60_000_000, "never all of it"
    assert ledger.value("SELECT count(*) FROM device_tokens") == 20_000
    lines_ = "\n".join(
        json.dumps({"user_id": n, "platform": "fcm", "token": f"fcm-{n:040d}"}) for n in (1, 2)
    )
    answer = client.post(
        "/v1/devices/import?app=blog", content=lines_, headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.json()["inserted"] == 2


def test_members_are_replaced_as_a_whole_or_not_at_all(client: httpx.Client, web: Web, ledger: World) -> None:
    base = "/v1/apps/shop/segments"
    text_ = {"Content-Type": "text/plain"}
    assert client.post(base, json={"name": "vips"}).status_code == 201
    assert client.post(base, json={"name": "vips"}).status_code == 409
    path = f"{base}/vips/members"
    report = client.put(path, content=(b"%d\n" % n for n in range(1, 60_001)), headers=text_).json()
    assert (report["read"], report["changed"]) == (60_000, 60_000)
    assert client.get(f"{base}/vips/count").json()["members"] == 60_000
    assert client.put(path, content=b"user_id\n1\n2\nx\n", headers={"Content-Type": "text/csv"}).json() == {
        "read": 2,
        "changed": 2,
        "rejected": 1,
        "rejects": [
            {"line": 4, "reason": "user_id: found 'x'; expected a whole number from 1 to 9223372036854775807"}
        ],
    }
    assert client.put(path, content=b"x\ny\n", headers={"Content-Type": "text/plain"}).status_code == 422
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n"
    with socket.create_connection(("127.0.0.1", web.port), timeout=PATIENCE_S) as gone:
        gone.sendall(f"{head}Authorization: {client.headers['Authorization']}\r\n\r\n5\n6\n".encode())
    assert client.post(path, content=b"2\n3\n", headers=text_).json()["changed"] == 1
    assert client.get(f"{base}/vips/count").json()["members"] == 3, "the broken-off upload changed nothing"
    assert client.put(f"{base}/nope/members", content=b"1\n", headers=text_).status_code == 404
    assert client.post(base, json={"name": "de", "filter": {"language": "de"}}).status_code == 201
    first = client.get(base, params={"limit": 1}).json()
    second = client.get(base, params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [first["segments"][0]["name"], second["segments"][0]["name"]] == ["de", "vips"]
    assert client.delete(f"{base}/vips").status_code == 204
    assert client.get(f"{base}/vips").status_code == 404


# The process


def test_sigterm_ends_streams_and_then_the_process(
    database: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with open_web(urls(database, redis_server.url(0), redis_server.url(1)), tmp_path) as web:
        client = web.client()
        send_id = client.post("/v1/notifications", json=GOOD).json()["send_id"]
        with client.stream("GET", f"/v1/sends/{send_id}/events") as response:
            told = events(response)
            assert next(told)[1]["state"] == "accepted"
            web.process.send_signal(signal.SIGTERM)
            assert list(told) == [], "the stream ends, as if the server had nothing more to say"
        assert web.process.wait(PATIENCE_S) == 0
        with web.database.begin() as connection:
            rows = connection.execute(
                text("SELECT object_id FROM audit_log WHERE action = 'send.create'")
            ).all()
        assert [row.object_id for row in rows] == [send_id], "who sent it is on record"


def test_metrics_need_a_key_and_probes_do_not(web: Web, client: httpx.Client) -> None:
    with httpx.Client(base_url=web.address, timeout=60, trust_env=False) as stranger:
        assert stranger.get("/healthz").json() == {"ok": True, "checks": {}}
        assert set(stranger.get("/readyz").json()["checks"]) == {"database", "redis", "broker"}
        assert stranger.get("/metrics").status_code == 401
    assert client.get("/v1/sends").status_code == 200
    assert client.get("/nowhere").status_code == 404
    told = client.get("/metrics").text
    assert re.search(
        r'^pushq_web_requests_total\{operation="list_sends",status="200"\} [1-9]', told, re.MULTILINE
    )
    assert re.search(
        r'^pushq_web_requests_total\{operation="metrics",status="401"\} [1-9]', told, re.MULTILINE
    )
    assert re.search(r'^pushq_web_request_seconds_count\{operation="list_sends"\} [1-9]', told, re.MULTILINE)
    assert re.search(r'^pushq_web_requests_total\{operation="none",status="404"\} [1-9]', told, re.MULTILINE)


def command(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PUSHQ_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


RUN = "import sys; sys.argv = ['pushq', 'web', '--port', '{port}']; from pushq.cli import main; main()"


def test_without_the_extra_the_command_says_what_to_install(database: str, redis_url: str) -> None:
    code = "import sys; sys.modules['fastapi'] = None; " + RUN.format(port=0)
    done = command(code, urls(database, redis_url, "redis://127.0.0.1:9/1"))
    assert (done.returncode, "pip install 'pushq[web]'" in done.stderr) == (1, True), done.stderr


def test_a_port_that_is_taken_is_named(database: str, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command(RUN.format(port=port), urls(database, redis_url, "redis://127.0.0.1:9/1"))
    assert done.returncode == 1
    assert f"PUSHQ_WEB_PORT: found {port} on 127.0.0.1, where nobody can listen" in done.stderr


def test_a_setting_that_is_missing_is_named() -> None:
    done = command(RUN.format(port=0), {})
    assert (done.returncode, "PUSHQ_DATABASE_URL" in done.stderr) == (1, True), done.stderr
