"""PostgreSQL and Redis for a laptop: usable while the block lasts, gone afterwards, however the owner ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis

from pushq.embedded import EmbeddedError, Services
from pushq.embedded.postgres import PostgresServer
from pushq.embedded.processes import servers_in, started
from pushq.embedded.programs import Program, postgres_programs, redis_programs
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.redis import RedisServer
from pushq.embedded.sandbox import Sandbox, sweep
from pushq.embedded.server import free_port

#: An owner in a process of its own: says where it lives, then waits to be ended.
OWNER = """
import json, sys, time
from pathlib import Path
from pushq.embedded import Services
with Services(Path(sys.argv[1])) as services:
    print(json.dumps({"folder": str(services.folder), "guardian": services._sandbox._guardian.pid}), flush=True)
    time.sleep(100)
"""


@pytest.fixture
def parent() -> Iterator[Path]:
    # Not below tmp_path: as root, the servers' account may not enter pytest's private folder.
    path = Path(tempfile.mkdtemp(prefix="pushq-test-"))
    path.chmod(0o711)
    yield path
    sweep(path)
    shutil.rmtree(path)


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def owner(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(parent)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            said = json.loads(line)
            yield process, Path(said["folder"]), int(said["guardian"])
        finally:
            process.kill()


def test_services_serve_and_are_gone_afterwards(parent: Path) -> None:
    with Services(parent) as services:
        folder = services.folder
        with psycopg.connect(services.database_url, connect_timeout=5) as connection:
            assert connection.execute("SHOW max_connections").fetchone() == ("200",)
            assert connection.execute("SELECT current_database()").fetchone() == ("pushq",)
        for url in (services.redis_url, services.redis_broker_url):
            with redis.Redis.from_url(url, socket_timeout=5) as client:
                assert client.set(url, "x")
                assert client.dbsize() == 1, "cache and broker have a database each"
        assert len(servers_in(folder)) == 2
    assert not servers_in(folder)
    assert not folder.exists()


def test_nobody_else_gets_in(parent: Path) -> None:
    with Services(parent) as services:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(_without_password(services.database_url), connect_timeout=5)
        with (
            redis.Redis.from_url(_without_password(services.redis_url), socket_timeout=5) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        assert not stat.S_IMODE(services.folder.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO) & ~0o011
        for inside in ("postgres", "redis"):
            assert stat.S_IMODE((services.folder / inside).stat().st_mode) == 0o700
        processes = subprocess.run(
            ["ps", "-axww", "-o", "command"], capture_output=True, text=True, check=True
        ).stdout
        assert str(services.folder) in processes
        for url in (services.database_url, services.redis_url):
            password = urlsplit(url).password
            assert password
            assert password not in processes


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=f"{user}{parts.hostname}:{parts.port}"))


def test_an_exception_ends_them_too(parent: Path) -> None:
    class Boom(Exception):
        pass

    with pytest.raises(Boom), Services(parent) as services:
        folder = services.folder
        raise Boom
    assert not folder.exists()
    assert not servers_in(folder)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_them_too(parent: Path, number: signal.Signals, code: int) -> None:
    with owner(parent) as (process, folder, _):
        process.send_signal(number)
        process.wait(timeout=30)
        assert process.returncode == code
        assert not folder.exists()
        assert not servers_in(folder)


def test_kill_9_of_the_owner_ends_them_at_once(parent: Path) -> None:
    with owner(parent) as (process, folder, guardian):
        assert len(servers_in(folder)) == 2
        process.kill()
        process.wait(timeout=30)
        assert eventually(lambda: not folder.exists())
        assert not servers_in(folder)
        assert eventually(lambda: started(guardian) is None)


def test_after_kill_9_of_owner_and_guardian_the_next_start_cleans_up(parent: Path) -> None:
    with owner(parent) as (process, folder, guardian):
        os.kill(guardian, signal.SIGKILL)
        process.kill()
        process.wait(timeout=30)
        assert len(servers_in(folder)) == 2, "nobody has cleaned up yet"
        with Sandbox(parent):
            assert not folder.exists()
            assert not servers_in(folder)


def test_the_next_start_leaves_a_living_owner_and_foreign_folders_alone(parent: Path) -> None:
    foreign = parent / "sandbox-of-somebody"
    foreign.mkdir()
    (foreign / "letter").write_text("dear")
    with owner(parent) as (_, folder, _), Sandbox(parent):
        assert len(servers_in(folder)) == 2
        assert sweep(parent) == []
    assert (foreign / "letter").read_text() == "dear"


def test_a_reused_pid_is_not_taken_for_the_owner(parent: Path) -> None:
    with owner(parent) as (process, folder, guardian):
        os.kill(guardian, signal.SIGKILL)
        process.kill()
        process.wait(timeout=30)
        # Our own pid, but another start: as if the kernel had given the dead owner's number to us.
        (folder / "owner.json").write_text(json.dumps({"pid": os.getpid(), "started": "another boot/1"}))
        assert sweep(parent) == [folder]
        assert not servers_in(folder)


def test_a_process_that_only_mentions_the_folder_is_not_killed(parent: Path) -> None:
    with owner(parent) as (process, folder, guardian):
        log = folder / "redis" / "server.log"
        with subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL) as reader:
            try:
                os.kill(guardian, signal.SIGKILL)
                process.kill()
                process.wait(timeout=30)
                assert sweep(parent) == [folder]
                assert reader.poll() is None
            finally:
                reader.kill()


@pytest.mark.parametrize(
    "program", list(postgres_programs()), ids=lambda program: f"{program.version}-{program.origin}"
)
def test_every_postgresql_found_here_works(parent: Path, program: Program) -> None:
    with Sandbox(parent) as sandbox:
        server = PostgresServer(sandbox, program)
        server.start()
        with psycopg.connect(server.url(), connect_timeout=5) as connection:
            version = connection.info.server_version
        server.stop()
    assert version // 10000 == program.version[0]


@pytest.mark.parametrize(
    "program", list(redis_programs()), ids=lambda program: f"{program.version}-{program.origin}"
)
def test_every_redis_found_here_works(parent: Path, program: Program) -> None:
    with Sandbox(parent) as sandbox:
        server = RedisServer(sandbox, program)
        server.start()
        with server.client() as client:
            version = client.info("server")["redis_version"]
        server.stop()
    assert version == ".".join(map(str, program.version))


def test_a_wheel_that_the_servers_account_cannot_get_at_is_copied(parent: Path, tmp_path: Path) -> None:
    """As root, with an environment below /root. For an ordinary user the wheel is simply used where it is."""
    wheel = next(program for program in postgres_programs() if program.origin == "wheel")
    package = wheel.path.parents[2]
    tmp_path.chmod(0o700)
    copy = tmp_path / package.name / wheel.path.parents[1].name
    shutil.copytree(wheel.path.parents[1], copy, ignore=shutil.ignore_patterns("*.a", "include"))
    shutil.copytree(package.with_name(f"{package.name}.libs"), tmp_path / f"{package.name}.libs")
    with Sandbox(parent) as sandbox:
        server = PostgresServer(sandbox, Program(copy / "bin" / "postgres", wheel.version, wheel.origin))
        server.start()
        with psycopg.connect(server.url(), connect_timeout=5) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert server.process is not None
        arguments = server.process.args
        assert isinstance(arguments, list)
        used = Path(arguments[0])
        assert (server.folder in used.parents) == (os.geteuid() == 0)


def test_a_failed_start_shows_the_end_of_the_log_and_leaves_nothing(parent: Path) -> None:
    broken = parent / "redis-server"
    broken.write_text("#!/bin/sh\necho no luck today\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(EmbeddedError) as caught, Sandbox(parent) as sandbox:
        folder = sandbox.path
        RedisServer(sandbox, Program(broken, (9,), "system")).start()
    assert "Redis ended with exit code 3 instead of starting" in str(caught.value)
    assert "no luck today" in str(caught.value)
    assert "TMPDIR" in caught.value.advice
    assert not folder.exists()


def test_a_taken_port_is_changed_for_another(parent: Path) -> None:
    with Sandbox(parent) as sandbox:
        first, second = RedisServer(sandbox), RedisServer(sandbox, folder="second")
        first.start()
        second.port = first.port
        second.start()
        assert second.port != first.port
        postgres = PostgresServer(sandbox)
        postgres.port = first.port
        postgres.start()
        assert postgres.port not in (first.port, second.port)


def test_so_is_that_of_the_management_of_rabbitmq(parent: Path) -> None:
    with Sandbox(parent) as sandbox, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = RabbitMqServer(sandbox)
        server._api_port = other.getsockname()[1]
        server.start()
        assert server._api_port != other.getsockname()[1]
        assert server.api("GET", "/overview")["listeners"]


def test_a_free_port_is_none_that_a_connection_may_be_given() -> None:
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) > 10
    assert set(ports) <= set(range(20_000, 32_768))  # Linux gives them 32768 and above


def test_a_server_that_does_not_answer_is_given_up_in_time(parent: Path) -> None:
    with Sandbox(parent) as sandbox:
        server = RedisServer(sandbox)
        server.launch()
        assert server.process is not None
        server.wait_ready()
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(EmbeddedError, match="did not answer within 1 seconds"):
            server.wait_ready(timeout=1)


def test_a_parent_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(EmbeddedError, match="cannot be made"), Services(file / "folder"):
        pass
