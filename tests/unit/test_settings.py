"""Settings: what is wrong is named, with what was found and what is expected, and no secret is ever printed."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from pushq.app_settings import load_apps
from pushq.errors import SettingsError
from pushq.service_urls import Secret, ServiceUrl
from pushq.settings import Settings, load

SECRET = "hunter2hunter2"
GOOD = {
    "PUSHQ_DATABASE_URL": f"postgresql://pushq:{SECRET}@localhost/pushq",
    "PUSHQ_BROKER_URL": f"amqp://pushq:{SECRET}@localhost:5672//",
    "PUSHQ_REDIS_URL": f"redis://:{SECRET}@localhost:6379/0",
}
APNS = """
[apps.shop.apns]
team_id = "ABCDE12345"
key_id = "KEY1234567"
key_file = "keys/AuthKey.p8"
topic = "com.example.shop"
"""
FCM = """
[apps.shop.fcm]
project_id = "shop-1234"
service_account_file = "keys/account.json"
"""


def wrong(environ: Mapping[str, str]) -> list[str]:
    """The lines of the message."""
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return str(caught.value).splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with key files (whose content settings do not read)."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "AuthKey.p8").write_text(SECRET)
    (keys / "account.json").write_text(SECRET)
    return tmp_path


def config(folder: Path, text: str) -> Path:
    path = folder / "pushq.toml"
    path.write_text(text)
    return path


def wrong_config(folder: Path, text: str) -> list[str]:
    return wrong({"PUSHQ_CONFIG": str(config(folder, text))})


class TestEnvironment:
    def test_nothing_set_is_fine_until_something_is_needed(self) -> None:
        settings = load({})
        for needed, name in (
            (settings.need_database, "PUSHQ_DATABASE_URL"),
            (settings.need_broker, "PUSHQ_BROKER_URL"),
            (settings.need_redis, "PUSHQ_REDIS_URL"),
            (settings.need_apps, "PUSHQ_CONFIG"),
        ):
            with pytest.raises(SettingsError, match=rf"^{name}: found nothing; expected .*") as caught:
                needed()
            assert "\n" not in str(caught.value)

    def test_what_is_set_is_used(self) -> None:
        settings = load({**GOOD, "PUSHQ_BATCH_SIZE": "1000", "PUSHQ_EVENTS": "true", "OTHER_THING": "1"})
        assert settings.need_broker().reveal() == GOOD["PUSHQ_BROKER_URL"]
        assert (settings.batch_size, settings.events) == (1000, True)
        assert settings.retry.max_attempts == 3

    @pytest.mark.parametrize(
        ("variable", "value", "found", "expected"),
        [
            ("PUSHQ_BATCH_SIZE", "many", "'many'", "a whole number"),
            ("PUSHQ_BATCH_SIZE", "0", "'0'", "greater than or equal to 1"),
            ("PUSHQ_BATCH_SIZE", "5001", "'5001'", "less than or equal to 5000"),
            ("PUSHQ_BATCH_SIZE", "2.5", "'2.5'", "a whole number"),
            ("PUSHQ_LEASE_SECONDS", "soon", "'soon'", "a number"),
            ("PUSHQ_LEASE_SECONDS", "nan", "'nan'", "number"),
            ("PUSHQ_REQUEST_TIMEOUT", "inf", "'inf'", "finite number"),
            ("PUSHQ_EVENTS", "perhaps", "'perhaps'", "true or false"),
            ("PUSHQ_LOG_LEVEL", "LOUD", "'LOUD'", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
            ("PUSHQ_RETRY_MAX_ATTEMPTS", "-1", "'-1'", "greater than or equal to 0"),
            ("PUSHQ_DATABASE_URL", "mysql://localhost/x", "'mysql://'", "postgresql://"),
            ("PUSHQ_DATABASE_URL", "localhost", "no URL", "postgresql://"),
            ("PUSHQ_BROKER_URL", "kafka://localhost", "'kafka://'", "amqp://"),
            ("PUSHQ_REDIS_URL", "http://localhost", "'http://'", "redis://"),
            ("PUSHQ_CONFIG", "/no/such/file.toml", "'/no/such/file.toml'", "a readable file"),
            ("PUSHQ_CONFIG", "", "an empty value", "a value, or the variable unset"),
            ("PUSHQ_BATCHSIZE", "10", "does not know", "did you mean PUSHQ_BATCH_SIZE?"),
            ("PUSHQ_DATABASE_URI", "x", "does not know", "did you mean PUSHQ_DATABASE_URL?"),
            ("PUSHQ_WIBBLEWOBBLE", "x", "does not know", "one of PUSHQ_AUDIT_DAYS, "),
        ],
    )
    def test_a_wrong_value_gives_one_line(self, variable: str, value: str, found: str, expected: str) -> None:
        (line,) = wrong({**GOOD, variable: value})
        name, _, rest = line.partition(": found ")
        before, _, after = rest.partition("; expected ")
        assert name == variable
        assert found in before
        assert expected in after

    def test_all_that_is_wrong_is_said_at_once(self) -> None:
        lines = wrong(
            {"PUSHQ_BATCH_SIZE": "x", "PUSHQ_EVENT": "1", "PUSHQ_REDIS_URL": "x", "PUSHQ_CONFIG": ""}
        )
        assert sorted(line.partition(":")[0] for line in lines) == [
            "PUSHQ_BATCH_SIZE",
            "PUSHQ_CONFIG",
            "PUSHQ_EVENT",
            "PUSHQ_REDIS_URL",
        ]

    @pytest.mark.parametrize("variable", ["PUSHQ_DATABASE_URL", "PUSHQ_BROKER_URL", "PUSHQ_REDIS_URL"])
    @pytest.mark.parametrize(
        "text",
        [f"htp://u:{SECRET}@h/x", f"u:{SECRET}@h/x", f"redis://u:{SECRET}/@h/0", f"amqp://:12/{SECRET}@h"],
    )
    def test_a_wrong_url_does_not_give_its_password_away(self, variable: str, text: str) -> None:
        (line,) = wrong({variable: text})
        assert SECRET not in line

    @pytest.mark.parametrize(
        "url", ["redis://h:port/0", "redis://h:99999/0", "redis://[h/0", "redis://:1#2@h/0"]
    )
    def test_a_url_that_leads_nowhere_is_refused_at_once(self, url: str) -> None:
        (line,) = wrong({"PUSHQ_REDIS_URL": url})
        assert line.startswith("PUSHQ_REDIS_URL: found ")
        assert "expected one like redis://localhost:6379/0" in line

    @pytest.mark.parametrize(
        ("variable", "url"),
        [
            ("PUSHQ_REDIS_URL", "unix:///run/redis.sock?db=1"),
            ("PUSHQ_REDIS_URL", "rediss://[::1]:6379/0"),
            ("PUSHQ_DATABASE_URL", "postgresql:///pushq"),
            ("PUSHQ_DATABASE_URL", "postgresql://u@/pushq?host=/run/postgresql"),
            ("PUSHQ_BROKER_URL", "amqps://rabbit.example//"),
            ("PUSHQ_BROKER_URL", "amqp://u:p@one//;amqp://u:p@two//"),
        ],
    )
    def test_sockets_and_short_forms_are_urls_too(self, variable: str, url: str) -> None:
        settings = load({variable: url})
        found = {
            "PUSHQ_REDIS_URL": settings.redis_url,
            "PUSHQ_DATABASE_URL": settings.database_url,
            "PUSHQ_BROKER_URL": settings.broker_url,
        }[variable]
        assert found is not None
        assert found.reveal() == url


class TestUrlsInFiles:
    """PUSHQ_DATABASE_URL_FILE and its like: what systemd's credentials and Kubernetes' secrets are handed over as."""

    URL = "amqp://pushq:hunter2@broker//"

    def test_the_file_holds_the_url_and_its_last_line_may_end(self, tmp_path: Path) -> None:
        file = tmp_path / "broker-url"
        file.write_text(f"{self.URL}\n")
        settings = load({"PUSHQ_BROKER_URL_FILE": str(file)})
        assert settings.need_broker().reveal() == self.URL
        assert settings.database_url is None

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (None, "cannot be read (No such file or directory)"),
            (b"", "is empty"),
            (b" \n", "is empty"),
            (b"\xff\xfe", "cannot be read (no UTF-8)"),
        ],
    )
    def test_a_file_that_holds_none_is_said_by_its_variable(
        self, tmp_path: Path, content: bytes | None, found: str
    ) -> None:
        file = tmp_path / "broker-url"
        if content is not None:
            file.write_bytes(content)
        assert wrong({"PUSHQ_BROKER_URL_FILE": str(file)}) == [
            f"PUSHQ_BROKER_URL_FILE: found {str(file)!r}, which {found}; expected a file with a URL in it"
        ]

    def test_a_wrong_url_in_it_is_said_by_its_variable_and_not_shown(self, tmp_path: Path) -> None:
        file = tmp_path / "broker-url"
        file.write_text("kafka://pushq:hunter2@broker")
        (line,) = wrong({"PUSHQ_BROKER_URL_FILE": str(file)})
        assert line.startswith("PUSHQ_BROKER_URL_FILE: found a URL that begins with 'kafka://'")
        assert "hunter2" not in line

    def test_both_is_one_too_many(self, tmp_path: Path) -> None:
        file = tmp_path / "broker-url"
        file.write_text(self.URL)
        assert wrong({"PUSHQ_BROKER_URL_FILE": str(file), "PUSHQ_BROKER_URL": self.URL}) == [
            "PUSHQ_BROKER_URL_FILE: found next to PUSHQ_BROKER_URL; expected only one of the two"
        ]


class TestSecrets:
    @pytest.mark.parametrize(
        "url",
        [
            *GOOD.values(),
            f"redis://h/0?password={SECRET}",
            f"amqp://u:{SECRET}@a//;amqp://u:{SECRET}@b//",
            f"redis://:{SECRET}@[::1]:1/0",
        ],
    )
    def test_a_url_prints_without_its_password(self, url: str) -> None:
        value = ServiceUrl(url)
        assert value.reveal() == url
        for text in (repr(value), str(value), f"{value}", "%s" % value, value.redacted()):  # noqa: UP031 - so does logging
            assert SECRET not in text
            assert url.partition("://")[0] in text

    def test_a_secret_says_nothing(self) -> None:
        value = Secret(SECRET)
        assert SECRET not in f"{value!r} {value} {[value]}"
        assert value == Secret(SECRET) != Secret("another")
        assert hash(value) == hash(Secret(SECRET))

    def test_settings_print_without_secrets(self, caplog: pytest.LogCaptureFixture) -> None:
        settings = load(GOOD)
        with caplog.at_level(logging.INFO):
            logging.getLogger("pushq.test").info("settings %s %r", settings, settings)
        dumped = f"{settings} {settings!r} {settings.model_dump()}"
        assert "***" in dumped
        assert SECRET not in dumped + caplog.text

    def test_a_redacted_url_shows_what_helps(self) -> None:
        assert str(ServiceUrl("amqp://u:p@h:1//v?x=y")) == "amqp://u:***@h:1//v"
        assert str(ServiceUrl("redis://u@[::1]:1/0")) == "redis://u@[::1]:1/0"
        assert str(ServiceUrl("postgresql:///pushq")) == "postgresql:///pushq"

    def test_settings_do_not_change(self) -> None:
        with pytest.raises(ValidationError):
            load(GOOD).batch_size = 1


class TestConfigFile:
    def test_file_names_are_relative_to_the_file(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        config(folder, APNS + FCM)
        monkeypatch.chdir(elsewhere)
        shop = load({"PUSHQ_CONFIG": "../pushq.toml"}).need_apps()["shop"]
        assert shop.apns is not None
        assert shop.fcm is not None
        assert shop.apns.key_file == folder / "keys" / "AuthKey.p8"
        assert shop.fcm.service_account_file == folder / "keys" / "account.json"

    def test_absolute_file_names_stay(self, folder: Path) -> None:
        absolute = folder / "keys" / "account.json"
        shop = load_apps(config(folder, FCM.replace("keys/account.json", str(absolute))))["shop"]
        assert shop.fcm is not None
        assert shop.fcm.service_account_file == absolute

    def test_the_providers_are_the_default(self, folder: Path) -> None:
        shop = load_apps(config(folder, APNS + FCM))["shop"]
        assert shop.apns is not None
        assert shop.fcm is not None
        assert shop.apns.url == "https://api.push.apple.com"
        assert shop.apns.sandbox_url == "https://api.sandbox.push.apple.com"
        assert shop.fcm.url == "https://fcm.googleapis.com"

    @pytest.mark.parametrize(
        ("before", "after", "name", "found", "expected"),
        [
            ('"ABCDE12345"', '"abc"', "apps.shop.apns.team_id", "'abc'", "[A-Z0-9]{10}"),
            ('"KEY1234567"', "7", "apps.shop.apns.key_id", "7", "string"),
            ('key_id = "KEY1234567"', "", "apps.shop.apns", "no key_id", "certificate_file"),
            (
                "topic",
                'certificate_file = "keys/AuthKey.p8"\ntopic',
                "apps.shop.apns",
                "certificate_file and key_id, key_file",
                "one of the two ways",
            ),
            (
                "topic",
                'sandbox_key_id = "KEY7654321"\ntopic',
                "apps.shop.apns",
                "one of sandbox_key_id",
                "both or neither",
            ),
            (
                "topic",
                'certificate_password_file = "keys/AuthKey.p8"\ntopic',
                "apps.shop.apns",
                "without certificate_file",
                "all of them",
            ),
            ('"com.example.shop"', '""', "apps.shop.apns.topic", "''", "at least 1"),
            ('"com.example.shop"', '"a b"', "apps.shop.apns.topic", "'a b'", "text of the form"),
            ("AuthKey.p8", "No.p8", "apps.shop.apns.key_file", "No.p8", "a readable file"),
            ('"keys/AuthKey.p8"', '"keys"', "apps.shop.apns.key_file", "not a file", "a readable file"),
            ('"keys/AuthKey.p8"', "5", "apps.shop.apns.key_file", "5", "path"),
            ("team_id", "teem_id = 1\nteam_id", "apps.shop.apns.teem_id", "does not know", "spelling"),
            ("topic", "min_connections = 0\ntopic", "apps.shop.apns.min_connections", "0", "equal to 1"),
            (
                "topic",
                'url = "http://localhost"\ntopic',
                "apps.shop.apns.url",
                "'http://localhost'",
                "https://HOST",
            ),
            ("topic", 'url = "https://"\ntopic', "apps.shop.apns.url", "'https://'", "https://HOST"),
            (
                "topic",
                'url = "https://h/path"\ntopic',
                "apps.shop.apns.url",
                "'https://h/path'",
                "https://HOST",
            ),
            (
                "topic",
                'url = "https://h?a=b"\ntopic',
                "apps.shop.apns.url",
                "'https://h?a=b'",
                "https://HOST",
            ),
            (
                "topic",
                'url = "https://h:port"\ntopic',
                "apps.shop.apns.url",
                "'https://h:port'",
                "https://HOST",
            ),
            (
                "topic",
                'url = "https://h:99999"\ntopic',
                "apps.shop.apns.url",
                "'https://h:99999'",
                "https://HOST",
            ),
            ("topic", f'url = "https://u:{SECRET}@h"\ntopic', "apps.shop.apns.url", "a user", "https://HOST"),
            ("topic", 'url = "https://[h"\ntopic', "apps.shop.apns.url", "'https://[h'", "https://HOST"),
            ("shop", "Shop Nr 1", "apps.Shop Nr 1", "", "a-z0-9"),
            ("apps.shop.apns", "apps.shop.wns", "apps.shop.wns", "does not know", "spelling"),
            ("apps.shop.apns", "app.shop.apns", "app", "does not know", "spelling"),
        ],
    )
    def test_a_wrong_table_gives_one_line(
        self, folder: Path, before: str, after: str, name: str, found: str, expected: str
    ) -> None:
        text = APNS.replace(before, after, 1)
        if before == "shop":
            text = APNS.replace("apps.shop", 'apps."Shop Nr 1"')
        (line,) = wrong_config(folder, text)
        assert line.startswith(f"{folder / 'pushq.toml'}: {name}")
        before_, _, after_ = line.partition("; expected ")
        assert found in before_
        assert SECRET not in line
        assert expected in after_

    def test_all_that_is_wrong_in_the_file_is_said_at_once(self, folder: Path) -> None:
        lines = wrong_config(folder, APNS.replace("KEY1234567", "k") + FCM.replace("shop-1234", "S"))
        assert [re.sub(r"^\S+: ([^:]+): .*", r"\1", line) for line in lines] == [
            "apps.shop.apns.key_id",
            "apps.shop.fcm.project_id",
        ]

    @pytest.mark.parametrize(
        "text", ["[apps", "a = ", "\x00", "[apps.shop.fcm]\nproject_id = 1\nproject_id = 2", "\ufeff[a]"]
    )
    def test_what_is_no_toml_is_said(self, folder: Path, text: str) -> None:
        (line,) = wrong_config(folder, text)
        assert re.match(
            r"PUSHQ_CONFIG: found '.*pushq.toml', which is not TOML \(.+\); expected a TOML file", line
        )

    def test_a_file_that_is_no_text_is_said(self, folder: Path) -> None:
        path = folder / "pushq.toml"
        path.write_bytes(b"a = '\xff\xfe'")
        (line,) = wrong({"PUSHQ_CONFIG": str(path)})
        assert line.startswith(f"PUSHQ_CONFIG: found {str(path)!r}, which is not TOML")

    def test_a_file_without_an_app_is_said_where_one_is_needed(self, folder: Path) -> None:
        settings = load({"PUSHQ_CONFIG": str(config(folder, ""))})
        with pytest.raises(SettingsError, match=r"^PUSHQ_CONFIG: found no app in '.*'; expected a table"):
            settings.need_apps()

    def test_a_file_that_went_away_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(
            SettingsError, match=r"^PUSHQ_CONFIG: found '.*', which cannot be read \(No such file"
        ):
            load_apps(tmp_path / "gone.toml")

    def test_the_content_of_a_key_file_is_never_shown(self, folder: Path) -> None:
        apps = load_apps(config(folder, APNS + FCM))
        settings = Settings(apps=apps)
        assert SECRET not in f"{apps} {settings!r}"
