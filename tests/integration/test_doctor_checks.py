"""`pushq doctor` against real servers and the mock providers: what each fault looks like, and what it says to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pushq.app_settings import AppSettings, load_apps
from pushq.doctor import Finding, Status, checks, examine
from pushq.embedded.redis import RedisServer
from pushq.embedded.server import free_port
from pushq.mock import MockProcess
from pushq.redis_client import open_redis
from pushq.reload import ConfigState, announce, digest
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings
from tests.e2e.world import shell_environment

TIMEOUT_S = 20.0
APP = "shop"


@pytest.fixture
def settings(mock: MockProcess, database: str, redis_server: RedisServer) -> Settings:
    return Settings(
        database_url=ServiceUrl(database),
        redis_url=ServiceUrl(redis_server.url(0)),
        broker_url=ServiceUrl(redis_server.url(1)),
        config=mock.config_file,
        apps=load_apps(mock.config_file),
    )


def changed(settings: Settings, platform: str, **section: Any) -> Settings:
    """With another section of the one app, and no other."""
    have = getattr(settings.apps[APP], platform).model_copy(update=section)
    return settings.model_copy(update={"apps": {APP: AppSettings(**{platform: have})}})


def found(settings: Settings, *subjects: str, timeout_s: float = TIMEOUT_S) -> list[Finding]:
    """What the checks of these subjects find; of all, if none is named."""
    chosen = [check for check in checks(settings, timeout_s) if not subjects or check.subject in subjects]
    assert chosen
    return examine(chosen, timeout_s)


def troubles(findings: list[Finding]) -> list[tuple[str, Status]]:
    assert all(bool(finding.advice) == (finding.status is not Status.OK) for finding in findings)
    return [(f.subject, f.status) for f in findings if f.status is not Status.OK]


def test_a_set_up_that_is_right(settings: Settings, mock: MockProcess) -> None:
    findings = found(settings)
    assert troubles(findings) == [("workers", Status.WARNING)]  # none runs
    assert {f.subject for f in findings} == {
        *("database", "broker", "Redis", "workers", "files", "clock"),
        *("APNs shop", "APNs shop sandbox", "FCM shop", "HMS shop"),
    }
    for platform in ("apns", "fcm", "hms"):
        assert mock.accepted(platform) == {}  # no phone rings


class TestServers:
    def test_none_answers(self, settings: Settings) -> None:
        """Each is named with its variable; passwords are not printed; the providers are looked at all the same."""
        port = free_port()
        dead = settings.model_copy(
            update={
                name: ServiceUrl(f"{scheme}://who:secret-word@localhost:{port}/0")
                for name, scheme in (
                    ("database_url", "postgresql"),
                    ("redis_url", "redis"),
                    ("broker_url", "amqp"),
                )
            }
        )
        findings = found(dead)
        failed = {f.subject: f for f in findings if f.status is Status.FAILED}
        assert set(failed) == {"database", "Redis", "broker"}
        for subject, variable in (("database", "DATABASE"), ("Redis", "REDIS"), ("broker", "BROKER")):
            assert f"PUSHQ_{variable}_URL" in failed[subject].advice
        assert "secret-word" not in str(findings)
        assert {"APNs shop", "FCM shop", "HMS shop"} <= {f.subject for f in findings if f.status is Status.OK}

    def test_none_is_named(self, settings: Settings) -> None:
        bare = settings.model_copy(update={"database_url": None, "redis_url": None, "broker_url": None})
        failed = {f.subject for f in found(bare) if f.status is Status.FAILED}
        assert failed == {"database", "Redis", "broker"}

    def test_a_database_without_the_schema(self, settings: Settings, empty_database: str) -> None:
        bare = settings.model_copy(update={"database_url": ServiceUrl(empty_database)})
        (trouble,) = [f for f in found(bare, "database") if f.status is not Status.OK]
        assert trouble.status is Status.FAILED
        assert "the schema is missing" in trouble.found
        assert trouble.advice == "Run: pushq db upgrade"

    def test_a_redis_that_forgets(self, settings: Settings) -> None:
        assert settings.redis_url is not None
        client = open_redis(settings.redis_url, max_connections=1)
        try:
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("appendonly", "no")
            assert troubles(found(settings, "Redis")) == [("Redis", Status.WARNING)] * 2
            client.config_set("maxmemory", 10 << 30)
            assert troubles(found(settings, "Redis", "broker")) == [
                ("broker", Status.FAILED),
                ("broker", Status.WARNING),
                ("Redis", Status.FAILED),
                ("Redis", Status.WARNING),
            ]
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
            client.close()

    def test_rabbitmq_without_workers(self, settings: Settings, rabbitmq_url: str) -> None:
        fresh = settings.model_copy(update={"broker_url": ServiceUrl(rabbitmq_url)})
        reachable, missing = found(fresh, "broker")
        assert (reachable.status, missing.status) == (Status.OK, Status.WARNING)
        assert "RabbitMQ" in reachable.found
        assert "push.apns.transactional" in missing.found
        assert "`pushq worker apns`" in missing.advice

    def test_workers_that_disagree(self, settings: Settings) -> None:
        assert settings.redis_url is not None
        assert settings.config is not None
        ours = digest(settings.config, settings.apps)[:12]
        client = open_redis(settings.redis_url, max_connections=1)
        try:
            for kind in ("core", "apns", "fcm", "hms"):
                announce(client, f"a:{kind}", kind, ConfigState(ours), life_s=60)
            assert [f.status for f in found(settings, "workers")] == [Status.OK]
            announce(client, "b:1", "apns", ConfigState("0" * 12), life_s=60)
            announce(client, "b:2", "fcm", ConfigState(ours, "no TOML"), life_s=60)
            old, broken = found(settings, "workers")
        finally:
            client.close()
        assert (old.status, broken.status) == (Status.WARNING, Status.FAILED)
        assert "b:1 (apns) runs with configuration 000000000000" in old.found
        assert "no TOML" in broken.found


class TestProviders:
    @pytest.mark.parametrize("platform", ["apns", "fcm", "hms"])
    def test_a_key_that_is_refused(self, settings: Settings, mock: MockProcess, platform: str) -> None:
        key = mock.add_key(platform)
        mock.revoke_key(platform, key["key_id"])
        have = type(getattr(settings.apps[APP], platform)).model_fields
        section = {name: Path(v) if name.endswith("_file") else v for name, v in key.items() if name in have}
        findings = found(changed(settings, platform, **section), f"{platform_title(platform)} shop")
        first = findings[0]
        assert first.status is Status.FAILED, findings
        assert f"apps.{APP}.{platform}" in first.found + first.advice

    def test_a_topic_of_somebody_else(self, settings: Settings) -> None:
        findings = found(changed(settings, "apns", topic="com.example.other"), "APNs shop")
        assert [f.status for f in findings] == [Status.FAILED, Status.WARNING]  # the sandbox is no failure
        assert "TopicDisallowed" in findings[0].found
        assert "apps.shop.apns.topic" in findings[0].advice

    def test_a_project_of_somebody_else(self, settings: Settings) -> None:
        (finding, *_) = found(changed(settings, "fcm", project_id="pushq-other"), "FCM shop")
        assert finding.status is Status.FAILED
        assert "403" in finding.found

    @pytest.mark.parametrize("platform", ["apns", "fcm", "hms"])
    def test_nothing_listens(self, settings: Settings, platform: str) -> None:
        url = f"https://localhost:{free_port()}"
        (finding, *_) = found(changed(settings, platform, url=url), f"{platform_title(platform)} shop")
        assert finding.status is Status.FAILED
        assert "refused" in finding.found.lower()

    @pytest.mark.parametrize("platform", ["apns", "fcm"])
    def test_a_certificate_that_nobody_trusts(
        self, settings: Settings, mock: MockProcess, platform: str
    ) -> None:
        """APNs meets it at the provider, FCM already at the token endpoint."""
        (finding, *_) = found(changed(settings, platform, ca_file=None), f"{platform_title(platform)} shop")
        assert finding.status is Status.FAILED
        if platform == "apns":
            assert "ca_file" in finding.advice

    def test_one_that_never_answers_hides_no_other(self, settings: Settings, mock: MockProcess) -> None:
        mock.set_faults([{"platform": "fcm", "stall": True}])
        findings = {f.subject: f for f in found(settings, "FCM shop", "APNs shop", timeout_s=6.0)}
        assert findings["FCM shop"].status is Status.FAILED
        assert findings["APNs shop"].status is Status.OK

    def test_one_that_has_troubles_of_its_own(self, settings: Settings, mock: MockProcess) -> None:
        mock.set_faults([{"platform": "fcm", "answer": {"status": 503, "reason": "UNAVAILABLE"}}])
        (finding, *_) = found(settings, "FCM shop")
        assert finding.status is Status.WARNING
        assert "503 UNAVAILABLE" in finding.found

    def test_a_clock_that_differs_from_the_providers(self, settings: Settings, mock: MockProcess) -> None:
        answer = {"shape": "b", "headers": {"date": "Tue, 01 Jan 2030 12:00:00 GMT"}}
        mock.set_faults([{"platform": "fcm", "answer": answer}])
        reached, clock = found(settings, "FCM shop")
        assert (reached.status, clock.status) == (Status.OK, Status.FAILED)
        assert clock.subject == "clock"
        assert "that of FCM shop" in clock.found
        assert "NTP" in clock.advice

    def test_a_file_that_is_no_key(self, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / "key.p8"
        path.write_text("hunter2hunter2")
        (finding,) = found(changed(settings, "apns", key_file=path), "APNs shop")
        assert finding.status is Status.FAILED
        assert "apps.shop.apns.key_file" in finding.found
        assert "hunter2" not in str(finding)


def platform_title(platform: str) -> str:
    return {"apns": "APNs", "fcm": "FCM", "hms": "HMS"}[platform]


def test_the_command(settings: Settings, mock: MockProcess, tmp_path: Path) -> None:
    """Exit code, JSON, and words for people."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    assert settings.broker_url is not None
    environment = shell_environment() | {
        "PUSHQ_DATABASE_URL": settings.database_url.reveal(),
        "PUSHQ_REDIS_URL": settings.redis_url.reveal(),
        "PUSHQ_BROKER_URL": settings.broker_url.reveal(),
        "PUSHQ_CONFIG": str(mock.config_file),
    }

    def doctor(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pushq", "doctor", "--timeout", "60", *arguments],
            env=environment | more,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    good = doctor("--json")
    assert good.returncode == 0, good.stdout + good.stderr
    report = json.loads(good.stdout)
    assert (report["ok"], report["failed"]) == (True, 0)
    bad = doctor(PUSHQ_BATCH_SIZE="0")
    assert bad.returncode == 1
    assert "FAILED  configuration: PUSHQ_BATCH_SIZE: found '0'" in bad.stdout
    assert "1 failed" in bad.stdout
