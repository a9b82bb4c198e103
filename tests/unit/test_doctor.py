"""The parts of `pushq doctor` that need no server: running checks, clocks, files, and settings that are wrong in places."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pushq.app_settings import AppSettings, FcmSettings
from pushq.doctor import Check, Finding, Status, examine, read
from pushq.doctor.clocks import Reading, date_header, judge_clock
from pushq.doctor.files import files
from pushq.doctor.findings import ok

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def check(subject: str, run: Callable[[], list[Finding]]) -> Check:
    return Check(subject, run, f"advice of {subject}")


class TestExamine:
    @pytest.fixture
    def never(self) -> Iterator[threading.Event]:
        never = threading.Event()
        yield never
        never.set()

    def test_one_that_hangs_and_one_that_breaks_hide_no_other(self, never: threading.Event) -> None:
        def hang() -> list[Finding]:
            never.wait(30)
            return [ok("too late", "nobody listens any more")]

        def broken() -> list[Finding]:
            raise RuntimeError("what nobody thought of")

        checks = [
            check("hangs", hang),
            check("breaks", broken),
            check("works", lambda: [ok("works", "fine"), ok("works", "very")]),
        ]
        found = examine(checks, 0.5)
        assert [(f.subject, f.status, f.found) for f in found] == [
            ("hangs", Status.FAILED, "no result within 0.5 s"),
            ("breaks", Status.FAILED, "RuntimeError: what nobody thought of"),
            ("works", Status.OK, "fine"),
            ("works", Status.OK, "very"),
        ]
        assert [f.advice for f in found[:2]] == ["advice of hangs", "advice of breaks"]

    def test_those_that_hang_do_not_keep_the_waiting_ones_from_their_turn(
        self, never: threading.Event
    ) -> None:
        def hang() -> list[Finding]:
            never.wait(30)
            return []

        checks = [check("hangs", hang)] * 2 + [check("works", lambda: [ok("works", "fine")])] * 3
        found = examine(checks, 0.2, side_by_side=2)
        assert [f.status for f in found] == [Status.FAILED] * 2 + [Status.OK] * 3

    def test_they_run_side_by_side(self) -> None:
        """Each waits for the other: one after the other they would never end."""
        together = threading.Barrier(2, timeout=20)

        def meet() -> list[Finding]:
            together.wait()
            return [ok("meets", "fine")]

        assert [f.status for f in examine([check("a", meet), check("b", meet)], 20)] == [Status.OK] * 2


class TestClocks:
    @pytest.mark.parametrize(
        ("theirs", "precision", "status", "words"),
        [
            (1000.0, 0.0, Status.OK, "agrees"),
            (1001.0, 0.0, Status.OK, "agrees"),
            (1003.5, 0.0, Status.WARNING, "3.0 s behind"),
            (997.0, 0.0, Status.WARNING, "3.0 s ahead of"),
            (997.5, 1.0, Status.OK, "agrees"),  # a Date header says whole seconds only
            (990.0, 0.0, Status.FAILED, "10.0 s ahead of"),
            (1060.0, 1.0, Status.FAILED, "59.5 s behind"),
        ],
    )
    def test_a_difference(self, theirs: float, precision: float, status: Status, words: str) -> None:
        """Asked at 1000.0, answered at 1000.5: what the way may have taken speaks for the other clock."""
        finding = judge_clock("clock", "that of Redis", Reading(theirs, 1000.0, 1000.5, precision))
        assert finding.status is status
        assert words in finding.found
        assert bool(finding.advice) == (status is not Status.OK)

    def test_a_date_header(self) -> None:
        reading = date_header({"date": "Tue, 01 Jan 2030 12:00:00 GMT"}, 5.0, 6.0)
        assert reading == Reading(NOW.timestamp(), 5.0, 6.0, 1.0)
        assert date_header({}, 5.0, 6.0) is None
        assert date_header({"date": "soon"}, 5.0, 6.0) is None


def certificate(ends: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    built = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), ends - timedelta(days=365), ends
    )
    return built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


class TestFiles:
    @pytest.fixture
    def apps(self, tmp_path: Path) -> dict[str, AppSettings]:
        secret, ca = tmp_path / "account.json", tmp_path / "ca.pem"
        secret.write_text("{}")
        secret.chmod(0o600)
        ca.write_bytes(certificate(NOW + timedelta(days=300)))
        ca.chmod(0o644)
        fcm = FcmSettings(project_id="shop-one", service_account_file=secret, ca_file=ca)
        return {"shop": AppSettings(fcm=fcm)}

    def test_private_secrets_and_public_certificates_are_fine(self, apps: dict[str, AppSettings]) -> None:
        (finding,) = files(apps, NOW)
        assert (finding.status, finding.found) == (
            Status.OK,
            "2 file(s); nobody else may read the secrets among them",
        )

    @pytest.mark.parametrize(
        ("mode", "status"), [(0o640, None), (0o644, Status.WARNING), (0o602, Status.FAILED)]
    )
    def test_permissions_of_a_secret(
        self, apps: dict[str, AppSettings], tmp_path: Path, mode: int, status: Status | None
    ) -> None:
        (tmp_path / "account.json").chmod(mode)
        found = [f for f in files(apps, NOW) if f.status is not Status.OK]
        assert [f.status for f in found] == ([] if status is None else [status])
        assert all("chmod o-rwx" in f.advice and f"{mode:04o}" in f.found for f in found)

    @pytest.mark.parametrize(
        ("days", "status", "words"),
        [
            (40, Status.OK, ""),
            (10, Status.WARNING, "in 10 day(s)"),
            (-1, Status.FAILED, "ended on 2029-12-31"),
        ],
    )
    def test_a_certificate_that_ends(
        self, apps: dict[str, AppSettings], tmp_path: Path, days: int, status: Status, words: str
    ) -> None:
        (tmp_path / "ca.pem").write_bytes(certificate(NOW + timedelta(days=days)))
        (finding,) = files(apps, NOW)
        assert finding.status is status
        assert words in finding.found

    def test_one_that_is_gone_or_damaged(self, apps: dict[str, AppSettings], tmp_path: Path) -> None:
        (tmp_path / "account.json").unlink()
        (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        found = files(apps, NOW)
        assert [f.status for f in found] == [Status.FAILED] * 2
        assert any("apps.shop.fcm.service_account_file" in f.found for f in found)
        assert any("damaged certificate" in f.found for f in found)


class TestConfiguration:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        (tmp_path / "account.json").write_text("{}")
        path = tmp_path / "pushq.toml"
        path.write_text(
            '[apps.shop.fcm]\nproject_id = "shop-one"\nservice_account_file = "account.json"\n'
            '[apps.news.fcm]\nproject_id = "NO"\nservice_account_file = "gone.json"\n'
        )
        return path

    def test_what_is_wrong_hides_nothing_that_is_right(self, config: Path) -> None:
        settings, findings = read(
            {
                "PUSHQ_REDIS_URL": "redis://localhost/0",
                "PUSHQ_BATCH_SIZE": "many",
                "PUSHQ_BACH_SIZE": "5",
                "PUSHQ_CONFIG": str(config),
                "HOME": "/nowhere",
            }
        )
        assert settings.redis_url is not None
        assert sorted(settings.apps) == ["shop"]
        assert {f.status for f in findings} == {Status.FAILED}
        text = "\n".join(f.found for f in findings)
        for name in (
            "PUSHQ_BATCH_SIZE",
            "PUSHQ_BACH_SIZE",
            "apps.news.fcm.project_id",
            "apps.news.fcm.service_account_file",
        ):
            assert name in text
        assert any("pushq_config_reload_failed" in f.advice for f in findings)

    def test_no_toml_and_no_file(self, tmp_path: Path) -> None:
        path = tmp_path / "pushq.toml"
        for prepare, words in ((lambda: None, "cannot be read"), (lambda: path.write_text("[a"), "not TOML")):
            prepare()
            settings, findings = read({"PUSHQ_CONFIG": str(path)})
            assert settings.apps == {}
            assert [f.status for f in findings] == [Status.FAILED]
            assert words in findings[0].found

    def test_nothing_at_all(self) -> None:
        settings, findings = read({})
        assert settings.apps == {}
        assert "PUSHQ_CONFIG is not set" in findings[0].found

    def test_all_right(self, config: Path) -> None:
        config.write_text(config.read_text().partition("[apps.news")[0])
        _, findings = read({"PUSHQ_CONFIG": str(config), "PUSHQ_BATCH_SIZE": "100"})
        assert [(f.status, f.found) for f in findings] == [(Status.OK, "2 settings, 1 app(s): shop (FCM)")]
