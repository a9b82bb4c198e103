"""Every command line of docker-compose.yml, Procfile, deploy/systemd and deploy/kubernetes, run as it stands there.

What a machine of one's own must change is changed and nothing else: addresses of servers, ports that several containers may share but
several processes may not, and folders. Many lines stand in several files; each is run once, in the environment of the first. They run
at the same time, are asked for their health with all the commands that a file has for them, and end at SIGTERM with 0.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from pushq.cli.worker import worker
from pushq.embedded.postgres import PostgresServer
from pushq.embedded.programs import find_redis
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.server import free_port
from pushq.mock import MockProcess
from tests.deployment import (
    COMPOSE,
    ROOT,
    Process,
    compose_processes,
    manifest_processes,
    manifests,
    procfile_processes,
    unit_processes,
)
from tests.e2e.world import shell_environment
from tests.services.prometheus import find_prometheus

ROLES = tuple({param.name: param for param in worker.params}["kind"].type.choices)  # type: ignore[attr-defined]
#: Of all processes of a file, at the same time, on a busy machine.
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0
pytestmark = pytest.mark.timeout(2 * START_TIMEOUT_S)
#: Ports that the files name, at which a process listens.
PORTS = (
    "5555",
    *(
        port
        for service in COMPOSE["services"].values()
        for option, port in pairwise(service.get("command") or ())
        if option.endswith("-port")
    ),
)
PROGRAMS = Path(sys.executable).parent
ACCOUNT = "operator:open-sesame"


@dataclass
class Machine:
    """Where the commands run: with these servers, in this folder."""

    folder: Path
    urls: Mapping[str, str]
    config: Path
    ports: dict[str, int] = field(default_factory=lambda: {port: free_port() for port in PORTS})

    def words(self, words: Sequence[str]) -> list[str]:
        program, *rest = words
        found = [sys.executable if program == "python" else str(PROGRAMS / program)]
        for word in rest:
            moved = re.sub(r"\b\d{4}\b", lambda m: str(self.ports.get(m[0], m[0])), word)
            found.append(moved.replace("/var/lib/pushq/mock", str(self.folder / "mock")))
        return found

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The same variables; files and servers are those of this machine."""
        found = dict(given)
        for variable, url in self.urls.items():
            if variable in given:
                found[variable] = url
            if f"{variable}_FILE" in given:
                file = self.folder / variable
                file.write_text(f"{url}\n")
                found[f"{variable}_FILE"] = str(file)
        if "PUSHQ_CONFIG" in given:
            found["PUSHQ_CONFIG"] = str(self.config)
        if "PUSHQ_METRICS_PORT" in given:
            found["PUSHQ_METRICS_PORT"] = str(free_port())
        if "PUSHQ_LOG_LEVEL" in given:
            found["PUSHQ_LOG_LEVEL"] = "INFO"
        return found

    def run(self, words: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(words),
            env={**shell_environment(), **environment},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )

    def run_all(self, processes: Sequence[Process]) -> None:
        """Start them, find all of them well, end them."""
        once = [process for process in processes if process.command[1] == "db"]
        for process in once:
            done = self.run(process.command, self.environment(process.environment))
            assert done.returncode == 0, done.stdout + done.stderr
        running: list[tuple[Process, subprocess.Popen[bytes], dict[str, str]]] = []
        try:
            for process in [process for process in processes if process not in once]:
                running.append(self._start(process))  # noqa: PERF401 - what was started must be known if the next one fails
            self._await_health(running)
        finally:
            for _, child, _ in running:
                child.send_signal(signal.SIGTERM)
            codes = [self._end(process, child) for process, child, _ in running]
        assert codes == [(process.name, 0) for process, _, _ in running], self._logs()

    def _start(self, process: Process) -> tuple[Process, subprocess.Popen[bytes], dict[str, str]]:
        environment = self.environment(process.environment)
        if process.command[0] == "celery":
            environment["FLOWER_BASIC_AUTH"] = ACCOUNT
        if process.command[1] == "exporter":
            environment["PUSHQ_EXPORTER_PORT"] = str(free_port())
        if process.command[1] == "web":
            environment["PUSHQ_WEB_PORT"] = str(free_port())
        with (self.folder / f"{process.name}.log").open("wb") as log:
            child = subprocess.Popen(
                self.words(process.command),
                env=shell_environment() | environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, child, environment

    def _await_health(
        self, running: Sequence[tuple[Process, subprocess.Popen[bytes], dict[str, str]]]
    ) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = [
            (process, child, environment, q)
            for process, child, environment in running
            for q in process.health
        ]
        while waiting:
            still = []
            for process, child, environment, question in waiting:
                assert child.poll() is None, f"{process.name} ended with {child.returncode}\n{self._logs()}"
                answer = self.run(question, environment)
                if answer.returncode != 0:
                    still.append((process, child, environment, question))
                    assert time.monotonic() < deadline, (
                        f"{question}: {answer.stdout}{answer.stderr}\n{self._logs()}"
                    )
            waiting = still

    def _end(self, process: Process, child: subprocess.Popen[bytes]) -> tuple[str, int]:
        try:
            return process.name, child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return process.name, child.wait()

    def _logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log"))
        )


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Process]]:
    """Every command line once, by the first file that has it, with the questions of all files that do."""
    files = {
        "docker-compose.yml": compose_processes(),
        "deploy/systemd": unit_processes(ROLES),
        "deploy/kubernetes": manifest_processes(manifests("base", tmp_path_factory.mktemp("built"))),
        "Procfile": procfile_processes(),
    }
    every = [process for processes in files.values() for process in processes]
    found: dict[str, list[Process]] = {name: [] for name in files}
    seen: list[list[str]] = []
    for name, processes in files.items():
        for process in processes:
            if process.command in seen:
                continue
            seen.append(process.command)
            # `pushq worker core` and `pushq worker core --name ...` are asked alike.
            asked = {
                tuple(q) for other in every if other.command[:3] == process.command[:3] for q in other.health
            }
            found[name].append(replace(process, health=[list(question) for question in sorted(asked)]))
    return found


