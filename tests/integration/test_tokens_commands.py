"""`pushq tokens`, `segments` and `cache`, as a shell runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner

from pushq.cli.cache import cache
from pushq.cli.segments import segments
from pushq.cli.tokens import tokens
from pushq.embedded.redis import RedisServer

TOKEN = "c0:APA91b" + "x" * 40

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(database: str, redis_url: str, tmp_path: Path) -> Run:
    def command(*args: str, data: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pushq", *args],
            input=data,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PUSHQ_DATABASE_URL": database,
                "PUSHQ_REDIS_URL": redis_url,
                **environ,
            },
        )

    return command


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(ok(done))


def test_after_an_import_the_table_can_be_vacuumed(run: Run, database: str, tmp_path: Path) -> None:
    (tmp_path / "devices.csv").write_text(
        "user_id,app,platform,token\n" + "".join(f"{n},shop,fcm,{TOKEN}{n}\n" for n in range(1, 2001))
    )

    def pages() -> tuple[int, int]:
        """Pages that hold devices, and those of them that a planner need not look into."""
        with psycopg.connect(database) as connection:
            row: Any = connection.execute(
                "SELECT sum(pg_relation_size(oid) / 8192)::int, sum(relallvisible)::int FROM pg_class"
                " WHERE relname ~ '^device_tokens_p[0-9]+$'"
            ).fetchone()
        return int(row[0]), int(row[1])

    assert "vacuum" not in ok(run("tokens", "import", "devices.csv"))
    filled, visible = pages()
    assert filled >= 16
    assert visible == 0
    assert "table vacuumed in" in ok(run("tokens", "import", "devices.csv", "--vacuum"))
    filled, visible = pages()
    assert visible == filled
    assert as_json(run("tokens", "import", "devices.csv", "--vacuum", "--json"))["vacuum_seconds"] > 0


def test_a_newcomers_file_becomes_a_segment(run: Run, tmp_path: Path) -> None:
    devices = "".join(f"{n},shop,fcm,{TOKEN}{n},{'de' if n % 2 else 'fr'}\n" for n in range(1, 101))
    (tmp_path / "devices.csv").write_text(
        f"user_id,app,platform,token,language\n{devices}101,shop,fcm,oops,de\n"
    )
    said = ok(run("tokens", "import", "devices.csv"))
    assert "100  new devices" in said
    assert "1  rejected" in said
    assert "devices.csv.rejects.csv" in said
    rejects = (tmp_path / "devices.csv.rejects.csv").read_text()
    assert rejects.splitlines()[1].startswith('102,"token: found 4 characters')

    strict = run("tokens", "import", "devices.csv", "--strict", "--json", "--rejects", "wrong.csv")
    assert strict.returncode == 1
    report = json.loads(strict.stdout)
    assert (report["records"], report["updated"], report["rejected"], report["rejects_file"]) == (
        101,
        100,
        1,
        "wrong.csv",
    )

    assert "50 active devices" in ok(
        run("segments", "create", "german", "--app", "shop", "--filter", '{"language": "de"}')
    )
    ok(run("segments", "create", "vips", "--app", "shop", "--static"))
    (tmp_path / "users.txt").write_text("1\n2\nx\n3\n")
    added = as_json(run("segments", "add", "vips", "--app", "shop", "users.txt", "--json"))
    assert (added["changed"], added["rejected"], added["rejects_file"]) == (3, 1, "users.txt.rejects.csv")
    assert as_json(run("segments", "count", "vips", "--app", "shop", "--json"))["devices"] == {"fcm": 3}
    assert "german" in ok(run("segments", "list"))
    assert (
        as_json(run("segments", "replace", "vips", "--app", "shop", "-", "--json", data="user_id\n9\n"))[
            "changed"
        ]
        == 1
    )
    ok(run("segments", "delete", "vips", "--app", "shop"))

    assert "16 entries added, 100 devices read" in ok(run("cache", "warm", "--app", "shop"))
    assert as_json(run("cache", "stats", "--json"))["entries"] == {"fcm": 16}
    assert as_json(run("cache", "clear", "--json")) == {"removed": 16}
    counts = as_json(run("tokens", "stats", "--json"))["devices"]
    assert [(c["platform"], c["active"]) for c in counts] == [("fcm", 100)]
    assert "█" in ok(run("tokens", "stats"))


def test_register_show_unregister(run: Run) -> None:
    device = ["--app", "shop", "--platform", "fcm"]
    first = as_json(
        run("tokens", "register", "--user", "1", *device, "--token", TOKEN, "--tag", "vip", "--json")
    )
    assert first["created"] is True
    assert "was user 1's" in ok(
        run("tokens", "register", "--user", "2", *device, "--token", "-", data=f"{TOKEN}\n")
    )
    shown = ok(run("tokens", "show", "--user", "1"))
    assert "moved" in shown
    assert TOKEN not in shown
    assert ok(run("tokens", "unregister", *device, "--token", TOKEN)) == "unregistered\n"
    assert as_json(run("tokens", "unregister", *device, "--token", TOKEN, "--json")) == {"unregistered": 0}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["tokens", "register", "--user", "0", "--app", "shop", "--platform", "fcm", "--token", TOKEN],
            "user_id: found 0",
        ),
        (
            ["tokens", "register", "--user", "1", "--app", "shop", "--platform", "apns", "--token", "zz"],
            "token: found 2 characters",
        ),
        (
            [
                "tokens",
                "register",
                "--user",
                "1",
                "--app",
                "shop",
                "--platform",
                "fcm",
                "--token",
                TOKEN,
                "--attributes",
                "{",
            ],
            "attributes",
        ),
        (["tokens", "import", "none.csv"], "file: found 'none.csv': No such file"),
        (["segments", "create", "x", "--app", "shop", "--filter", "{"], "filter: found text that is no JSON"),
        (["segments", "create", "x", "--app", "shop", "--filter", "null"], "filter: found null"),
        (["segments", "create", "all", "--app", "shop", "--static"], "built in"),
        (["segments", "count", "x", "--app", "shop"], "found the segment 'x'"),
        (["segments", "add", "x", "--app", "shop", "none.txt"], "No such file"),
    ],
)
def test_mistakes_get_one_clear_line(run: Run, args: list[str], said: str) -> None:
    done = run(*args)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_services_that_are_down(run: Run, redis_server: RedisServer) -> None:
    done = run("tokens", "stats", PUSHQ_DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert done.returncode == 1
    assert "PostgreSQL cannot be reached" in done.stderr
    redis_server.stop()
    done = run("cache", "warm")
    assert done.returncode == 1
    assert "Redis cannot be reached" in done.stderr
    done = run("tokens", "register", "--user", "1", "--app", "shop", "--platform", "fcm", "--token", TOKEN)
    assert done.returncode == 0
    assert "registered" in done.stdout
    assert "pushq cache clear" in done.stderr


@pytest.mark.parametrize("group", [tokens, segments, cache], ids=lambda group: str(group.name))
def test_every_command_has_help_with_an_example_and_json(group: click.Group) -> None:
    for name, command in group.commands.items():
        page = CliRunner().invoke(command, ["--help"]).output
        assert f"pushq {group.name} {name}" in page.partition("Options:")[2]
        assert "--json" in page
