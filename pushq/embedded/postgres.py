"""A private PostgreSQL for throw-away data."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from pushq.embedded.errors import EmbeddedError
from pushq.embedded.programs import Program, find_postgres
from pushq.embedded.sandbox import Sandbox
from pushq.embedded.server import START_TIMEOUT_S, Server

USER = "pushq"
_CONNECT_TIMEOUT_S = 5

#: Why each: see the comments in the text itself, which is what the server reads.
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''    # TCP only: a socket's path may be at most 107 bytes long
max_connections = 200           # workers, beat, command line and tests at the same time
shared_buffers = 128MB          # what is read again and again of a million devices; the rest is in the page cache
work_mem = 16MB
maintenance_work_mem = 128MB    # index builds of an import
effective_cache_size = 1GB
# The data is thrown away, so it need not survive a power cut. It does survive the death of any process, kill -9 included:
# a commit is handed to the operating system before it is confirmed.
fsync = off
full_page_writes = off
synchronous_commit = on
wal_level = minimal             # no replica will ever read this log
max_wal_senders = 0
max_wal_size = 2GB              # no checkpoint in the middle of an import
checkpoint_timeout = 30min
jit = off                       # costs more than it saves on statements of milliseconds
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
"""


class PostgresServer(Server):
    """One private PostgreSQL, reachable with a random password on a free port.

    Args:
        sandbox: an open sandbox.
        program: which PostgreSQL; default the newest that is found.
    """

    title = "PostgreSQL"

    def __init__(self, sandbox: Sandbox, program: Program | None = None) -> None:
        self.program = find_postgres() if program is None else program
        super().__init__(sandbox, "postgres")
        self._data = self.folder / "data"
        self._password = secrets.token_hex(16)
        self._programs: Path | None = None

    def url(self, database: str = USER) -> str:
        """``postgresql://`` URL of a database, password included."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def start(self, timeout: float = START_TIMEOUT_S) -> None:
        super().start(timeout)
        if not self.has_database(USER):
            self.create_database(USER)

    def has_database(self, name: str) -> bool:
        with self._connect() as connection:
            row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        return row is not None

    def create_database(self, name: str, template: str | None = None) -> None:
        """Make a database, as a copy of ``template`` if one is given.

        Raises:
            psycopg.Error: PostgreSQL refuses, for example because somebody is connected to the template.
        """
        copy = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), copy))

    def rename_database(self, name: str, new_name: str) -> None:
        """Rename a database that nobody is connected to."""
        statement = sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
            sql.Identifier(name), sql.Identifier(new_name)
        )
        with self._connect() as connection:
            connection.execute(statement)

    def drop_database(self, name: str) -> None:
        """Drop the database, if there is one, and whoever is connected to it."""
        with self._connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def stop(self) -> None:
        # "Fast": SIGTERM would wait until every client has gone.
        self._end(signal.SIGINT)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            self.url("postgres"),
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT_S,
            options="-c statement_timeout=30s",
        )

    def _prepare(self) -> None:
        if not (self._data / "PG_VERSION").exists():
            self._initdb()
        # Written anew for every start: the port may have changed, and command line arguments can be read by everybody.
        settings = self._data / "postgresql.auto.conf"
        settings.unlink(missing_ok=True)
        self.sandbox.file(settings, f"port = {self.port}\n{_CONFIGURATION}")

    def _initdb(self) -> None:
        password_file = self.sandbox.file(self.folder / "password", self._password)
        command: list[str | Path] = [self._bin() / "initdb", "--pgdata", self._data, "--username", USER]
        command += ["--pwfile", password_file, "--auth", "scram-sha-256"]
        # The C locale exists everywhere and sorts by bytes, which every index of ours is content with.
        command += ["--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"]
        try:
            answer = self.sandbox.run(command, cwd=self.folder, timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired as exc:
            raise self._failure(f"initdb took longer than {START_TIMEOUT_S:.0f} seconds") from exc
        finally:
            password_file.unlink()
        if answer.returncode != 0:
            text = answer.stdout.decode(errors="replace").strip()
            raise EmbeddedError(
                f"initdb failed with exit code {answer.returncode} ({self.program}).",
                "Read its output above. Common causes: no space left in the temporary folder (TMPDIR chooses another).",
                "\n".join(f"  {line}" for line in text.splitlines()[-15:]),
            )

    def _bin(self) -> Path:
        if self._programs is None:
            account = self.sandbox.account
            readable = account is None or account.executes(self.program.path)
            self._programs = self.program.path.parent if readable else self._copied()
        return self._programs

    def _copied(self) -> Path:
        # As root with an environment below /root, the server's account cannot get at the wheel. Opening /root for everybody
        # would be worse than a copy of 30 MB. PostgreSQL finds its files relative to the program; the wheel's libraries lie
        # beside the package, three levels up.
        installation = self.program.path.parent.parent
        package = installation.parent
        copy = self.folder / package.name / installation.name
        for part in ("bin", "lib", "share"):
            shutil.copytree(
                installation / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("*.a")
            )
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, self.folder / libraries.name, symlinks=True)
        if self.sandbox.account is not None:
            for path in (copy.parent, *self.folder.rglob("*")):
                if not path.is_symlink():
                    self.sandbox.account.give(path)
        return copy / "bin"

    def _spawn(self) -> subprocess.Popen[bytes]:
        return self.sandbox.spawn([self._bin() / "postgres", "-D", self._data], log=self.log)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True