@pytest.fixture
def machine(
    empty_database: str, redis_url: str, rabbitmq: RabbitMqServer, rabbitmq_url: str, tmp_path: Path
) -> Iterator[Machine]:
    management = rabbitmq_url.replace("amqp://", "http://").rpartition(":")[0]
    urls = {
        "PUSHQ_DATABASE_URL": empty_database,
        "PUSHQ_REDIS_URL": redis_url,
        "PUSHQ_BROKER_URL": rabbitmq_url,
        "PUSHQ_RABBITMQ_MANAGEMENT_URL": f"{management}:{rabbitmq._api_port}",
    }
    with MockProcess(tmp_path / "providers") as mock:
        yield Machine(tmp_path, urls, mock.config_file)


def test_what_docker_compose_starts(machine: Machine, lines: dict[str, list[Process]]) -> None:
    machine.run_all([process for process in lines["docker-compose.yml"] if process.name != "mock"])


def test_what_systemd_starts_with_secrets_in_files(machine: Machine, lines: dict[str, list[Process]]) -> None:
    machine.run_all([Process("schema", ["pushq", "db", "upgrade"], machine.urls), *lines["deploy/systemd"]])


def test_what_the_procfile_starts_with_what_the_shell_says(
    machine: Machine, lines: dict[str, list[Process]]
) -> None:
    said = {**machine.urls, "PUSHQ_CONFIG": "pushq.toml"}
    own = [replace(process, environment={**said, **process.environment}) for process in lines["Procfile"]]
    assert {process.name for process in own} == {"core", "apns", "fcm", "hms"}, "the others' lines ran above"
    machine.run_all([Process("schema", ["pushq", "db", "upgrade"], machine.urls), *own])


def test_no_other_file_has_a_line_of_its_own(lines: dict[str, list[Process]]) -> None:
    assert lines["deploy/kubernetes"] == []


