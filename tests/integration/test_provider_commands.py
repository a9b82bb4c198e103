"""`pushq apns` and `pushq fcm`, as a shell runs them, against the mock."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pushq.app_settings import FcmSettings, load_apps
from pushq.cli.root import cli
from pushq.errors import InvalidRequest, PushqError
from pushq.mock import MockProcess
from pushq.mock.client_certificates import issue, make_authority
from pushq.providers.apns.channels import ChannelRefused
from pushq.providers.client import CredentialRefused
from pushq.providers.fcm.topics import MAX_REGISTRATIONS, Topics, TopicsRefused, TopicsUnavailable

Run = Callable[..., Result]
TOKEN = "c0:APA91b" + "x" * 40


@pytest.fixture
def pushq(
    ledger_url: str, redis_url: str, mock: MockProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """The command line in this process: starting one takes longer than what most commands do."""
    monkeypatch.chdir(tmp_path)

    def command(*args: str, **environ: str) -> Result:
        given = {
            "PUSHQ_DATABASE_URL": ledger_url,
            "PUSHQ_REDIS_URL": redis_url,
            "PUSHQ_CONFIG": str(mock.config_file),
        }
        return CliRunner().invoke(cli, args, env=given | environ)

    return command


def ok(done: Result) -> str:
    assert (done.exception, done.exit_code) == (None, 0), done.output
    return done.stdout


def as_json(done: Result) -> Any:
    return json.loads(ok(done))


def test_a_channels_life(pushq: Run) -> None:
    made = as_json(pushq("apns", "channels", "create", "--store", "--json"))
    assert (made["stores"], made["environment"]) == (True, "production")
    assert as_json(pushq("apns", "channels", "show", made["channel"], "--json"))["stores"] is True
    assert ok(pushq("apns", "channels", "list")).split() == [made["channel"]]
    assert ok(pushq("apns", "channels", "delete", made["channel"], "--yes")) == "deleted\n"
    gone = pushq("apns", "channels", "show", made["channel"])
    assert isinstance(gone.exception, ChannelRefused)
    assert "pushq apns channels list" in str(gone.exception)


def test_credentials_and_their_ends(pushq: Run, mock: MockProcess, tmp_path: Path) -> None:
    found = as_json(pushq("apns", "credentials", "--json"))["credentials"]
    assert [(each["platform"], each["kind"], each["expires_at"], each["state"]) for each in found] == [
        ("apns", "key", None, "ok"),
        ("fcm", "service_account", None, "ok"),
        ("hms", "client_secret", None, "ok"),
    ]
    authority = make_authority()
    now = datetime.now(UTC).replace(microsecond=0)
    lines = []
    for name, days in (("soon", 9), ("over", -1)):
        pem, _, _ = issue(*authority, "com.example.shop", expires_at=now + timedelta(days=days))
        (tmp_path / f"{name}.pem").write_bytes(pem)
        lines.append(
            f'[apps.{name}.apns]\ntopic = "com.example.shop"\ncertificate_file = "{tmp_path / name}.pem"\n'
        )
    config = tmp_path / "certificates.toml"
    config.write_text("".join(lines))
    done = pushq("apns", "credentials", "--json", PUSHQ_CONFIG=str(config))
    # Something has ended: a script that asks is to know it.
    assert done.exit_code == 1
    states = {
        each["app"]: (each["state"], each["expires_at"]) for each in json.loads(done.stdout)["credentials"]
    }
    assert states == {
        "soon": ("expires_soon", (now + timedelta(days=9)).isoformat()),
        "over": ("expired", (now - timedelta(days=1)).isoformat()),
    }
    assert "expired" in pushq("apns", "credentials", PUSHQ_CONFIG=str(config)).stdout


class TestTopicCommands:
    def test_a_segment_is_subscribed_and_unsubscribed(
        self, pushq: Run, mock: MockProcess, tmp_path: Path
    ) -> None:
        rows = [f"{n},shop,fcm,{TOKEN}{n:05d},{'de' if n % 2 else 'fr'}" for n in range(1, 2401)]
        rows.append(f"2401,shop,fcm,deaddeaddead{TOKEN},de")
        rows.append(f"2402,shop,fcm,fid:c{'y' * 21},de")
        rows.append(f"2403,shop,apns,{'ab' * 32},de")
        (tmp_path / "d.csv").write_text("user_id,app,platform,token,language\n" + "\n".join(rows) + "\n")
        ok(pushq("tokens", "import", "d.csv"))
        ok(pushq("segments", "create", "german", "--app", "shop", "--filter", '{"language": "de"}'))
        done = as_json(pushq("fcm", "topics", "subscribe", "news", "--segment", "german", "--json"))
        assert done == {"topic": "news", "changed": 1200, "failed": {"NOT_FOUND": 1, "INSTALLATION_ID": 1}}
        assert mock.subscribed("news") == [f"{TOKEN}{n:05d}" for n in range(1, 2401, 2)]
        sizes = [len(json.loads(each["body"])["registration_tokens"]) for each in mock.requests("topics")]
        assert sum(sizes) == 1201
        assert max(sizes) == MAX_REGISTRATIONS
        said = ok(pushq("fcm", "topics", "unsubscribe", "news", "--users", "1,3,2401"))
        assert "2 devices are no longer subscribed to news" in said
        assert "1 not: NOT_FOUND - the registration is gone" in said
        assert len(mock.subscribed("news")) == 1198

    def test_a_file_of_tokens(self, pushq: Run, mock: MockProcess, tmp_path: Path) -> None:
        (tmp_path / "tokens.txt").write_text(f"{TOKEN}1\n\n {TOKEN}2 \n")
        ok(pushq("fcm", "topics", "subscribe", "sport", "--tokens-file", "tokens.txt"))
        assert mock.subscribed("sport") == [f"{TOKEN}1", f"{TOKEN}2"]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("news",), "either --tokens-file"),
            (("news", "--users", "1", "--tokens-file", "-"), "either --tokens-file"),
            (("/topics/news", "--users", "1"), "without /topics/"),
            (("news", "--users", "one"), "user ids with commas"),
            (("news", "--segment", "nobody"), "nobody"),
            (("news", "--tokens-file", "missing.txt"), "missing.txt"),
            (("news", "--users", "1", "--app", "other"), "one of the configured apps"),
        ],
    )
    def test_what_is_wrong_is_said(self, pushq: Run, arguments: tuple[str, ...], says: str) -> None:
        done = pushq("fcm", "topics", "subscribe", *arguments)
        assert done.exit_code != 0
        assert says in (str(done.exception) if isinstance(done.exception, PushqError) else done.stderr)


class Tokens:
    """Hands out one access token after another."""

    def __init__(self, *tokens: str) -> None:
        self.tokens, self.stale = list(tokens), list[bytes]()

    def authorization(self) -> bytes:
        return f"Bearer {self.tokens[0]}".encode()

    def expired(self, stale: bytes) -> None:
        self.stale.append(stale)
        self.tokens.pop(0)


class TestTopics:
    """What the service answers, and what becomes of it."""

    @pytest.fixture
    def settings(self, mock: MockProcess) -> FcmSettings:
        fcm = load_apps(mock.config_file)["shop"].fcm
        assert fcm is not None
        return fcm

    def ask(
        self, settings: FcmSettings, tokens: Tokens | None = None, **call: Any
    ) -> tuple[Any, list[float]]:
        waits: list[float] = []
        with Topics("shop", settings, tokens or Tokens("x", "y"), sleep=waits.append) as topics:
            return topics.subscribe("news", call.get("registrations", [TOKEN])), waits

    def test_a_token_that_is_too_old_is_renewed_once(self, mock: MockProcess, settings: FcmSettings) -> None:
        tokens = Tokens("old", "older", "oldest")
        with pytest.raises(CredentialRefused, match="401 UNAUTHENTICATED"):
            self.ask(settings, tokens)
        assert tokens.stale == [b"Bearer old"]

    @pytest.mark.parametrize(
        ("answer", "waits"),
        [
            ({"status": 503}, [10.0, 20.0, 40.0]),
            ({"status": 429}, [60.0, 60.0, 60.0]),
            ({"status": 429, "retry_after": 7}, [7.0, 7.0, 7.0]),
        ],
    )
    def test_what_asks_to_come_later_is_asked_again_and_not_for_ever(
        self, mock: MockProcess, settings: FcmSettings, answer: dict[str, Any], waits: list[float]
    ) -> None:
        mock.set_faults([{"platform": "topics", "answer": answer}])
        waited: list[float] = []
        account = self.real_tokens(settings)
        with (
            Topics("shop", settings, account, sleep=waited.append) as topics,
            pytest.raises(TopicsUnavailable, match=str(answer["status"])),
        ):
            topics.subscribe("news", [TOKEN])
        assert waited == waits

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            ({"status": 400, "reason": "INVALID_ARGUMENT"}, TopicsRefused),
            ({"status": 403, "reason": "PERMISSION_DENIED"}, CredentialRefused),
            ({"status": 200, "body": "{}"}, TopicsRefused),
            ({"status": 200, "body": '{"results": []}'}, TopicsRefused),
            ({"status": 200, "body": "no json"}, TopicsRefused),
        ],
    )
    def test_what_is_refused_is_not_asked_again(
        self, mock: MockProcess, settings: FcmSettings, answer: dict[str, Any], error: type[Exception]
    ) -> None:
        mock.set_faults([{"platform": "topics", "answer": answer}])
        waited: list[float] = []
        with (
            Topics("shop", settings, self.real_tokens(settings), sleep=waited.append) as topics,
            pytest.raises(error),
        ):
            topics.subscribe("news", [TOKEN])
        assert waited == []

    def test_no_answer_is_asked_again(self, settings: FcmSettings) -> None:
        nowhere = settings.model_copy(update={"iid_url": "https://localhost:9"})
        with pytest.raises(TopicsUnavailable, match="no answer"):
            self.ask(nowhere)

    def test_a_name_that_is_none_asks_nobody(self, settings: FcmSettings) -> None:
        with Topics("shop", settings, Tokens("x")) as topics, pytest.raises(InvalidRequest):
            topics.subscribe("a b", [TOKEN])

    def real_tokens(self, settings: FcmSettings) -> Tokens:
        from google.oauth2 import service_account  # noqa: PLC0415

        from pushq.providers.fcm.credentials import SCOPE, HttpxRequest  # noqa: PLC0415

        request = HttpxRequest(settings.ca_file)
        try:
            account = service_account.Credentials.from_service_account_file(
                str(settings.service_account_file), scopes=[SCOPE]
            )
            account.refresh(request)
        finally:
            request.close()
        return Tokens(str(account.token), "other")


class TestSendingFromTheShell:
    @pytest.mark.parametrize(
        ("target", "body"),
        [
            (("--topic", "news"), {"topic": "news"}),
            (("--condition", "'news' in topics"), {"condition": "'news' in topics"}),
        ],
    )
    def test_fcm_looks_at_a_topics_message_without_sending_it(
        self, pushq: Run, mock: MockProcess, target: tuple[str, str], body: dict[str, str]
    ) -> None:
        found = as_json(pushq("send", *target, "--title", "Extra!", "--dry-run", "--json"))
        assert found["good"] is True
        (asked,) = [json.loads(each["body"]) for each in mock.requests("fcm")]
        assert asked["validate_only"] is True
        assert {key: asked["message"][key] for key in body} == body
        assert mock.accepted("fcm") == {}

    def test_a_target_and_users_are_two_audiences(self, pushq: Run) -> None:
        done = pushq("send", "--topic", "news", "--user", "5", "--title", "x")
        assert isinstance(done.exception, InvalidRequest)
        assert done.exception.field == "--user"
