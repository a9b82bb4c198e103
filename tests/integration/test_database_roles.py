"""The script that makes the database's roles can be run again while everybody works."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import orjson
import psycopg
import pytest

from pushq.access import audit, cleanup, keys, sessions, users
from pushq.access.local import local
from pushq.database import Database
from pushq.embedded.redis import RedisServer
from pushq.errors import InvalidRequest
from pushq.service_urls import ServiceUrl
from pushq.tokens import upkeep
from tests.integration.database_roles import LOGINS, ROLES_SQL, as_role, roles
from tests.integration.ledger_world import APP, bare_app, open_world, token
from tests.integration.web_door import PASSWORD, Visitors
from tests.integration.web_process import open_web, urls


def statements() -> list[str]:
    """What psql makes of the file: it sends one after the other, each a transaction of its own unless the file says otherwise."""
    text = re.sub(r"--.*$", "", ROLES_SQL.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [one.strip() for one in re.findall(r"(?:\$\$.*?\$\$|[^;$])+;", text, re.DOTALL)]


def run(url: str, texts: Iterable[str]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for text in texts:
            connection.execute(text.encode())


def granted(url: str) -> set[tuple[str, ...]]:
    """Everything that the roles may do with tables, and who owns them."""
    with psycopg.connect(url) as connection:
        return set(
            connection.execute(
                "SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants"
                " WHERE grantee = ANY(%s) UNION ALL SELECT tableowner, tablename, 'owner' FROM pg_tables"
                " WHERE schemaname = 'public'",
                [list(LOGINS)],
            )
        )


@pytest.fixture(scope="module")
def url(ledger_url: str) -> Iterator[str]:
    """A database with the roles; its dead letters go with them."""
    with roles(ledger_url):
        yield ledger_url


def test_an_error_half_way_takes_nothing_from_anybody(url: str) -> None:
    before = granted(url)
    assert ("pushq_deliver", "device_tokens", "SELECT") in before
    whole = statements()
    for broken_at in range(1, len(whole)):
        with pytest.raises(psycopg.errors.DivisionByZero):
            run(url, [*whole[:broken_at], "SELECT 1 / 0"])
        assert granted(url) == before, whole[broken_at]
    run(url, whole)
    assert granted(url) == before


@contextmanager
def opened_as(url: str, role: str) -> Iterator[Database]:
    database = Database(ServiceUrl(as_role(url, role)), pool_size=2)
    try:
        yield database
    finally:
        database.close()


def test_each_role_has_what_access_needs(url: str) -> None:
    with opened_as(url, "pushq_operator") as operator:
        made, _ = keys.issue(operator, local(), name="a", scopes=["send"])
        user = users.create(operator, local(), name="ada", password=PASSWORD)
        links = [sessions.login_link(operator, local(), "ada") for _ in range(2)]
        users.set_password(operator, local(), "ada", PASSWORD + "!")
    with opened_as(url, "pushq_web") as web:
        assert keys.look_up(web, made.id) is not None
        assert users.authenticate(web, "ada", PASSWORD + "!").user is not None
        assert sessions.redeem(web, links[0]) is not None
        token = sessions.start(web, user, life=timedelta(hours=1), remote=None)
        run(url, ["UPDATE console_sessions SET seen_at = seen_at - interval '5 min'"])
        assert sessions.look_up(web, token) is not None
        keys.issue(web, user.principal(), name="b", scopes=["send"])
        assert keys.revoke(web, local(), made.id)
        assert audit.read(web, action="key")
    with opened_as(url, "pushq_core") as core:
        run(url, ["UPDATE console_sessions SET ends_at = now()", "UPDATE login_links SET ends_at = now()"])
        run(url, ["UPDATE audit_log SET at = at - interval '2 years'"])
        done = cleanup.clean(core, audit_days=365)
        assert (done.sessions, done.links) == (1, 1)
        assert done.audit_rows > 5
    with opened_as(url, "pushq_operator") as operator:
        assert users.sign_out(operator, local(), "ada") == 0
        users.delete(operator, local(), "ada")
        assert [row.action for row in audit.read(operator)] == ["user.delete", "user.sign_out"]


def test_who_may_not_vacuum_is_told_so_before_the_import(url: str) -> None:
    with (
        opened_as(url, "pushq_operator") as operator,
        pytest.raises(InvalidRequest, match=r"^vacuum: found the role 'pushq_operator', which does not own"),
    ):
        upkeep.check_vacuum(operator)
    owner = Database(ServiceUrl(url), pool_size=2)
    try:
        upkeep.check_vacuum(owner)
    finally:
        owner.close()


def test_the_api_and_the_console_live_on_the_role_of_pushq_web(
    url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with opened_as(url, "pushq_operator") as operator:
        users.create(operator, local(), name="ada", password=PASSWORD, scopes=["admin"])
    environment = urls(as_role(url, "pushq_web"), redis_server.url(0), redis_server.url(1))
    with open_world(url, bare_app(tmp_path)) as world, open_web(environment, tmp_path) as web:
        world.empty()
        world.add_devices("fcm", 5)
        send_id = world.send(audience={"segments": ["all"]})
        visitors = Visitors(web.address, world.database)
        device = {"user_id": 1, "app": APP, "platform": "fcm", "token": token("fcm", 1)}
        where, segment = f"/v1/sends/{send_id}", f"/v1/apps/{APP}/segments/vips"
        lines = {"Content-Type": "text/plain"}
        with visitors.client(visitors.key("admin")) as client:
            answers = [
                client.post("/v1/devices", json=device),
                client.post(
                    "/v1/devices/import",
                    content=orjson.dumps({**device, "user_id": 9, "token": token("fcm", 9)}),
                    headers={"Content-Type": "application/x-ndjson"},
                ),
                client.get("/v1/users/9/devices"),
                client.post(
                    "/v1/devices/unregister", json={k: v for k, v in device.items() if k != "user_id"}
                ),
                client.post(f"/v1/apps/{APP}/segments", json={"name": "vips"}),
                client.put(f"{segment}/members", content=b"1\n2\n", headers=lines),
                client.get(f"{segment}/count"),
                client.delete(segment),
                client.post(
                    "/v1/notifications",
                    json={"app": APP, "user_ids": [2], "notification": {"title": "t"}},
                    headers={"Idempotency-Key": "k"},
                ),
                client.get("/v1/sends"),
                client.get(where),
                *(client.post(f"{where}/{order}") for order in ("pause", "resume")),
                client.put(f"{where}/rate", json={"rate": 5}),
                client.get(f"{where}/export"),
                client.post(f"{where}/cancel"),
                client.post(f"{where}/replay", json={"outcomes": ["cancelled"]}),
                client.get("/v1/audit"),
                client.get("/readyz"),
            ]
        with visitors.signed_in("ada") as browser:
            pages = (
                "",
                "dead-letters",
                "devices?user=2",
                "queues",
                "credentials",
                "access",
                f"sends/{send_id}",
            )
            answers += [browser.get(f"/console/{page}") for page in pages]
            answers.append(browser.post("/console/access/keys", data={"name": "made here", "scope": "send"}))
            assert "pushq_" in answers[-1].text
            assert browser.post("/logout").status_code == 303
        wrong = [(str(a.request.url), a.status_code, a.text[:200]) for a in answers if a.status_code >= 300]
        assert wrong == [], web.log.read_text()[-3000:]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (
            "pushq_web",
            "INSERT INTO console_users (name, password_hash, scopes) VALUES ('eve', '', '{admin}')",
        ),
        ("pushq_web", "UPDATE console_users SET scopes = '{admin}'"),
        ("pushq_web", "UPDATE api_keys SET scopes = '{admin}'"),
        ("pushq_web", "UPDATE api_keys SET secret_hash = ''"),
        ("pushq_web", "INSERT INTO login_links (token_hash, user_name, ends_at) VALUES ('', 'ada', now())"),
        ("pushq_web", "UPDATE console_sessions SET user_name = 'ada'"),
        ("pushq_web", "DELETE FROM sends"),
        ("pushq_operator", "SELECT * FROM console_sessions"),
        (
            "pushq_operator",
            "INSERT INTO console_sessions (token_hash, user_name, ends_at) VALUES ('', 'ada', now())",
        ),
        *(
            (role, statement)
            for role in ("pushq_web", "pushq_operator")
            for statement in (
                "UPDATE audit_log SET actor = 'eve'",
                "DELETE FROM audit_log",
                "TRUNCATE audit_log",
            )
        ),
        *(
            (role, f"SELECT * FROM {table}")
            for role in ("pushq_core", "pushq_deliver", "pushq_observer")
            for table in ("api_keys", "console_users", "console_sessions", "login_links", "audit_log")
        ),
    ],
)
def test_what_a_role_may_not_do_with_access(url: str, role: str, statement: str) -> None:
    with (
        psycopg.connect(as_role(url, role)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_it_waits_for_no_table_when_there_is_nothing_new(url: str) -> None:
    """A new owner would have to wait for whoever reads, and everybody else behind it."""
    with psycopg.connect(url) as reader:
        reader.execute("SELECT count(*) FROM dead_letters")
        impatient = (text.replace("'10s'", "'200ms'") for text in statements())
        run(url, ["SET lock_timeout = '200ms'", *impatient])
