"""What a console and a shell show of the past: dead letters over time, sends with their sums, what was settled when; and the queues."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from pushq.app import ALL_QUEUES
from pushq.cli.root import cli
from pushq.embedded.postgres import PostgresServer
from pushq.embedded.redis import RedisServer
from pushq.errors import InvalidRequest
from pushq.ledger import board, dead_letters
from pushq.ledger.dead_letters import OTHER, SPANS, Filter, history, newest
from pushq.ledger.progress import recent
from pushq.observe.crew import crew
from pushq.observe.queues import queues_of
from pushq.redis_client import open_redis
from pushq.reload import ConfigState, announce, digest
from pushq.reload.files import SHOWN
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings, load
from tests.integration.ledger_world import World, bare_app, open_world

SEND = uuid.uuid4()
NOW = datetime.now(UTC)


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(ledger_url, bare_app(tmp_path), batch_size=10, plan_page=100) as world:
        world.empty()
        yield world


def bury(
    world: World,
    reason: str,
    many: int,
    *,
    app: str = "shop",
    platform: str = "apns",
    ago: timedelta = timedelta(0),
    send_id: uuid.UUID = SEND,
) -> None:
    world.change(
        "INSERT INTO dead_letters (created_at, send_id, batch_no, position, user_id, device_id, app, platform, outcome, status, reason,"
        " attempt, invalidated) SELECT :at, :send, 0, n, n, n, :app, :platform, 'dead', 410, :reason, 1, n % 2 = 0"
        " FROM generate_series(1, :many) n",
        at=NOW - ago, send=send_id, app=app, platform=platform, reason=reason, many=many,
    )  # fmt: skip


def test_dead_letters_are_counted_by_reason_in_columns_of_time(world: World) -> None:
    bury(world, "Unregistered", 6)
    bury(world, "Unregistered", 4, platform="fcm", ago=timedelta(hours=5))
    bury(world, "BadDeviceToken", 3, ago=timedelta(hours=5), send_id=uuid.uuid4())
    bury(world, "BadDeviceToken", 100, ago=timedelta(days=3))
    bury(world, "Secret", 50, app="bank")
    found = history(world.database, "day", now=NOW, only=Filter(apps=("shop",)))
    assert [(each.reason, each.recipients, each.deactivated) for each in found.reasons] == [
        ("Unregistered", 10, 5),
        ("BadDeviceToken", 3, 1),
    ]
    assert found.reasons[0].platforms == {"apns": 6, "fcm": 4}
    step = SPANS["day"][1]
    for each in found.reasons:
        assert len(each.series) == len(found.times)
        assert sum(each.series) == each.recipients
    # Each in the column of its time.
    place = next(
        n for n, begins in enumerate(found.times) if begins <= NOW - timedelta(hours=5) < begins + step
    )
    assert (found.reasons[0].series[place], found.reasons[1].series[place]) == (4, 3)
    assert found.times[-1] <= NOW < found.times[-1] + step

    def recipients(span: str, **only: object) -> int:
        return history(world.database, span, now=NOW, only=Filter(**only)).recipients  # type: ignore[arg-type]

    assert recipients("week") == 163
    assert recipients("hour", apps=("shop",)) == 6
    assert recipients("day", platform="fcm") == 4
    assert recipients("day", reason="BadDeviceToken") == 3
    assert recipients("day", send_id=SEND, apps=("shop",)) == 10
    assert recipients("day", apps=()) == 0


def test_reasons_beyond_a_few_are_summed_up(world: World) -> None:
    for number in range(1, 11):
        bury(world, f"Reason{number}", number)
    found = history(world.database, "hour", now=NOW, reasons=4)
    assert [(each.reason, each.recipients) for each in found.reasons] == [
        ("Reason10", 10),
        ("Reason9", 9),
        ("Reason8", 8),
        (OTHER, 28),
    ]


def test_the_newest_come_first_and_wrong_questions_are_refused(world: World) -> None:
    bury(world, "Old", 2, ago=timedelta(minutes=30))
    bury(world, "New", 3)
    letters = newest(world.database, "hour", now=NOW, limit=4)
    assert [letter.reason for letter in letters] == ["New", "New", "New", "Old"]
    assert letters[0].user_id == 3
    with pytest.raises(InvalidRequest, match="one of: hour"):
        history(world.database, "aeon", now=NOW)
    with pytest.raises(InvalidRequest, match="some of: apns"):
        Filter(platform="minitel")


def test_who_asks_for_too_much_is_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "STATEMENT_TIMEOUT_S", "0.2")
    with world.database.begin() as other:
        # Somebody holds the table, as a query over too many rows would take too long.
        other.exec_driver_sql("LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(InvalidRequest, match="a shorter span"):
            history(world.database, "month", now=NOW)


def test_sums_and_columns_of_a_send_are_those_of_its_batches(world: World) -> None:
    world.add_devices("apns", 30)
    send_id, other = world.send(), uuid.uuid4()
    world.change(
        "UPDATE send_batches SET state = 'done', accepted = 7, dead = 2, rejected = 1,"
        " settled_at = CAST(:now AS timestamptz) + make_interval(secs => 10 * batch_no) WHERE send_id = :id AND batch_no < 2",
        id=send_id, now=NOW,
    )  # fmt: skip
    sums = board.counts(world.database, [send_id, other])
    assert {name: count for name, count in sums[send_id].items() if count} == {
        "devices": 30,
        "accepted": 14,
        "dead": 4,
        "rejected": 2,
        "pending": 10,
    }
    assert not any(sums[other].values())
    found = board.timeline(world.database, send_id)
    assert found is not None
    assert (sum(found.accepted), sum(found.other)) == (14, 6)
    assert (found.accepted[0], found.accepted[-1]) == (7, 7)
    assert (
        found.times[-1] - found.times[0]
        <= timedelta(seconds=10)
        < found.times[-1] - found.times[0] + found.step
    )
    assert board.timeline(world.database, other) is None
    assert (
        board.title(world.database, send_id)
        == board.message(world.database, send_id)["notification"]["title"]
    )
    assert board.today(world.database) == {"sends": 1, "accepted": 14, "failed": 6}
    # Single messages have a list of their own.
    world.send(audience={"user_ids": [1]}, kind="transactional")
    listed = {
        kind: [row["kind"] for row in recent(world.database, kind=kind)]
        for kind in ("broadcast", "transactional")
    }
    assert listed == {"broadcast": ["broadcast"], "transactional": ["transactional"]}
    assert board.today(world.database) == {"sends": 1, "accepted": 14, "failed": 6}
    assert board.today(world.database, ["bank"]) == {"sends": 0, "accepted": 0, "failed": 0}


def test_dead_letters_at_the_shell(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHQ_DATABASE_URL", world.database.url.reveal())
    said = CliRunner().invoke(cli, ["dead-letters"], catch_exceptions=False)
    assert "No dead letters within the last day." in said.output
    bury(world, "Unregistered", 6)
    said = CliRunner().invoke(cli, ["dead-letters", "--newest", "1"], catch_exceptions=False)
    assert "Unregistered" in said.output
    assert f"{SEND}  apns  user 6 device 6  410 Unregistered" in said.output
    said = CliRunner().invoke(
        cli,
        ["dead-letters", "--span", "hour", "--app", "shop", "--newest", "2", "--json"],
        catch_exceptions=False,
    )
    document = json.loads(said.output)
    assert (document["recipients"], document["step_seconds"], len(document["newest"])) == (6, 120, 2)
    assert sum(document["reasons"][0]["series"]) == 6
    assert len(document["times"]) == len(document["reasons"][0]["series"])


def test_queues_beside_the_workers_that_serve_them(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pushq.toml").write_text(
        '[apps.shop.fcm]\nproject_id = "pushq-demo"\nservice_account_file = "secret"\n'
    )
    (tmp_path / "secret").write_text("{}")
    for name, value in (
        ("BROKER_URL", redis_server.url(1)),
        ("REDIS_URL", redis_server.url(0)),
        ("CONFIG", str(tmp_path / "pushq.toml")),
    ):
        monkeypatch.setenv(f"PUSHQ_{name}", value)
    settings = load()
    ours = digest(tmp_path / "pushq.toml", settings.apps)[:SHOWN]
    with open_redis(ServiceUrl(redis_server.url(1))) as client:
        client.lpush("push.fcm", *[b"x"] * 3)
    with open_redis(ServiceUrl(redis_server.url(0))) as client:
        announce(client, "one:1", "core", ConfigState(ours), life_s=60)
        announce(client, "two:2", "fcm", ConfigState("elsewhere", "no such file"), life_s=60)
    document = json.loads(CliRunner().invoke(cli, ["queues", "--json"], catch_exceptions=False).output)
    queues = {line["name"]: line for line in document["queues"]}
    # No queues of platforms that no app has.
    assert set(queues) == {name for name in ALL_QUEUES if "apns" not in name and "hms" not in name}
    assert [queues["push.fcm"][key] for key in ("ready", "unacked", "workers")] == [3, 0, 1]
    assert queues["pushq.broadcast"]["workers"] == 1
    assert [(w["worker"], w["same"], w["fault"]) for w in document["workers"]] == [
        ("one:1", True, ""),
        ("two:2", False, "no such file"),
    ]
    shown = CliRunner().invoke(cli, ["queues"], catch_exceptions=False).output
    assert "push.fcm" in shown
    assert "no such file" in shown


def test_workers_that_cannot_be_asked_for_are_a_note(redis_server: RedisServer) -> None:
    settings = Settings(
        broker_url=ServiceUrl(redis_server.url(1)), redis_url=ServiceUrl("redis://127.0.0.1:1/0")
    )
    queues = queues_of(settings)
    try:
        found = crew(settings, queues.broker, queues.depths())
    finally:
        queues.close()
    assert found.workers == []
    assert "Redis does not answer" in found.notes[0]
    assert {line.workers for line in found.queues} == {None}


def test_credentials_at_the_shell_are_those_of_apns_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pushq.toml").write_text(
        '[apps.shop.fcm]\nproject_id = "pushq-demo"\nservice_account_file = "secret"\n'
    )
    (tmp_path / "secret").write_text("{}")
    monkeypatch.setenv("PUSHQ_CONFIG", str(tmp_path / "pushq.toml"))
    (found,) = json.loads(CliRunner().invoke(cli, ["credentials", "--json"], catch_exceptions=False).output)[
        "credentials"
    ]
    assert (found["app"], found["platform"], found["kind"], found["state"]) == (
        "shop",
        "fcm",
        "service_account",
        "ok",
    )
