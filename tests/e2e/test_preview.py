"""What ``pushq preview`` shows is what arrives: three apps with credentials of their own, three platforms, four languages, names."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from pushq.cli.root import cli
from pushq.demo.fleet import Fleet
from pushq.embedded.redis import RedisServer
from pushq.mock import MockProcess
from tests.e2e.world import World, open_world

APPS = ("shop", "news", "bank")
PLATFORMS = ("apns", "fcm", "hms")
USER = 42
#: By the device's language, what it is said in, and a name to be careful with. The last one has none.
PEOPLE = [
    (None, 'O"Brien'),
    ("de-AT", "Jürgen {x} \\"),
    ("pt-BR", "Zoë"),
    ("pt-PT", "𝄞 </b>"),
    ("ja", "はな\u2028子"),
    ("fr", "A\tB"),
    ("de", None),
]
MESSAGE: dict[str, Any] = {
    "title": "Hello {first_name}",
    "body": "{item|Everything} is {{20 %}} off",
    "link": "shop://sale/{item|all}",
    "sound": "default",
    "badge": 3,
    "category": "SALE",
    "data": {"literal": "{braces}"},
    "data_templates": {"for": '{first_name} says "{item|all}"'},
    "languages": {
        "de": {"title": "Hallo {first_name}", "body": "{item|Alles} ist 20 % billiger"},
        "pt": {"title": "Olá {first_name}"},
        "pt-BR": {"title": "Oi {first_name}", "apns": {"subtitle": "só hoje, {first_name}"}},
        "ja": {"body": "{first_name}さん"},
    },
    "apns": {"thread_id": "sale", "interruption_level": "active"},
    "fcm": {"title": "On Android: {first_name}", "analytics_label": "sale"},
    "hms": {"message_category": "MARKETING"},
}


#: What HTTP itself, or the client that speaks it, adds to a request.
CARRIED = ("accept", "accept-encoding", "connection", "content-length", "host", "user-agent")


@pytest.fixture
def bare(database: str, redis_server: RedisServer, tmp_path: Path) -> Iterator[World]:
    """Servers and a provider, no workers."""
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        workers=(),
        mock={"engine": "strict", "latency_ms": 5.0},
    ) as opened:
        yield opened


@pytest.fixture
def world(bare: World, tmp_path: Path) -> Iterator[tuple[World, dict[str, MockProcess]]]:
    """Three mocks, each a provider with keys of its own for one app, and workers for all of them."""
    with ExitStack() as stack:
        mocks = {APPS[0]: bare.mock} | {
            app: stack.enter_context(MockProcess(tmp_path / f"mock-{app}", engine="strict", latency_ms=5.0))
            for app in APPS[1:]
        }
        merged = tmp_path / "pushq.toml"
        merged.write_text("\n".join(_tables(app, mocks[app]) for app in APPS))
        bare.environment["PUSHQ_CONFIG"] = str(merged)
        bare.fleet = stack.enter_context(
            Fleet(bare.environment, tmp_path, workers=("core", *PLATFORMS), beat=True)
        )
        yield bare, mocks


def _tables(app: str, mock: MockProcess) -> str:
    """The app's configuration, with a service account key that no other mock has: the fleet shares access tokens by key."""
    return re.sub(
        r'service_account_file = ".*"',
        lambda _: f'service_account_file = "{mock.add_key("fcm")["service_account_file"]}"',
        mock.config_file.read_text().replace("[apps.shop.", f"[apps.{app}."),
    )


def register(world: World, apps: tuple[str, ...]) -> None:
    lines = []
    for app in apps:
        for platform in PLATFORMS:
            for number, (language, name) in enumerate(PEOPLE):
                token = f"{number:02d}" * 32 if platform == "apns" else f"{platform}-{app}-{number:020d}"
                attributes = {"item": "Schuhe" if number % 2 else 7} | ({"first_name": name} if name else {})
                lines.append(
                    {
                        "user_id": USER,
                        "app": app,
                        "platform": platform,
                        "token": token,
                        "language": language,
                        "attributes": attributes,
                    }
                )
    path = world.folder / "devices.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    report = json.loads(world.run("tokens", "import", str(path), "--json").stdout.splitlines()[-1])
    assert (report["records"], report["rejected"]) == (len(lines), 0)


def arrived(mock: MockProcess) -> list[tuple[str, str, str, tuple[tuple[str, str], ...], str]]:
    """Every request at a provider, without its credential and without what the HTTP client adds."""
    found = []
    for platform in PLATFORMS:
        for request in mock.requests(platform):
            headers = tuple((n, v) for n, v in request["headers"] if n not in ("authorization", *CARRIED))
            credential = next(v for n, v in request["headers"] if n == "authorization")
            assert credential.startswith("bearer ey" if platform == "apns" else "Bearer ")
            found.append((platform, request["method"], request["path"], headers, request["body"]))
    return sorted(found)


