"""A private Redis."""

from __future__ import annotations

import secrets
import shutil
import subprocess

import redis

from pushq.embedded.programs import Program, find_redis
from pushq.embedded.sandbox import Sandbox
from pushq.embedded.server import Server

_TIMEOUT_S = 3.0


class RedisServer(Server):
    """One private Redis, reachable with a random password on a free port.

    Args:
        sandbox: an open sandbox.
        program: which Redis; default the newest that is found.
        append_only: keep the data over a restart or a kill (not over a power cut). Without it every start is empty.
        folder: name of its folder in the sandbox, for those who run several.
    """

    title = "Redis"

    def __init__(
        self,
        sandbox: Sandbox,
        program: Program | None = None,
        *,
        append_only: bool = False,
        folder: str = "redis",
    ) -> None:
        self.program = find_redis() if program is None else program
        super().__init__(sandbox, folder)
        self._append_only = append_only
        self._password = secrets.token_hex(16)

    def url(self, database: int = 0) -> str:
        """``redis://`` URL of a numbered database, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/{database}"

    def client(self, database: int = 0) -> redis.Redis:
        """A client with timeouts; close it after use."""
        return redis.Redis.from_url(
            self.url(database), socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )

    def lose_data(self) -> None:
        """Remove what is on disk, while the server is down: the next start is empty."""
        for path in (*self.folder.glob("appendonly*"), *self.folder.glob("*.rdb")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _prepare(self) -> None:
        # A file, because everybody can read the command line. set-proc-title off keeps that command line as it was started:
        # the folder in it is how a left-over server is recognised.
        configuration = self.folder / "redis.conf"
        configuration.unlink(missing_ok=True)
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._password}",
            f"dir {self.folder}",
            "set-proc-title no",
            'save ""',
            f"appendonly {'yes' if self._append_only else 'no'}",
            "appendfsync no",  # the operating system has it before the answer: enough for the death of a process
            "maxmemory-policy noeviction",  # queues and journals live here: refuse, never forget
        ]
        self.sandbox.file(configuration, "\n".join(lines) + "\n")

    def _spawn(self) -> subprocess.Popen[bytes]:
        return self.sandbox.spawn([self.program.path, self.folder / "redis.conf"], log=self.log)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:  # not listening yet, or still loading its data
                return False
