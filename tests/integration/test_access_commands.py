"""`pushq keys`, `users` and `audit`, as a shell runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from pushq.access import keys as key_store
from pushq.access import passwords, sessions
from pushq.access import users as user_store
from pushq.access.local import local
from pushq.cli.audit import audit
from pushq.cli.keys import keys
from pushq.cli.root import cli
from pushq.cli.users import users
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.service_urls import ServiceUrl

PASSWORD = "correct horse battery staple"

Run = Callable[..., Result]


@pytest.fixture
def db(database: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(database), pool_size=2)
    yield opened
    opened.close()


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PUSHQ_DATABASE_URL", database)
    monkeypatch.setattr(passwords, "N", 2**10)  # what a password costs a thief, a test need not pay

    def command(*args: str, data: str | None = None) -> Result:
        return CliRunner().invoke(cli, args, input=data)

    return command


def ok(done: Result) -> str:
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def as_json(done: Result) -> Any:
    return json.loads(ok(done))


class TestKeys:
    def test_from_the_cradle_to_the_grave(self, run: Run, db: Database) -> None:
        made = run(
            "keys",
            "create",
            "shop backend",
            "--scope",
            "send",
            "--app",
            "shop",
            "--rate",
            "7",
            "--expires-days",
            "3",
        )
        key = ok(made).strip()
        assert key not in made.stderr
        parsed = key_store.parse(key)
        assert parsed is not None
        assert key_store.proves(key_store.look_up(db, parsed[0]), parsed[1])

        (listed,) = as_json(run("keys", "list", "--json"))["keys"]
        assert listed["id"] == parsed[0]
        assert (listed["name"], listed["scopes"], listed["apps"], listed["rate"]) == (
            "shop backend",
            ["send"],
            ["shop"],
            7,
        )
        assert listed["expires_at"] is not None
        shown = ok(run("keys", "list"))
        assert parsed[0] in shown
        assert parsed[1] not in shown

        assert as_json(run("keys", "revoke", parsed[0], "--json")) == {
            "id": parsed[0],
            "revoked": True,
            "changed": True,
        }
        assert "already" in ok(run("keys", "revoke", parsed[0]))
        assert key_store.look_up(db, parsed[0]) is None
        assert "No keys" in ok(run("keys", "list"))
        assert "revoked" in ok(run("keys", "list", "--all"))

    def test_json_has_the_key_and_what_it_may(self, run: Run) -> None:
        made = as_json(run("keys", "create", "a", "--scope", "sends:read", "--scope", "send", "--json"))
        assert key_store.parse(made["key"]) is not None
        assert (made["scopes"], made["apps"], made["revoked_at"]) == (["send", "sends:read"], None, None)

    def test_wrong_input_says_what_is_expected(self, run: Run) -> None:
        assert "Missing option '--scope'" in run("keys", "create", "a").output
        assert "sends:control" in run("keys", "create", "a", "--scope", "root").output
        assert isinstance(run("keys", "create", "a\tb", "--scope", "send").exception, InvalidRequest)
        unknown = run("keys", "revoke", "0" * 16)
        assert isinstance(unknown.exception, key_store.UnknownKey)
        assert "pushq keys list" in str(unknown.exception)


class TestUsers:
    def test_a_password_comes_from_a_file_or_standard_input(
        self, run: Run, db: Database, tmp_path: Path
    ) -> None:
        file = tmp_path / "password"
        file.write_text(f"{PASSWORD}\nand a second line\n")
        made = as_json(
            run("users", "create", "ada", "--scope", "admin", "--password-file", str(file), "--json")
        )
        assert made["scopes"] == ["admin"]
        assert user_store.authenticate(db, "ada", PASSWORD).user is not None
        ok(run("users", "password", "ada", "--password-file", "-", data=f"{PASSWORD} again\n"))
        assert user_store.authenticate(db, "ada", PASSWORD).user is None
        assert user_store.authenticate(db, "ada", f"{PASSWORD} again").user is not None
        assert PASSWORD not in ok(run("users", "list"))

    def test_nobody_is_asked_where_nobody_is(self, run: Run) -> None:
        done = run("users", "create", "ada")
        assert done.exit_code == 2
        assert "--password-file" in done.output
        missing = run("users", "create", "ada", "--password-file", "nowhere")
        assert isinstance(missing.exception, InvalidRequest)

    def test_a_link_signs_in_and_a_user_can_be_signed_out_and_deleted(self, run: Run, db: Database) -> None:
        ok(run("users", "create", "bob", "--app", "shop", "--password-file", "-", data=PASSWORD))
        address = ok(run("users", "link", "bob", "--url", "https://push.example/")).strip()
        found = re.fullmatch(r"https://push\.example/login/link/([\w-]{43})", address)
        assert found is not None
        user = sessions.redeem(db, found[1])
        assert user is not None
        assert (user.name, user.apps) == ("bob", frozenset({"shop"}))
        assert set(as_json(run("users", "link", "bob", "--json"))) == {"name", "url", "minutes"}
        assert as_json(run("users", "sign-out", "bob", "--json")) == {"name": "bob", "ended": 0}
        (listed,) = as_json(run("users", "list", "--json"))["users"]
        assert (listed["name"], listed["sessions"]) == ("bob", 0)
        assert as_json(run("users", "delete", "bob", "--json")) == {"deleted": "bob"}
        assert isinstance(run("users", "delete", "bob").exception, user_store.UnknownUser)
        assert "No users" in ok(run("users", "list"))


class TestAudit:
    def test_it_tells_who_did_what(self, run: Run) -> None:
        assert "Nothing is on record" in ok(run("audit"))
        first = as_json(run("keys", "create", "a", "--scope", "send", "--json"))["id"]
        second = as_json(run("keys", "create", "b", "--scope", "send", "--json"))["id"]
        ok(run("keys", "revoke", first))
        rows = as_json(run("audit", "--json"))["audit"]
        assert [(row["action"], row["object_id"]) for row in rows] == [
            ("key.revoke", first),
            ("key.create", second),
            ("key.create", first),
        ]
        assert {(row["actor_kind"], row["actor"]) for row in rows} == {("local", local().name)}
        assert (
            len(as_json(run("audit", "--limit", "1", "--before", str(rows[0]["id"]), "--json"))["audit"]) == 1
        )
        assert len(as_json(run("audit", "--object", first, "--action", "key", "--json"))["audit"]) == 2
        assert as_json(run("audit", "--since", "2999-01-01", "--json"))["audit"] == []
        assert as_json(run("audit", "--actor", "nobody", "--json"))["audit"] == []
        assert first in ok(run("audit", "--limit", "3"))


@pytest.mark.parametrize(
    "command",
    [audit, *keys.commands.values(), *users.commands.values()],
    ids=lambda command: str(command.name),
)
def test_each_command_has_json_and_an_example(command: click.Command) -> None:
    assert "as_json" in {parameter.name for parameter in command.params}
    assert "pushq" in (command.epilog or "")
