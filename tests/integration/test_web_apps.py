"""Who may touch one app only finds nothing of another's, at any route; and what was done is on record, once, under the right name."""

from __future__ import annotations

import gc
import logging
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest
from sqlalchemy import text

from pushq.access import audit, keys, users
from pushq.access.local import local
from pushq.audience import segments
from pushq.embedded.redis import RedisServer
from pushq.ledger import sends
from pushq.web.security import routes_of, scopes_of
from tests.integration.ledger_world import APP, World, bare_app, open_world, token
from tests.integration.web_door import Door, Visitors, opened_door
from tests.integration.web_process import open_web, urls
from tests.services.fixtures import Fleet

OTHER = "news"
USER = 42
#: Stands in the message, the segment's name and a tag of the shop's devices: seen in an answer, it has come through.
MARK = "geheimnis4711"
NOTIFICATION: Final = {"title": MARK, "body": "b"}


@dataclass
class Shop:
    """What an app has that another one's keys must not reach."""

    door: Door
    world: World
    send_id: uuid.UUID
    device_id: int

    def path(self, template: str) -> str:
        values = {
            "send_id": str(self.send_id),
            "app": APP,
            "name": MARK,
            "user_id": str(USER),
            "device_id": str(self.device_id),
            "key_id": "0" * 16,
        }
        return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: values.get(found[1], "x"), template)

    def everything(self) -> bytes:
        """The shop's devices, segments and sends as they stand."""
        with self.world.database.begin() as connection:
            return orjson.dumps(
                [
                    connection.execute(text(f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1"))
                    .scalars()
                    .all()
                    for table in ("sends", "device_tokens", "segments", "segment_members")
                ]
            )


@pytest.fixture(scope="module")
def door(_fleet: Fleet, ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    apps = {name: bare_app(tmp_path_factory.mktemp(name)) for name in (APP, OTHER)}
    with opened_door(_fleet, ledger_url, apps=apps) as door:
        yield door


@pytest.fixture
def shop(door: Door, ledger_url: str) -> Iterator[Shop]:
    door.forget()
    with open_world(ledger_url, door.settings.apps[APP]) as world:
        world.empty()
        world.change("TRUNCATE audit_log")
        world.add_devices("fcm", 3, first=USER, tags=f'["{MARK}"]')
        segments.create(world.database, APP, MARK)
        segments.add_members(world.database, APP, MARK, iter([[USER]]))
        send_id = world.send(notification=NOTIFICATION, audience={"segments": [MARK]}, idempotency_key=MARK)
        device_id = world.value("SELECT id FROM device_tokens WHERE user_id = :u", u=USER)
        yield Shop(door, world, send_id, device_id)


#: What each route that changes something is asked to do to the shop.
BODIES: Final[dict[tuple[str, str], Any]] = {
    ("POST", "/v1/broadcasts"): {"app": APP, "notification": NOTIFICATION, "audience": {"segments": ["all"]}},
    ("POST", "/v1/notifications"): {"app": APP, "notification": NOTIFICATION, "user_ids": [USER]},
    ("POST", "/v1/sends/{send_id}/pause"): None,
    ("POST", "/v1/sends/{send_id}/resume"): {},
    ("POST", "/v1/sends/{send_id}/cancel"): None,
    ("PUT", "/v1/sends/{send_id}/rate"): {"rate": 1},
    ("POST", "/v1/sends/{send_id}/replay"): {"outcomes": ["cancelled"]},
    ("POST", "/v1/devices"): {"user_id": 7, "app": APP, "platform": "fcm", "token": token("fcm", USER)},
    ("POST", "/v1/devices/unregister"): {"app": APP, "platform": "fcm", "token": token("fcm", USER)},
    ("POST", "/v1/devices/import"): b'{"user_id": 7, "app": "shop", "platform": "fcm", "token": "%s"}\n'
    % token("fcm", USER).encode(),
    ("PATCH", "/v1/users/{user_id}/devices/{device_id}"): {"language": "fr"},
    ("DELETE", "/v1/users/{user_id}/devices/{device_id}"): None,
    ("POST", "/v1/apps/{app}/segments"): {"name": "more"},
    ("DELETE", "/v1/apps/{app}/segments/{name}"): None,
    ("PUT", "/v1/apps/{app}/segments/{name}/members"): b"1\n",
    ("POST", "/v1/apps/{app}/segments/{name}/members"): b"1\n",
}
_TYPES: Final = {"/v1/devices/import": "application/x-ndjson"}
#: Asked for everything, these answer with what is there for the one who asks.
OWN_ONLY: Final = {"/v1/audit", "/v1/sends", "/v1/users/{user_id}/devices", "/v1/devices/import", "/metrics"}


def routes(door: Door, prefix: str) -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for route in routes_of(door.app)
        if route.path.startswith(prefix) and scopes_of(route)
        for method in sorted(route.methods - {"HEAD"})
    ]


def test_a_key_of_another_app_reaches_nothing(shop: Shop) -> None:
    before = shop.everything()
    unsafe = {(method, path) for method, path in routes(shop.door, "/v1/") if method != "GET"}
    assert unsafe == BODIES.keys(), "each route is asked for something that would change the shop"
    with shop.door.client(shop.door.key("admin", apps=[OTHER])) as client:
        for method, path in routes(shop.door, "/v1/"):
            body = BODIES.get((method, path))
            content = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
            kind = _TYPES.get(path, "text/plain" if isinstance(body, bytes) else "application/json")
            headers = {} if body is None else {"Content-Type": kind}
            answer = client.request(method, shop.path(path), content=content, headers=headers)
            wanted = {200} if path in OWN_ONLY else {403, 404}
            assert answer.status_code in wanted, (method, path, answer.status_code, answer.text)
            assert MARK not in answer.text, (method, path)
        assert client.get("/v1/sends", params={"app": APP}).status_code == 403
        assert client.get("/v1/audit", params={"app": APP}).status_code == 403
        assert client.get("/v1/sends").json()["sends"] == []
        assert client.get(f"/v1/users/{USER}/devices").json()["devices"] == []
    assert shop.everything() == before


def test_the_same_key_of_the_shop_reaches_it(shop: Shop) -> None:
    """Else the test before would prove nothing."""
    with shop.door.client(shop.door.key("admin", apps=[APP])) as client:
        assert MARK in client.get("/v1/sends").text
        assert MARK in client.get(f"/v1/users/{USER}/devices").text
        assert client.get(f"/v1/apps/{APP}/segments/{MARK}").status_code == 200
        assert client.get(f"/v1/sends/{shop.send_id}").status_code == 200


def beginning(answer: httpx.Response) -> str:
    """The whole answer; of a page that is kept alive, which has no end, what is there before it waits."""
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        return answer.read().decode()
    shown = ""
    for part in answer.iter_text():
        shown += part
        if "data:" in shown:
            break
    return shown


#: Filled in as for the shop: everything that the console's forms have.
FORM: Final = {
    "app": APP,
    "title": "t",
    "body": "b",
    "segment": "all",
    "users": str(USER),
    "test_user": str(USER),
    "rate": "1",
    "outcome": "cancelled",
    "name": "mine",
    "scope": "send",
}


def test_somebody_at_the_console_for_another_app_sees_nothing(shop: Shop) -> None:
    before = shop.everything()
    shop.door.user("eve", "admin", apps=[OTHER])
    with shop.door.signed_in("eve") as client:
        for method, path in routes(shop.door, "/console"):
            options: dict[str, Any] = (
                {"data": FORM} if method == "POST" else {"params": {"app": APP, "user": USER, "q": MARK}}
            )
            headers = {"Accept": "text/html"}
            with client.stream(method, shop.path(path), headers=headers, **options) as answer:
                shown = beginning(answer)
            assert answer.status_code < 500, (method, path, shown)
            assert MARK not in shown, (method, path)
            assert str(shop.send_id) not in shown.replace(shop.path(path), ""), (method, path)
            if "{send_id}" in path and not path.endswith("/live"):
                assert answer.status_code in {403, 404}, (method, path, answer.status_code)
    assert shop.everything() == before


def test_a_stream_ends_with_the_key_or_the_session_that_opened_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for silence in ("pushq.web.api.sends.KEEP_ALIVE_S", "pushq.web.console.live.SILENT_S"):
        monkeypatch.setattr(silence, 0.5)
    door = shop.door
    door.user("ada")
    made, key = keys.issue(door.database, local(), name="follower", scopes=["sends:read"])
    with (
        door.client({"Authorization": f"Bearer {key}"}) as program,
        door.signed_in("ada") as browser,
        program.stream("GET", f"/v1/sends/{shop.send_id}/events") as events,
        browser.stream("GET", "/console/live") as page,
    ):
        assert (events.status_code, page.status_code) == (200, 200)
        streams = events.iter_text(), page.iter_text()
        assert all(next(stream) for stream in streams)
        keys.revoke(door.database, local(), made.id)
        users.sign_out(door.database, local(), "ada")
        for stream in streams:
            for _ in stream:  # the client's time-out is the deadline
                pass
    with door.client(door.key("sends:read")) as leaving:
        for path in (f"/v1/sends/{shop.send_id}/events", "/v1/sends"):
            with leaving.stream("GET", path) as answer:
                next(answer.iter_text())  # and goes away
    gc.collect()
    wrong = [(r.name, r.getMessage()) for r in caplog.records if r.levelno >= logging.ERROR]
    assert wrong == [], "what makes a stream is closed with it"


def test_who_sent_held_and_ended_what_is_on_record_once(
    shop: Shop, ledger_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    where = f"/v1/sends/{shop.send_id}"
    environment = urls(ledger_url, redis_server.url(0), redis_server.url(1))
    with open_web({**environment, "PUSHQ_WEB_TRUSTED_PROXIES": "127.0.0.1"}, tmp_path) as web:
        visitors = Visitors(web.address, shop.world.database)
        key = visitors.key("send", "sends:control", "segments", apps=[APP], name="backend")
        with visitors.client({**key, "X-Forwarded-For": "192.0.2.77"}) as client:
            for user in (USER, USER + 1):
                message = {"app": APP, "notification": NOTIFICATION, "user_ids": [user]}
                assert client.post("/v1/notifications", json=message).status_code == 202
            call = {"app": APP, "notification": NOTIFICATION, "audience": {"segments": ["all"]}}
            assert client.post("/v1/broadcasts", json=call).status_code == 202
            assert client.post(f"{where}/pause").json()["changed"]
            assert not client.post(f"{where}/pause").json()["changed"]
            assert client.put(f"{where}/rate", json={"rate": 7}).json()["changed"]
            assert client.post(f"/v1/apps/{APP}/segments", json={"name": "new"}).status_code == 201
        visitors.user("ada")
        with visitors.signed_in("ada") as client:
            for order in ("resume", "cancel"):
                answer = client.post(f"/console/sends/{shop.send_id}/{order}", data={"x": "y"})
                assert answer.status_code == 303
        with visitors.client(visitors.key("audit:read", apps=[APP])) as client:
            asked = {"limit": "2", "object": str(shop.send_id)}
            pages = [client.get("/v1/audit", params=asked).json()]
            asked["cursor"] = pages[0]["next_cursor"]
            pages.append(client.get("/v1/audit", params=asked).json())
            assert [row["action"] for row in pages[0]["audit"]] == ["send.cancel", "send.resume"]
            assert [row["action"] for row in pages[1]["audit"]] == ["send.rate", "send.pause"]
            for wrong in ("x", "WyIxIl0x", pages[0]["next_cursor"][:-2]):
                assert client.get("/v1/audit", params={"cursor": wrong}).status_code == 422
    # The process has ended in good order: what it had gathered is written.
    called = audit.read(shop.world.database, action="send.create")
    said = [(row.actor_kind, row.actor, row.app, row.remote) for row in called]
    assert said == [("key", "backend", APP, "192.0.2.77")] * 3
    assert len({row.object_id for row in called}) == 3
    assert [row.action for row in audit.read(shop.world.database, action="segment")] == ["segment.create"]
    orders = [
        (row.action, row.actor_kind, row.actor, row.app)
        for row in reversed(audit.read(shop.world.database, object_id=str(shop.send_id)))
    ]
    assert orders == [
        ("send.pause", "key", "backend", APP),
        ("send.rate", "key", "backend", APP),
        ("send.resume", "user", "ada", APP),
        ("send.cancel", "user", "ada", APP),
    ]
    with shop.world.database.begin() as connection:
        rows = connection.execute(text("SELECT to_jsonb(a)::text FROM audit_log a")).scalars().all()
        assert sends.state_of(connection, shop.send_id) == "cancelled"
    for written in (*rows, web.log.read_text()):
        assert MARK not in written, "no text of a message is on record"
        assert token("fcm", USER) not in written
        assert key["Authorization"].partition(" ")[2] not in written
