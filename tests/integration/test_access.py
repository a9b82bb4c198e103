"""Keys, users, sessions and the audit log, on a real PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from pushq import control
from pushq.access import audit, cleanup, keys, sessions, users
from pushq.access.local import local
from pushq.access.principal import Forbidden, Principal
from pushq.app_settings import AppSettings
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.service_urls import ServiceUrl
from tests.integration.ledger_world import APP, World, bare_app, open_world
from tests.integration.web_door import PASSWORD

BY = Principal("key", "backend", "0123456789abcdef", frozenset({"admin"}), None, "192.0.2.7")
DAY = timedelta(days=1)


@pytest.fixture
def db(ledger_url: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(ledger_url), pool_size=2)
    with opened.begin() as connection:
        connection.execute(text("TRUNCATE api_keys, console_users, console_sessions, login_links, audit_log"))
    yield opened
    opened.close()


@pytest.fixture
def app(tmp_path_factory: pytest.TempPathFactory) -> AppSettings:
    return bare_app(tmp_path_factory.mktemp("app"))


@pytest.fixture
def world(ledger_url: str, app: AppSettings) -> Iterator[World]:
    with open_world(ledger_url, app) as world:
        world.empty()
        yield world


def change(db: Database, statement: str) -> None:
    with db.begin() as connection:
        connection.execute(text(statement))


def everything(db: Database) -> str:
    """All that the tables of access hold, as text."""
    tables = ("api_keys", "console_users", "console_sessions", "login_links", "audit_log")
    with db.begin() as connection:
        return "\n".join(
            str(row)
            for table in tables
            for row in connection.execute(text(f"SELECT to_jsonb(t)::text FROM {table} t")).scalars()
        )


class TestKeys:
    def test_a_key_is_found_by_its_id_and_proved_by_its_secret(self, db: Database) -> None:
        made, key = keys.issue(db, BY, name="shop backend", scopes=["send"], apps=["shop"], rate=5)
        parsed = keys.parse(key)
        assert parsed is not None
        assert parsed[0] == made.id
        found = keys.look_up(db, made.id)
        assert keys.proves(found, parsed[1])
        assert not keys.proves(found, parsed[1][:-1] + ("a" if parsed[1][-1] != "a" else "b"))
        assert not keys.proves(None, parsed[1])
        assert found is not None
        principal = found.key.principal("::1")
        assert (principal.kind, principal.name, principal.id) == ("key", "shop backend", made.id)
        assert (principal.scopes, principal.apps, principal.remote) == (
            frozenset({"send"}),
            frozenset({"shop"}),
            "::1",
        )

    def test_nothing_that_is_stored_lets_anybody_in(self, db: Database) -> None:
        _, key = keys.issue(db, BY, name="a", scopes=["admin"])
        users.create(db, BY, name="ada", password=PASSWORD)
        user = users.authenticate(db, "ada", PASSWORD).user
        assert user is not None
        token = sessions.start(db, user, life=DAY, remote=None)
        link = sessions.login_link(db, BY, "ada")
        stored = everything(db)
        for secret in (key, key.rpartition("_")[2], PASSWORD, token, link, sessions.csrf_token_of(token)):
            assert secret not in stored
            assert secret.encode().hex() not in stored

    def test_two_keys_have_nothing_in_common(self, db: Database) -> None:
        made = [keys.issue(db, BY, name="a", scopes=["send"])[1] for _ in range(20)]
        assert len({key.split("_")[1] for key in made}) == len({key.split("_")[2] for key in made}) == 20

    def test_a_revoked_key_and_one_that_is_over_are_not_found(self, db: Database) -> None:
        first, _ = keys.issue(db, BY, name="a", scopes=["send"])
        second, _ = keys.issue(db, BY, name="b", scopes=["send"], expires_at=datetime.now(UTC) + DAY)
        assert keys.revoke(db, BY, first.id)
        assert not keys.revoke(db, BY, first.id), "a second time changes nothing"
        change(db, "UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE expires_at IS NOT NULL")
        assert keys.look_up(db, first.id) is None
        assert keys.look_up(db, second.id) is None
        assert keys.list_keys(db) == []
        assert {key.id for key in keys.list_keys(db, revoked=True)} == {first.id, second.id}

    def test_the_last_use_is_noted_once_a_minute(self, db: Database) -> None:
        made, _ = keys.issue(db, BY, name="a", scopes=["send"])
        assert keys.list_keys(db)[0].last_used_at is None
        keys.look_up(db, made.id)
        first = keys.list_keys(db)[0].last_used_at
        assert first is not None
        keys.look_up(db, made.id)
        assert keys.list_keys(db)[0].last_used_at == first
        change(db, "UPDATE api_keys SET last_used_at = last_used_at - interval '2 min'")
        keys.look_up(db, made.id)
        later = keys.list_keys(db)[0].last_used_at
        assert later is not None
        assert later >= first

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "a\nb"}, "name"),
            ({"name": "<script>"}, "name"),
            ({"scopes": []}, "scopes"),
            ({"scopes": ["send", "root"]}, "scopes"),
            ({"apps": ["Shop!"]}, "apps"),
            ({"rate": 0}, "rate"),
            ({"expires_at": datetime(2030, 1, 1)}, "expires_at"),  # noqa: DTZ001 - that is what is wrong
        ],
    )
    def test_a_wrong_key_is_refused_by_its_field(
        self, db: Database, wrong: dict[str, object], field: str
    ) -> None:
        call: dict[str, object] = {"name": "a", "scopes": ["send"], **wrong}
        with pytest.raises(InvalidRequest) as raised:
            keys.issue(db, BY, **call)  # type: ignore[arg-type]
        assert raised.value.field == field
        assert everything(db) == ""

    def test_nobody_makes_or_revokes_a_key_that_may_do_more(self, db: Database) -> None:
        sender = Principal("user", "ada", "ada", frozenset({"send", "devices"}))
        shop = Principal("user", "bob", "bob", frozenset({"admin"}), frozenset({"shop"}))
        with pytest.raises(Forbidden, match="scope admin"):
            keys.issue(db, sender, name="a", scopes=["admin"])
        with pytest.raises(Forbidden, match="scope segments"):
            keys.issue(db, sender, name="a", scopes=["send", "segments"])
        with pytest.raises(Forbidden, match="all apps"):
            keys.issue(db, shop, name="a", scopes=["send"])
        with pytest.raises(Forbidden, match="app news"):
            keys.issue(db, shop, name="a", scopes=["send"], apps=["shop", "news"])
        assert everything(db) == ""
        keys.issue(db, sender, name="a", scopes=["send"])
        mine, _ = keys.issue(db, shop, name="a", scopes=["admin"], apps=["shop"])
        whole, _ = keys.issue(db, BY, name="a", scopes=["send"])
        with pytest.raises(Forbidden, match="all apps"):
            keys.revoke(db, shop, whole.id)
        assert keys.look_up(db, whole.id) is not None
        assert keys.revoke(db, shop, mine.id)

    def test_an_unknown_key_cannot_be_revoked(self, db: Database) -> None:
        with pytest.raises(keys.UnknownKey):
            keys.revoke(db, BY, "0" * 16)
        with pytest.raises(InvalidRequest):
            keys.revoke(db, BY, "'; DROP TABLE api_keys; --")


class TestUsers:
    def test_only_the_right_password_lets_in(self, db: Database) -> None:
        users.create(db, BY, name="ada", password=PASSWORD, apps=["shop"])
        found = users.authenticate(db, "ada", PASSWORD).user
        assert found is not None
        assert (found.scopes, found.apps) == (users.DEFAULT_SCOPES, frozenset({"shop"}))
        for name, password in (
            ("ada", PASSWORD + "x"),
            ("ada", ""),
            ("eve", PASSWORD),
            ("ada\0", "x"),
            ("", ""),
        ):
            assert users.authenticate(db, name, password).user is None

    def test_whether_a_name_exists_is_told_to_the_log_alone(self, db: Database) -> None:
        users.create(db, BY, name="ada", password=PASSWORD)
        assert users.authenticate(db, "ada", "wrong") == users.Attempt(None, known=True)
        assert users.authenticate(db, "eve", "wrong") == users.Attempt(None, known=False)

    def test_who_may_touch_some_apps_sees_users_and_keys_of_these(self, db: Database) -> None:
        for name, apps in (("all", None), ("both", ["shop", "news"]), ("shop", ["shop"])):
            users.create(db, BY, name=name, password=PASSWORD, apps=apps)
            keys.issue(db, BY, name=name, scopes=["send"], apps=apps)
        shop = frozenset({"shop"})
        assert [user.name for user in users.list_users(db, apps=shop)] == ["shop"]
        assert [key.name for key in keys.list_keys(db, apps=shop)] == ["shop"]
        assert len(users.list_users(db)) == len(keys.list_keys(db)) == 3

    def test_a_letter_typed_in_two_ways_is_one_letter(self, db: Database) -> None:
        users.create(db, BY, name="ada", password="gr\u00fcne Wiesen im Mai")
        assert users.authenticate(db, "ada", "gru\u0308ne Wiesen im Mai").user is not None

    @pytest.mark.parametrize("weak", ["short", "aaaaaaaaaaaaaaaa", "ada-lovelace1", "x" * 300])
    def test_a_weak_password_is_refused_and_not_repeated(self, db: Database, weak: str) -> None:
        with pytest.raises(InvalidRequest) as raised:
            users.create(db, BY, name="ada-lovelace", password=weak)
        assert weak not in str(raised.value)
        assert everything(db) == ""

    def test_names_are_taken_once(self, db: Database) -> None:
        users.create(db, BY, name="ada", password=PASSWORD)
        with pytest.raises(InvalidRequest, match="exists"):
            users.create(db, BY, name="ada", password=PASSWORD)

    def test_a_new_password_ends_all_sessions(self, db: Database) -> None:
        user = users.create(db, BY, name="ada", password=PASSWORD)
        token = sessions.start(db, user, life=DAY, remote=None)
        users.set_password(db, BY, "ada", PASSWORD + "!")
        assert sessions.look_up(db, token) is None
        assert users.authenticate(db, "ada", PASSWORD).user is None
        assert users.authenticate(db, "ada", PASSWORD + "!").user is not None

    def test_what_does_not_exist_cannot_be_changed(self, db: Database) -> None:
        with pytest.raises(users.UnknownUser):
            users.set_password(db, BY, "eve", PASSWORD)
        with pytest.raises(users.UnknownUser):
            users.delete(db, BY, "eve")
        with pytest.raises(users.UnknownUser):
            users.sign_out(db, BY, "eve")
        with pytest.raises(users.UnknownUser):
            sessions.login_link(db, BY, "eve")
        assert everything(db) == ""


class TestSessions:
    @pytest.fixture
    def user(self, db: Database) -> users.User:
        return users.create(db, BY, name="ada", password=PASSWORD)

    @pytest.mark.parametrize(
        "ending",
        [
            "UPDATE console_sessions SET ends_at = now()",
            "UPDATE console_sessions SET seen_at = now() - interval '121 min'",
            "DELETE FROM console_users",
        ],
    )
    def test_it_ends(self, db: Database, user: users.User, ending: str) -> None:
        token = sessions.start(db, user, life=DAY, remote=None)
        assert sessions.look_up(db, token) is not None
        change(db, ending)
        assert sessions.look_up(db, token) is None

    def test_it_ends_by_itself_and_by_order(self, db: Database, user: users.User) -> None:
        first, second, third = (sessions.start(db, user, life=DAY, remote=None) for _ in range(3))
        sessions.end(db, user.principal(), first)
        assert sessions.look_up(db, first) is None
        assert sessions.look_up(db, second) is not None
        assert users.list_users(db)[0].sessions == 2
        assert users.sign_out(db, BY, "ada") == 2
        assert sessions.look_up(db, third) is None

    def test_rights_that_change_change_at_once(self, db: Database, user: users.User) -> None:
        token = sessions.start(db, user, life=DAY, remote=None)
        change(db, "UPDATE console_users SET scopes = '{sends:read}', apps = '{shop}'")
        found = sessions.look_up(db, token)
        assert found is not None
        assert (found.user.scopes, found.user.apps) == (frozenset({"sends:read"}), frozenset({"shop"}))

    def test_the_oldest_of_too_many_end(self, db: Database, user: users.User) -> None:
        first = sessions.start(db, user, life=DAY, remote=None)
        for _ in range(sessions.MOST_SESSIONS):
            last = sessions.start(db, user, life=DAY, remote=None)
        assert sessions.look_up(db, first) is None
        assert sessions.look_up(db, last) is not None

    def test_a_link_signs_in_once(self, db: Database, user: users.User) -> None:
        link = sessions.login_link(db, BY, user.name)
        assert sessions.redeem(db, link) == user
        assert sessions.redeem(db, link) is None
        late = sessions.login_link(db, BY, user.name)
        change(db, "UPDATE login_links SET ends_at = now()")
        assert sessions.redeem(db, late) is None
        assert sessions.redeem(db, link[:-1]) is None

    def test_the_token_of_forms_is_the_sessions_own(self) -> None:
        first, second = sessions.new_token(), sessions.new_token()
        assert sessions.csrf_token_of(first) == sessions.csrf_token_of(first)
        assert len({first, second, sessions.csrf_token_of(first), sessions.csrf_token_of(second)}) == 4


class TestAudit:
    def test_each_step_with_keys_and_users_is_on_record(self, db: Database) -> None:
        made, _ = keys.issue(db, BY, name="mine", scopes=["send"])
        keys.revoke(db, BY, made.id)
        keys.revoke(db, BY, made.id)
        user = users.create(db, BY, name="ada", password=PASSWORD)
        token = sessions.start(db, user, life=DAY, remote="192.0.2.9")
        sessions.end(db, user.principal("192.0.2.9"), token)
        users.set_password(db, BY, "ada", PASSWORD + "!")
        sessions.login_link(db, BY, "ada")
        users.delete(db, BY, "ada")
        rows = audit.read(db)
        assert [(row.action, row.actor, row.object_id, row.remote) for row in reversed(rows)] == [
            ("key.create", "backend", made.id, "192.0.2.7"),
            ("key.revoke", "backend", made.id, "192.0.2.7"),
            ("user.create", "backend", "ada", "192.0.2.7"),
            ("login", "ada", "ada", "192.0.2.9"),
            ("logout", "ada", "ada", "192.0.2.9"),
            ("user.password", "backend", "ada", "192.0.2.7"),
            ("user.link", "backend", "ada", "192.0.2.7"),
            ("user.delete", "backend", "ada", "192.0.2.7"),
        ]
        assert rows[-1].detail == {"name": "mine", "scopes": ["send"], "apps": None}

    def test_what_was_rolled_back_is_not_on_record(self, db: Database) -> None:
        with pytest.raises(ZeroDivisionError), db.begin() as connection:
            audit.record(connection, BY, "send.pause")
            raise ZeroDivisionError
        assert audit.read(db) == []

    def test_pages_and_conditions(self, db: Database) -> None:
        with db.begin() as connection:
            for number in range(10):
                app = "shop" if number % 2 else "news"
                action = "send.pause" if number % 3 else "sender.change"
                audit.record(connection, BY, action, app=app, object_id=f"s{number}", detail={"n": number})
        whole = audit.read(db)
        first = audit.read(db, limit=4)
        assert [*first, *audit.read(db, before=first[-1].id)] == whole
        assert [row.detail["n"] for row in whole] == list(range(9, -1, -1))
        assert {row.app for row in audit.read(db, app="shop")} == {"shop"}
        assert {row.action for row in audit.read(db, action="send")} == {"send.pause"}
        assert len(audit.read(db, actor="backend")) == len(audit.read(db, actor=BY.id)) == 10
        assert [row.object_id for row in audit.read(db, object_id="s3")] == ["s3"]
        assert audit.read(db, since=datetime.now(UTC) + DAY) == []
        assert audit.read(db, object_id="s3' OR true --") == []
        assert {row.app for row in audit.read(db, apps=frozenset({"news"}))} == {"news"}
        assert audit.read(db, apps=frozenset()) == []

    def test_hostile_texts_are_stored_as_text_and_secrets_not_at_all(self, db: Database) -> None:
        key = keys.issue(db, BY, name="a", scopes=["send"])[1]
        token = "ab" * 32
        hostile = Principal("key", "a\0b", "x", frozenset(), None, "'; DROP TABLE audit_log; --")
        with db.begin() as connection:
            audit.record(
                connection,
                hostile,
                "device.register",
                object_id=f"token {token}",
                detail={
                    "token": token,
                    "header": f"Bearer {key}",
                    "half": "\ud800",
                    "big": 10**30,
                    "long": "x " * 5000,
                },
            )
        stored = everything(db)
        assert token not in stored
        assert key not in stored
        row = audit.read(db, limit=1)[0]
        assert (row.actor, row.remote) == ("ab", "'; DROP TABLE audit_log; --")
        assert row.detail["big"] == str(10**30)
        assert len(row.detail["long"]) == audit.LONGEST_TEXT

    def test_a_detail_that_is_too_long_is_left_out(self, db: Database) -> None:
        with db.begin() as connection:
            audit.record(connection, BY, "send", detail={f"k{n}": "x " * 75 for n in range(100)})
        assert list(audit.read(db)[0].detail) == ["left_out"]


class TestControl:
    def test_who_held_changed_and_ended_a_send(self, db: Database, world: World) -> None:
        world.add_devices("fcm", 10)
        send_id = world.send()
        assert control.pause(send_id, by=BY, database=db).changed
        assert not control.pause(send_id, by=BY, database=db).changed
        control.resume(send_id, by=BY, database=db)
        control.set_rate(send_id, 50, by=BY, database=db)
        control.cancel(send_id, database=db)
        control.replay(send_id, ["cancelled"], by=BY, dry_run=True, database=db)
        done = control.replay(send_id, ["cancelled"], by=BY, database=db)
        assert done.recipients == 10
        rows = list(reversed(audit.read(db, object_id=str(send_id))))
        assert [(row.action, row.app) for row in rows] == [
            (f"send.{what}", APP) for what in ("pause", "resume", "rate", "cancel", "replay")
        ], "what changed nothing is not on record"
        assert [row.detail for row in rows[2:4]] == [{"rate": 50}, {}]
        assert rows[4].detail["recipients"] == 10
        assert [row.actor for row in rows] == [BY.name] * 3 + [local().name] + [BY.name]
        assert rows[3].actor_kind == "local"

    def test_an_export_is_on_record(
        self, db: Database, world: World, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        world.add_devices("fcm", 3)
        send_id = world.send()
        path = tmp_path_factory.mktemp("export") / "rows.csv"
        assert control.export(send_id, path, by=BY, database=db) == 3
        (row,) = audit.read(db, object_id=str(send_id))
        assert (row.action, row.detail["format"]) == ("send.export", "csv")

    def test_sends_of_other_apps_are_out_of_reach(self, db: Database, world: World) -> None:
        world.add_devices("fcm", 3)
        send_id = world.send()
        other = Principal("key", "news", "n" * 16, frozenset({"sends:control"}), frozenset({"news"}))
        calls = (
            lambda: control.pause(send_id, by=other, database=db),
            lambda: control.cancel(send_id, by=other, database=db),
            lambda: control.set_rate(send_id, 1, by=other, database=db),
            lambda: control.replay(send_id, ["cancelled"], by=other, database=db),
            lambda: control.export(send_id, by=other, database=db),
        )
        for call in calls:
            with pytest.raises(Forbidden, match="app shop"):
                call()
        with pytest.raises(control.UnknownSend):
            control.pause(uuid.uuid4(), by=other, database=db)
        assert world.value("SELECT state FROM sends WHERE id = :id", id=send_id) == "sending"
        assert audit.read(db) == []


def test_the_nightly_clean_up(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "PAGE", 3)
    user = users.create(db, BY, name="ada", password=PASSWORD)
    tokens = [sessions.start(db, user, life=DAY, remote=None) for _ in range(5)]
    sessions.login_link(db, BY, "ada")
    kept = sessions.login_link(db, BY, "ada", life=DAY)
    change(
        db, "UPDATE login_links SET ends_at = now() - interval '1 s' WHERE ends_at < now() + interval '1 h'"
    )
    change(
        db,
        "UPDATE console_sessions SET ends_at = now() - interval '1 s' WHERE token_hash IN"
        " (SELECT token_hash FROM console_sessions LIMIT 4)",
    )
    before = len(audit.read(db))
    change(db, "UPDATE audit_log SET at = now() - interval '31 days' WHERE action = 'login'")
    done = cleanup.clean(db, audit_days=30)
    assert (done.sessions, done.links, done.audit_rows) == (4, 1, 5)
    assert sum(sessions.look_up(db, token) is not None for token in tokens) == 1
    assert sessions.redeem(db, kept) is not None
    assert len(audit.read(db)) == before - 5
    assert cleanup.clean(db, audit_days=30) == cleanup.AccessCleanup(0, 0, 0)
