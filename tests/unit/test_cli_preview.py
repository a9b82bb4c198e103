"""``pushq preview`` for an imagined device: no server is needed, and what cannot be shown is one clear error."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from pushq.cli.root import cli
from pushq.errors import InvalidRequest
from pushq.mock.credentials import make_credentials

EXACT = ("--idempotency-key", "k", "--send-at", "2030-01-01T00:00:00Z")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("preview")
    made = make_credentials(folder / "credentials")
    made.write_service_account("https://oauth2.googleapis.com/token")
    path = folder / "pushq.toml"
    path.write_text(
        f'[apps.shop.apns]\nteam_id = "{made.team_id}"\nkey_id = "{made.key_id}"\nkey_file = "{made.apns_key_file}"\n'
        'topic = "org.example.shop"\n'
        f'[apps.shop.fcm]\nproject_id = "pushq-demo"\nservice_account_file = "{made.service_account_file}"\n'
    )
    return {"PUSHQ_CONFIG": str(path)}


def preview(environment: dict[str, str], *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(
        cli, ["preview", *arguments], env=environment, input=stdin, catch_exceptions=False
    )


def test_the_picture_of_one_request(environment: dict[str, str]) -> None:
    shown = preview(
        environment, "--title", "Hello {name|you}", "--value", "name=Ada", "--platform", "apns", "--environment", "sandbox",
        "--language", "de-AT", "--ttl", "3600", *EXACT,
    )  # fmt: skip
    assert shown.exit_code == 0
    assert shown.output == (
        "# APNs · an imagined device · de-AT · sandbox · 39 of 4,096 bytes\n"
        f"POST https://api.sandbox.push.apple.com/3/device/{'ab' * 32}\n"
        "authorization: bearer ***\n"
        "apns-topic: org.example.shop\n"
        "apns-push-type: alert\n"
        "apns-priority: 10\n"
        "apns-expiration: 1893459600\n"
        f"apns-id: {json.loads(preview(environment, '--title', 'x', *EXACT, '--json').output)['send_id']}\n"
        "\n"
        '{"aps":{"alert":{"title":"Hello Ada"}}}\n'
    )


def test_options_go_over_the_file(environment: dict[str, str]) -> None:
    message = {"title": "A", "body": "B", "data": {"a": "1"}, "priority": "normal"}
    shown = preview(
        environment,
        "--notification",
        "-",
        "--title",
        "C",
        "--data",
        "b=2",
        "--json",
        stdin=json.dumps(message),
    )
    apns, fcm = json.loads(shown.output)["requests"]
    assert json.loads(apns["body"]) == {"aps": {"alert": {"title": "C", "body": "B"}}, "a": "1", "b": "2"}
    assert json.loads(fcm["body"])["message"]["android"]["priority"] == "NORMAL"
    assert dict(map(tuple, apns["headers"]))["apns-priority"] == "5"


def test_who_lacks_a_value_is_told_which(environment: dict[str, str]) -> None:
    shown = preview(environment, "--title", "{a} {b|x} {c}", "--value", "a=1", "--platform", "fcm")
    assert shown.exit_code == 0
    assert shown.output.splitlines()[1] == "no request: value_missing (no c, and no default)"
    shown = preview(environment, "--title", "{a}", "--value", f"a={'x' * 5000}", "--platform", "fcm")
    assert shown.output.splitlines()[1] == "no request: payload_too_large"


@pytest.mark.parametrize(
    ("arguments", "stdin", "field"),
    [
        (["--title", "Hi {"], None, "notification.title"),
        ([], None, "notification"),
        (["--notification", "-"], "{", "--notification"),
        (["--notification", "-"], "[]", "--notification"),
        (["--notification", "-"], '{"titel": "x"}', "notification.titel"),
        (["--title", "x", "--value", "a"], None, "--value"),
        (["--title", "x", "--data", "=a"], None, "--data"),
        (["--title", "x", "--device", "3"], None, "--device"),
        (["--title", "x", "--app", "nobody"], None, "app"),
        (["--title", "x", "--platform", "hms"], None, "audience.platforms"),
        (["--title", "x", "--send-at", "soon"], None, "send_at"),
        (["--title", "x", "--send", "0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c"], None, "--send"),
    ],
)
def test_errors_name_the_option(
    environment: dict[str, str], arguments: list[str], stdin: str | None, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        preview(environment, *arguments, stdin=stdin)
    assert caught.value.field == field