def command(world: World, *arguments: str, code: int = 0) -> dict[str, Any]:
    """``pushq ARGUMENTS --json`` in this process: an interpreter less to start for each."""
    done = CliRunner().invoke(cli, [*arguments, "--json"], env=world.environment, catch_exceptions=False)
    assert done.exit_code == code, done.output
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def send_all(world: World, calls: dict[str, dict[str, Any]]) -> None:
    code = (
        "import json, pushq\n"
        f"for call in json.loads({json.dumps(calls)!r}).values(): pushq.send_broadcast.delay(**call)"
    )
    done = world.python(code)
    assert done.returncode == 0, done.stderr


def test_what_is_previewed_is_what_arrives(world: tuple[World, dict[str, MockProcess]]) -> None:
    """Byte for byte, for every recipient; who lacks a value is shown as refused and gets nothing."""
    opened, mocks = world
    register(opened, APPS)
    message = opened.folder / "sale.json"
    message.write_text(json.dumps(MESSAGE))
    # The call's key decides the send's id and its time the expiry: so a preview can be exact before there is a send.
    later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    options = {"guarantee": "at_least_once", "send_at": later}
    calls = {
        app: {
            "notification": MESSAGE,
            "audience": {"segments": ["all"]},
            "app": app,
            "idempotency_key": app,
            **options,
        }
        for app in APPS
    }
    shown = {
        app: command(
            opened, "preview", "--notification", str(message), "--user", str(USER), "--app", app, "--idempotency-key", app,
            "--guarantee", "at_least_once", "--send-at", later,
        )
        for app in APPS
    }  # fmt: skip
    send_all(opened, calls)
    for app in APPS:
        send_id = uuid.UUID(shown[app]["send_id"])
        state = opened.finished(send_id)
        assert (state.state, state.error) == ("done", None)
        expected = []
        for request in shown[app]["requests"]:
            if request["refused"]:
                assert (request["refused"], request["without"]) == ("value_missing", ["first_name"])
                continue
            path = re.sub(r"^https://[^/]+", "", request["url"])
            headers = tuple((n, v) for n, v in map(tuple, request["headers"]) if n != "authorization")
            credential = [v.lower() for n, v in map(tuple, request["headers"]) if n == "authorization"]
            assert credential == ["bearer ***"]
            expected.append((request["platform"], request["method"], path, headers, request["body"]))
        assert len(expected) == len(PLATFORMS) * (len(PEOPLE) - 1)
        assert arrived(mocks[app]) == sorted(expected)
        assert state.total("accepted") == len(expected)
        assert state.total("rejected") == len(PLATFORMS)
        # The send itself shows the same.
        assert command(opened, "preview", "--send", str(send_id), "--user", str(USER)) == shown[app]
    with opened.database.begin() as connection:
        reasons = connection.execute(text("SELECT DISTINCT reason FROM dead_letters")).scalars().all()
    assert reasons == ["value_missing"]


def test_a_dry_run_counts_and_validates_and_reaches_nobody(
    bare: World,
) -> None:
    register(bare, APPS[:1])
    message = bare.folder / "sale.json"
    message.write_text(json.dumps(MESSAGE))
    call = [
        "send",
        "--dry-run",
        "--json",
        "--app",
        "shop",
        "--notification",
        str(message),
        "--segment",
        "all",
    ]
    report = command(bare, *call)
    languages = 1 + len(MESSAGE["languages"])
    assert [
        (part["platform"], part["devices"], part["without"], part["validated"], part["objections"])
        for part in report["platforms"]
    ] == [
        ("apns", len(PEOPLE), {"first_name": 1}, 0, []),
        ("fcm", len(PEOPLE), {"first_name": 1}, languages, []),
        ("hms", len(PEOPLE), {"first_name": 1}, languages, []),
    ]
    assert report["good"] is True
    assert "cannot check" in report["platforms"][0]["note"]
    assert all(not bare.mock.accepted(platform) for platform in PLATFORMS)
    bodies = [json.loads(request["body"]) for p in ("fcm", "hms") for request in bare.mock.requests(p)]
    assert len(bodies) == 2 * languages
    assert all(body["validate_only"] is True for body in bodies)
    # A provider that would not take the message says so, and so does the command.
    bare.mock.set_faults(
        [
            {
                "platform": "fcm",
                "every": 1,
                "answer": {"status": 400, "reason": "INVALID_ARGUMENT", "shape": "c"},
            }
        ]
    )
    refused = command(bare, *call, "--platform", "fcm", code=1)
    objections = refused["platforms"][0]["objections"]
    assert {objection["status"] for objection in objections} == {400}
    assert [objection["language"] for objection in objections] == [
        None,
        *[tag.lower() for tag in MESSAGE["languages"]],
    ]
    assert command(bare, "sends") == {"sends": []}
