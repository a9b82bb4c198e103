"""Wrong input and missing services: a clear error where the user looks, and nothing lost."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.world import World, open_world
from tests.services.faults import paused

NOBODY = "postgresql://pushq:s3cret@127.0.0.1:1/pushq"


@pytest.fixture
def quiet(database: str, redis_server: Any, tmp_path: Path) -> Iterator[World]:
    """No workers: what the caller is told at once."""
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        workers=(),
    ) as world:
        yield world


@pytest.fixture
def busy(database: str, redis_server: Any, tmp_path: Path) -> Iterator[World]:
    with open_world(
        tmp_path, database_url=database, redis_url=redis_server.url(0), broker_url=redis_server.url(1)
    ) as world:
        yield world


def refused(world: World, *arguments: str) -> str:
    """What a failing command says; a traceback is never an answer, nor is a password."""
    done = world.run(*arguments, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--segment", "vips"], ["audience.segments", "'vips'"]),
        (["--segment", "all", "--platform", "pigeon"], ["audience.platforms", "pigeon", "apns", "fcm"]),
        (["--segment", "all", "--body", "b" * 5000], ["notification", "4,096 bytes"]),
        (["--segment", "all", "--app", "shoe"], ["app", "'shoe'", "shop"]),
        (["--segment", "all", "--data", "novalue"], ["--data", "KEY=VALUE"]),
        (["--segment", "all", "--send-at", "tomorrow"], ["send_at", "'tomorrow'", "ISO 8601"]),
        ([], ["audience", "all"]),
        (["--user", "0"], ["user_ids"]),
    ],
)
def test_pushq_send_refuses_at_once(quiet: World, arguments: list[str], says: list[str]) -> None:
    message = refused(quiet, "send", "--title", "T", *arguments)
    for word in says:
        assert word in message
    assert json.loads(quiet.run("sends", "--json").stdout) == {"sends": []}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"notification": {"title": "x", "data": {"price": 12}}}, "notification.data.price"),
        ({"notification": {"title": "x" * 5000}}, "notification"),
        ({"notification": {"title": "x"}, "audience": {"platforms": ["sms"]}}, "audience"),
        ({"notification": {"title": "x"}, "guarantee": "exactly_once"}, "guarantee"),
        ({"notification": {"title": "x"}, "colour": "red"}, "pushq.send_broadcast()"),
    ],
)
def test_the_call_is_refused_before_anything_is_published(
    quiet: World, arguments: dict[str, Any], field: str
) -> None:
    """The broker is not even there: the message is wrong, and that is what the caller hears."""
    quiet.environment["PUSHQ_BROKER_URL"] = "redis://127.0.0.1:1/0"
    call = {"audience": {"segments": ["all"]}} | arguments
    done = quiet.python(
        "import pushq\n"
        "try:\n"
        f"    pushq.send_broadcast.delay(**{call!r})\n"
        "except pushq.InvalidRequest as error:\n"
        "    print(error.field)\n"
    )
    assert done.stdout.strip().startswith(field), done.stdout + done.stderr


def test_an_unknown_segment_in_a_call_is_seen_in_the_ledger(busy: World) -> None:
    """The caller may have no database: what only the worker can know stands at the send."""
    busy.import_devices(10, 0.0)
    done = busy.python(
        "from pushq import send_broadcast\n"
        "print(send_broadcast.delay(notification={'title': 'x'}, audience={'segments': ['vips']}).id)\n"
    )
    send_id = uuid.UUID(done.stdout.strip())
    state = busy.until(send_id, lambda p: p.state == "failed")
    assert state.error is not None
    assert "audience.segments" in state.error
    assert "vips" in busy.run("show", str(send_id)).stdout


def test_an_empty_audience_is_said(busy: World) -> None:
    done = busy.run("send", "--title", "x", "--segment", "all", "--wait", "--timeout", "30", check=False)
    assert done.returncode == 1
    assert "audience: found no active device" in done.stderr


def test_a_malformed_token_file_loses_nothing(quiet: World) -> None:
    """Good lines go in, bad ones into a file with number and reason; a file that is no token file stores nothing."""
    good = [f"{n},shop,apns,{n:064x}" for n in range(1, 101)]
    lines = ["user_id,app,platform,token", *good]
    lines[3] = "3,shop,apns,xyz"
    lines[50] = "x,shop,apns," + "a" * 64
    lines[70] = "70,shop"
    path = quiet.folder / "some.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = json.loads(quiet.run("tokens", "import", str(path), "--json").stdout)
    assert (report["inserted"], report["rejected"]) == (97, 3)
    rejects = Path(report["rejects_file"]).read_text(encoding="utf-8")
    assert re.findall(r"^(\d+),", rejects, re.MULTILINE) == ["4", "51", "71"]
    assert "token" in rejects
    assert "user_id" in rejects
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert "user_id" in refused(quiet, "tokens", "import", str(path))


def test_services_that_are_down_are_named(quiet: World) -> None:
    """The setting to look at, and no password."""
    environment = dict(quiet.environment)
    for variable, url, commands in (
        (
            "PUSHQ_DATABASE_URL",
            NOBODY,
            [["sends"], ["db", "upgrade"], ["worker", "core"], ["tokens", "stats"]],
        ),
        ("PUSHQ_BROKER_URL", "redis://:s3cret@127.0.0.1:1/0", [["send", "--title", "x", "--segment", "all"]]),
        ("PUSHQ_BROKER_URL", "amqp://u:s3cret@127.0.0.1:1//", [["send", "--title", "x", "--segment", "all"]]),
        ("PUSHQ_REDIS_URL", "redis://:s3cret@127.0.0.1:1/0", [["cache", "warm"]]),
    ):
        quiet.environment = environment | {variable: url}
        for command in commands:
            assert variable in refused(quiet, *command), command


def test_a_missing_setting_stops_a_worker_with_one_message(quiet: World) -> None:
    for variable in ("PUSHQ_DATABASE_URL", "PUSHQ_BROKER_URL", "PUSHQ_REDIS_URL", "PUSHQ_CONFIG"):
        kept = dict(quiet.environment)
        del quiet.environment[variable]
        assert variable in refused(quiet, "worker", "apns")
        quiet.environment = kept


def test_unreadable_credentials_stop_a_worker(quiet: World) -> None:
    """The setting is named, the file's content is not shown."""
    folder = Path(quiet.environment["PUSHQ_CONFIG"]).parent
    key = next(folder.glob("AuthKey_*.p8"))
    key.write_text("-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n")
    assert "apps.shop.apns.key_file" in refused(quiet, "worker", "apns")
    (folder / "service-account.json").write_text('{"private_key": "s3cret"}')
    assert "apps.shop.fcm.service_account_file" in refused(quiet, "worker", "fcm")


