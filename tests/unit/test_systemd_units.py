"""deploy/systemd is understood by systemd, leaves little to attack, and names only what pushq knows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pushq.cli.worker import worker
from pushq.settings import Settings, load
from tests.deployment import PREFIX, UNITS, env_file, unit, unit_processes
from tests.services.prometheus import find_promtool
from tests.services.tools import find_systemd_analyze

ROLES = tuple({param.name: param for param in worker.params}["kind"].type.choices)  # type: ignore[attr-defined]
#: systemd's own measure, 0 to 10, counted in tenths; its word for less than 20 is OK.
MOST_EXPOSED = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The units as installed, but that the programs are this environment's: systemd wants to see them."""
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*.service"):
        path.write_text(path.read_text().replace(PREFIX, f"{Path(sys.executable).parent}/"))
    return tmp_path


def units(folder: Path) -> list[Path]:
    """All units; the template as an instance for each role."""
    plain = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in {".service", ".target"} and "@" not in path.name
    ]
    return [*plain, *(folder / f"pushq-worker@{role}.service" for role in ROLES)]


def verify(paths: list[Path]) -> str:
    """What systemd complains about. It warns of words it does not know, and still ends with 0."""
    answer = subprocess.run(
        [find_systemd_analyze(), "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Other units of the machine are loaded as well; what is wrong with those is not ours.
    return "\n".join(line for line in answer.stderr.splitlines() if "pushq" in line)


def test_the_page_starts_every_role_that_is_scraped() -> None:
    """One that is scraped and not started is warned of for ever."""
    page = (UNITS.parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^systemctl enable --now (.*pushq\.target)$", page, re.MULTILINE)
    started = set(re.findall(r"pushq-(?:worker@)?([a-z]+)", line))
    scraped = {
        static["labels"]["role"]
        for job in yaml.safe_load((UNITS / "prometheus.yml").read_text())["scrape_configs"]
        for static in job["static_configs"]
    }
    assert set(ROLES) <= scraped <= started


def test_systemd_understands_every_line(folder: Path) -> None:
    assert verify(units(folder)) == ""


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("NoNewPriviliges=yes", "Unknown key"), ("RestrictAddressFamilies=AF_INTERNET", "Failed to parse")],
)
def test_it_would_say_so_if_it_did_not(folder: Path, line: str, complaint: str) -> None:
    path = folder / "pushq-.service.d" / "pushq.conf"
    path.write_text(f"{path.read_text()}{line}\n")
    assert complaint in verify([folder / "pushq-beat.service"])


def test_every_service_leaves_little_to_attack(folder: Path) -> None:
    for path in units(folder):
        if path.suffix == ".service":
            judged = subprocess.run(
                [find_systemd_analyze(), "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", path],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert judged.returncode == 0, judged.stdout[-2000:] + judged.stderr


@pytest.mark.parametrize("name", [path.name for path in sorted(UNITS.glob("*.service"))])
def test_every_unit_is_of_the_target_and_what_runs_on_comes_back(name: str) -> None:
    sections = unit(UNITS / name)
    if sections["Service"]["Type"] == ["oneshot"]:
        return
    assert sections["Install"]["WantedBy"] == ["pushq.target"]
    assert sections["Service"]["Restart"] == ["always"]


def test_a_worker_has_more_time_to_stop_than_it_takes() -> None:
    (seconds,) = unit(UNITS / "pushq-worker@.service")["Service"]["TimeoutStopSec"]
    assert int(seconds) >= Settings().shutdown_grace + 5


def test_the_environment_of_every_unit_is_understood(tmp_path: Path) -> None:
    (tmp_path / "pushq.toml").write_text("")
    schemes = {"database": "postgresql", "broker": "amqp", "redis": "redis", "rabbitmq-management": "http"}
    for name, scheme in schemes.items():
        (tmp_path / f"{name}-url").write_text(f"{scheme}://host")
    for process in unit_processes(ROLES):
        environment = {key: value.replace("%d", str(tmp_path)) for key, value in process.environment.items()}
        assert environment["PUSHQ_CONFIG"] == "/etc/pushq/pushq.toml"
        settings = load({**environment, "PUSHQ_CONFIG": str(tmp_path / "pushq.toml")})
        settings.need_database(), settings.need_broker(), settings.need_redis()


def test_every_credential_that_is_read_is_handed_over() -> None:
    for path in (UNITS / "pushq-.service.d" / "pushq.conf", UNITS / "pushq-exporter.service"):
        service = unit(path)["Service"]
        handed_over = {line.partition(":")[0] for line in service["LoadCredential"]}
        assert set(re.findall(r"%d/([a-z-]+)", " ".join(service["Environment"]))) == handed_over


def test_prometheus_asks_the_workers_where_they_answer() -> None:
    path = UNITS / "prometheus.yml"
    subprocess.run([find_promtool(), "check", "config", path], timeout=60, check=True, capture_output=True)
    pushq, _ = yaml.safe_load(path.read_text())["scrape_configs"]
    asked = {one["labels"]["role"]: one["targets"][0].partition(":")[2] for one in pushq["static_configs"]}
    files = {role: f"worker-{role}.env" for role in ROLES} | {"web": "web.env"}
    assert asked == {role: env_file(UNITS / file)["PUSHQ_METRICS_PORT"] for role, file in files.items()}
