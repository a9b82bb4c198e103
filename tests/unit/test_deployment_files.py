"""docker-compose.yml, Procfile, .env.example and the Dockerfile say the same, and nothing that pushq or Compose would not understand.

What they start is started by tests/e2e/test_deployment_commands.py.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from honcho.environ import parse as parse_env
from jsonschema.validators import validator_for

from pushq.cli.root import cli
from pushq.cli.worker import worker
from pushq.settings import load
from tests.deployment import COMPOSE, ROOT, compose_processes, dockerfile, procfile_processes

SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {process.name: process for process in compose_processes()}
LINES = {process.name: process for process in procfile_processes()}
SERVERS = {"rabbitmq", "postgres", "redis"}
WATCHERS = {"prometheus", "grafana"}
ROLES = {param.name: param for param in worker.params}["kind"].type.choices  # type: ignore[attr-defined]
#: Of a container: its ports are published to loopback only, or not at all.
EVERYWHERE = "0.0.0.0"  # noqa: S104
EXAMPLE: dict[str, str] = parse_env((ROOT / ".env.example").read_text())


def parse(arguments: list[str]) -> None:
    """Parse a pushq command as the command line would, without running it."""
    context = click.Context(cli, info_name="pushq")
    group: click.Command = cli
    while isinstance(group, click.Group):
        name, command, arguments = group.resolve_command(context, arguments)
        assert command is not None
        assert name is not None
        group, context = command, click.Context(command, parent=context, info_name=name)
    group.make_context(group.name, arguments)


def test_the_compose_file_is_one_by_the_schema_of_compose() -> None:
    schema = json.loads(
        files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    )
    validator = validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    # The schema is one that sees mistakes.
    assert list(validator.iter_errors({**COMPOSE, "services": {"core": {"comand": ["worker"]}}}))


def test_there_is_a_service_for_every_line_of_the_procfile_and_for_every_server() -> None:
    assert set(SERVICES) == SERVERS | WATCHERS | set(LINES) | {"schema", "mock"}
    assert set(OURS) == set(LINES) | {"schema", "mock"}


def test_every_role_has_a_worker_of_its_own() -> None:
    for processes in (OURS, LINES):
        kinds = [
            process.command[2] for process in processes.values() if process.command[:2] == ["pushq", "worker"]
        ]
        assert sorted(kinds) == sorted(ROLES)


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"schema"}))
def test_every_service_is_checked_and_comes_back(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(SERVERS | WATCHERS))
def test_every_server_keeps_its_data(name: str) -> None:
    volumes = {volume.partition(":")[0] for volume in SERVICES[name]["volumes"]}
    assert volumes & set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nothing_is_for_the_network(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@pytest.mark.parametrize("name", sorted(LINES))
def test_every_process_waits_for_schema_and_servers(name: str) -> None:
    waits = SERVICES[name]["depends_on"]
    assert waits["schema"] == {"condition": "service_completed_successfully"}
    assert waits["rabbitmq"] == waits["redis"] == {"condition": "service_healthy"}
    assert waits["mock"] == {"condition": "service_healthy", "required": False}
    assert SERVICES["schema"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_can_do_nothing_but_their_work(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "user", "network_mode", "cap_add"} & set(service)


@pytest.mark.parametrize("name", sorted(set(OURS) - {"flower"}))
def test_the_commands_of_docker_compose_are_commands_of_pushq(name: str) -> None:
    program, *arguments = OURS[name].command
    assert program == "pushq"
    parse(arguments)
    for asks, *question in OURS[name].health:
        assert asks in {"pushq", "python"}
        if asks == "pushq":
            parse(question)


@pytest.mark.parametrize("name", sorted(set(LINES)))
def test_the_commands_of_the_procfile_are_those_of_docker_compose(name: str) -> None:
    ours = [word.replace(EVERYWHERE, "127.0.0.1") for word in OURS[name].command]
    line = LINES[name].command
    if line[:2] == ["pushq", "worker"]:
        # Beside the door; between containers, niceness says nothing.
        assert line[-2:] == ["--nice", "10"]
        line = line[:-2]
    assert ours[: len(line)] == line


def test_processes_of_the_procfile_keep_out_of_each_others_ports() -> None:
    ports = [process.environment["PUSHQ_METRICS_PORT"] for process in LINES.values() if process.environment]
    assert len(ports) == len(set(ports)) == len(ROLES) + len({"beat", "web"})


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_environment_of_every_container_is_understood(name: str, tmp_path: Path) -> None:
    environment = {key: _filled(value) for key, value in OURS[name].environment.items()}
    if "PUSHQ_CONFIG" in environment:
        assert environment["PUSHQ_CONFIG"] == "/etc/pushq/pushq.toml"
        assert "./config:/etc/pushq:ro" in SERVICES[name]["volumes"]
        config = tmp_path / "pushq.toml"
        config.write_text("")
        environment["PUSHQ_CONFIG"] = str(config)
    settings = load(environment)
    for server, url in (
        ("postgres", settings.database_url),
        ("redis", settings.redis_url),
        ("rabbitmq", settings.broker_url),
    ):
        assert url is None or f"@{server}:" in url.reveal()
    if name not in {"schema", "mock"}:
        assert settings.events
        settings.need_database(), settings.need_redis(), settings.need_broker()


def test_the_profile_for_the_mock_names_the_file_that_the_mock_writes() -> None:
    text = (ROOT / ".env.example").read_text()
    (path,) = re.findall(r"^#APPS_FILE=(.+)", text, re.MULTILINE)
    (profile,) = re.findall(r"^#COMPOSE_PROFILES=(.+)", text, re.MULTILINE)
    assert [profile] == SERVICES["mock"]["profiles"]
    words = OURS["mock"].command
    folder = words[words.index("--dir") + 1]
    assert path == f"{folder}/pushq.toml"
    assert words[words.index("--host") + 1] == "mock"
    assert SERVICES["mock"]["volumes"] == [f"mock:{folder}"]
    assert f"mock:{folder}:ro" in SERVICES["apns"]["volumes"]


def test_flower_and_grafana_ask_for_a_password_that_somebody_chose() -> None:
    assert "FLOWER_BASIC_AUTH:?" in SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"]
    assert "GRAFANA_PASSWORD:?" in SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]


def test_prometheus_asks_the_workers_where_they_answer() -> None:
    (source, _) = SERVICES["prometheus"]["volumes"]
    folder = ROOT / source.partition(":")[0]
    (flag,) = [word for word in SERVICES["prometheus"]["command"] if word.startswith("--config.file=")]
    configuration = yaml.safe_load((folder / Path(flag).name).read_text())
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"]}
    (names,) = jobs["pushq"]["dns_sd_configs"]
    assert sorted(names["names"]) == sorted((*ROLES, "web"))
    for name in names["names"]:
        settings = OURS[name].environment
        assert (settings["PUSHQ_METRICS_HOST"], settings["PUSHQ_METRICS_PORT"]) == (
            EVERYWHERE,
            str(names["port"]),
        )
    (target,) = jobs["pushq-exporter"]["static_configs"][0]["targets"]
    assert target.partition(":")[0] in OURS


def test_grafana_finds_what_it_is_provisioned_with() -> None:
    for volume in SERVICES["grafana"]["volumes"]:
        source = volume.partition(":")[0]
        assert source in COMPOSE["volumes"] or any((ROOT / source).rglob("*.*"))


def test_every_variable_of_docker_compose_has_a_line_in_the_example() -> None:
    used = re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())
    # Read as text: the passwords are empty there, and a parser may leave those out.
    assert set(used) <= set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_the_example_is_understood_by_pushq(tmp_path: Path) -> None:
    config = tmp_path / "pushq.toml"
    config.write_text("")
    load({**EXAMPLE, "PUSHQ_CONFIG": str(config)}).need_database()


def test_the_image_runs_as_a_user_that_kubernetes_sees_is_not_root() -> None:
    (user,) = [arguments for name, arguments in dockerfile()["pushq"] if name == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert list(dockerfile())[-1] == "pushq"  # what `docker build .` makes
    assert SERVICES["core"]["build"]["target"] == "pushq"


def test_no_secret_is_copied_into_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".env", "config", ".git", ".venv"} <= set(ignored)


def _filled(value: str) -> str:
    return re.sub(r"\$\{(\w+)(?::-([^}]+)|:\?[^}]*)?\}", lambda match: match[2] or "secret", value)