@pytest.mark.parametrize("platform", ["apns", "fcm"])
def test_refused_credentials_hold_the_send_and_keep_everybody(
    database: str, redis_server: Any, tmp_path: Path, platform: str
) -> None:
    """A key of another team, a service account that Google does not know: the send is paused with the reason, and goes on when
    the credential has been mended."""
    urls = {"database_url": database, "redis_url": redis_server.url(0), "broker_url": redis_server.url(1)}
    with open_world(tmp_path, **urls, workers=("core",)) as world:
        world.import_devices(200, 0.0)
        folder = world.mock.config_file.parent
        path = next(folder.glob("AuthKey_*.p8")) if platform == "apns" else folder / "service-account.json"
        right = path.read_bytes()
        if platform == "apns":
            other = generate_private_key(SECP256R1())
            path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        else:
            account = json.loads(right)
            path.write_text(json.dumps(account | {"client_email": "stranger@example.com"}))
        assert world.fleet is not None
        world.fleet.spawn(platform)
        world.fleet.await_ready()
        send_id = world.send("--segment", "all", "--platform", platform)
        held = world.until(send_id, lambda p: p.state == "paused")
        assert held.error is not None
        setting = "apps.shop.apns.key_file" if platform == "apns" else "apps.shop.fcm.service_account_file"
        assert setting in held.error
        assert held.total("accepted") == 0
        assert held.total("pending") == held.total("devices")  # planning stops too, and goes on with the send
        path.write_bytes(right)
        world.fleet.end(platform)
        with redis_server.client() as client:
            for slot in client.scan_iter("pushq:*:token:*"):
                client.delete(slot)
        world.fleet.spawn(platform)
        world.fleet.await_ready()
        world.run("resume", str(send_id))
        state = world.finished(send_id)
        assert state.total("accepted") == len(world.alive(platform))
        assert world.mock.accepted(platform) == dict.fromkeys(world.alive(platform), 1)


def test_a_redis_that_hangs_loses_nothing(
    database: str, redis_server: Any, rabbitmq_url: str, tmp_path: Path
) -> None:
    """at_most_once cannot claim without Redis, so it waits; nobody is lost, nobody gets it twice."""
    urls = {"database_url": database, "redis_url": redis_server.url(0), "broker_url": rabbitmq_url}
    with open_world(tmp_path, **urls) as world:
        world.import_devices(300, 0.0)
        send_id: uuid.UUID
        with paused(redis_server):
            send_id = world.send("--segment", "all")
            state = world.until(send_id, lambda p: p.state == "sending")
            assert state.total("accepted") == 0
        state = world.finished(send_id)
        assert state.total("accepted") == 300
        for platform, counted in world.provider_counts().items():
            assert counted == dict.fromkeys(world.alive(platform), 1)


def test_a_broker_that_refuses_a_message_is_an_error_of_the_call(
    database: str, redis_url: str, rabbitmq: Any, rabbitmq_url: str, tmp_path: Path
) -> None:
    """RabbitMQ answers a publication with a refusal when a queue is full: the caller is told, and what was confirmed is there."""
    vhost = rabbitmq_url.rpartition("/")[2]
    rabbitmq.control(
        "set_policy", "-p", vhost, "small", "^pushq[.]broadcast$", '{"max-length": 2}', "--apply-to", "queues"
    )
    with open_world(
        tmp_path, database_url=database, redis_url=redis_url, broker_url=rabbitmq_url, workers=()
    ) as world:
        done = world.python(
            "import pushq\n"
            "accepted = 0\n"
            "try:\n"
            "    for _ in range(50):\n"
            "        pushq.send_broadcast.delay(notification={'title': 'x'}, audience={'segments': ['all']})\n"
            "        accepted += 1\n"
            "except pushq.ServiceUnavailable as error:\n"
            "    print(accepted, error)\n"
        )
        assert done.returncode == 0, done.stderr
        accepted, _, message = done.stdout.partition(" ")
        assert "PUSHQ_BROKER_URL" in message
        assert int(accepted) >= 2


def test_a_full_redis_is_an_error_of_the_call(quiet: World, redis_server: Any) -> None:
    with redis_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            message = refused(quiet, "send", "--title", "x", "--user", "1")
        finally:
            client.config_set("maxmemory", 0)
    assert "PUSHQ_BROKER_URL" in message