def test_the_mock_of_docker_compose_is_the_host_that_its_certificate_names(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {}, tmp_path)
    (mock,) = [process for process in compose_processes() if process.name == "mock"]
    with _running(machine, mock):
        context = ssl.create_default_context(cafile=tmp_path / "mock" / "ca.pem")
        context.set_alpn_protocols(["h2"])
        # Not by loopback: other containers are to reach it.
        address = (socket.gethostbyname(socket.gethostname()), machine.ports["8443"])
        with (
            socket.create_connection(address, 10) as raw,
            context.wrap_socket(raw, server_hostname="mock") as wrapped,
        ):
            assert wrapped.selected_alpn_protocol() == "h2"
        assert (
            f'url = "https://mock:{machine.ports["8443"]}"' in (tmp_path / "mock" / "pushq.toml").read_text()
        )


@contextmanager
def _running(machine: Machine, process: Process) -> Iterator[None]:
    started = machine._start(process)
    try:
        machine._await_health([started])
        yield
    finally:
        started[1].terminate()
        machine._end(process, started[1])


def _answers_200(client: httpx.Client, url: str) -> bool:
    """Whether wget, which the check runs, would exit with 0: no connection and any other status are failures to it."""
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


class TestServers:
    """What the compose file tells its servers to do, said to those of this machine."""

    def test_prometheus_takes_its_flags_and_its_configuration(self, tmp_path: Path) -> None:
        service = COMPOSE["services"]["prometheus"]
        port = free_port()
        flags = [
            word.replace("/etc/prometheus", str(ROOT / "deploy" / "prometheus")).replace(
                "=/prometheus", f"={tmp_path}"
            )
            for word in service["command"]
        ]
        (url,) = [word for word in service["healthcheck"]["test"] if word.startswith("http://")]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [find_prometheus(), *flags, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            with httpx.Client(timeout=10, trust_env=False) as client:
                while not _answers_200(client, url.replace("9090", str(port))):
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                    time.sleep(0.1)
                # Grafana starts once this check passes: what it asks must be answered from then on.
                rules = client.get(f"http://127.0.0.1:{port}/api/v1/rules").json()["data"]["groups"]
                assert rules, "the rules of deploy/prometheus/rules are not loaded"
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)

    def test_redis_takes_its_flags_and_its_password(self, tmp_path: Path) -> None:
        service = COMPOSE["services"]["redis"]
        port = free_port()
        folder = Path(find_redis().path).parent
        environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            **dict.fromkeys(service["environment"], "open-sesame"),
        }
        shell, option, line = service["command"]
        command = (
            f"{line.replace('$$', '$')} --bind 127.0.0.1 --port {port} --dir {shlex.quote(str(tmp_path))}"
        )
        _, check = service["healthcheck"]["test"]
        question = check.replace("redis-cli", f"redis-cli -p {port}")
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([shell, option, command], env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while (
                subprocess.run([shell, option, question], env=environment, timeout=30, check=False).returncode
                != 0
            ):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            wrong = {**environment, "REDISCLI_AUTH": "wrong"}
            refused = subprocess.run(
                [shell, option, question], env=wrong, stderr=subprocess.DEVNULL, timeout=30, check=False
            )
            assert refused.returncode != 0
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)

    def test_postgresql_takes_its_settings(self, postgres: PostgresServer) -> None:
        program, *options = COMPOSE["services"]["postgres"]["command"]
        assert program == "postgres"
        (data,) = postgres.folder.glob("data")
        for option in [word for word in options if word != "-c"]:
            name, _, value = option.partition("=")
            asked = postgres.sandbox.run(
                [postgres.program.path, "-D", data, *options, "-C", name], cwd=postgres.folder, timeout=60
            )
            assert asked.returncode == 0, asked.stdout
            # 256MB comes back in pages of 8 kB.
            pages = str(int(value.removesuffix("MB")) * 128) if value.endswith("MB") else value
            assert asked.stdout.decode().splitlines()[-1] in {value, pages}

    def test_rabbitmq_answers_its_check(self, rabbitmq: RabbitMqServer) -> None:
        _, program, *options = COMPOSE["services"]["rabbitmq"]["healthcheck"]["test"]
        account = rabbitmq.sandbox.account
        checked = subprocess.run(
            [rabbitmq.installation.control.with_name(program), "-n", rabbitmq.node, *options],
            env=rabbitmq._environment(),
            cwd=rabbitmq.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **(account.popen() if account is not None else {}),
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
