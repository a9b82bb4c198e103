"""docker-compose.yml, Procfile and .env.example say the same, and nothing that pushq would not understand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from honcho.environ import parse as parse_env

from pushq.cli.root import cli
from pushq.settings import load

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROCESSES = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
SERVERS = {"rabbitmq", "postgres", "redis"}
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


def test_the_services_are_servers_and_the_processes_of_the_procfile() -> None:
    assert set(SERVICES) == SERVERS | set(PROCESSES) | {"schema"}


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_every_server_is_checked_keeps_its_data_and_is_not_for_the_network(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["volumes"][0].partition(":")[0] in COMPOSE["volumes"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_every_process_waits_for_schema_and_servers(name: str) -> None:
    waits = SERVICES[name]["depends_on"]
    assert waits["schema"] == {"condition": "service_completed_successfully"}
    assert waits["rabbitmq"] == waits["redis"] == {"condition": "service_healthy"}
    assert SERVICES["schema"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


@pytest.mark.parametrize("name", sorted(set(SERVICES) - SERVERS - {"flower"}))
def test_the_commands_of_docker_compose_are_commands_of_pushq(name: str) -> None:
    parse(SERVICES[name]["command"])


@pytest.mark.parametrize("name", sorted(set(PROCESSES) - {"flower"}))
def test_the_commands_of_the_procfile_are_those_of_docker_compose(name: str) -> None:
    program, *arguments = shlex.split(PROCESSES[name])
    assert program == "pushq"
    assert SERVICES[name]["command"][: len(arguments)] == arguments
    parse(arguments)


def test_flower_is_started_alike() -> None:
    compose = SERVICES["flower"]
    assert [*compose["entrypoint"], *compose["command"]][:4] == shlex.split(PROCESSES["flower"])[:4]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - SERVERS))
def test_the_environment_of_every_container_is_understood(name: str, tmp_path: Path) -> None:
    environment = {key: _filled(value) for key, value in SERVICES[name]["environment"].items()}
    assert environment["PUSHQ_CONFIG"].startswith("/etc/pushq/")
    assert SERVICES[name]["volumes"] == ["./config:/etc/pushq:ro"]
    config = tmp_path / "pushq.toml"
    config.write_text("")
    settings = load({**environment, "PUSHQ_CONFIG": str(config)})
    assert settings.events
    servers = [settings.need_database(), settings.need_redis(), settings.need_broker()]
    assert all(
        f"@{server}:" in url.reveal()
        for server, url in zip(("postgres", "redis", "rabbitmq"), servers, strict=True)
    )


def test_every_variable_of_docker_compose_has_a_line_in_the_example() -> None:
    used = re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())
    # Read as text: the passwords are empty there, and a parser may leave those out.
    assert set(used) <= set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_the_example_is_understood_by_pushq(tmp_path: Path) -> None:
    config = tmp_path / "pushq.toml"
    config.write_text("")
    load({**EXAMPLE, "PUSHQ_CONFIG": str(config)}).need_database()


def _filled(value: str) -> str:
    return re.sub(r"\$\{(\w+)(?::-(\w+)|:\?[^}]*)?\}", lambda match: match[2] or "secret", value)
