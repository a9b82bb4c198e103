"""A private RabbitMQ, alone or as a node of a cluster, with quorum queues and the management API.

The server's own start script is called, not the distribution's wrapper on PATH, which demands to be root or rabbitmq. Erlang's
name server (epmd) is private as well and started here, because the one Erlang starts by itself outlives everything.
"""

from __future__ import annotations

import secrets
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import amqp
import httpx

from pushq.embedded.errors import EmbeddedError
from pushq.embedded.sandbox import Sandbox, server_environment
from pushq.embedded.server import Server, free_port

USER = "pushq"
#: Trusts nobody: the management API is asked without TLS.
_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
#: Where packages put the library folder: Debian and RPM, generic builds, Homebrew.
LIBRARIES = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*",
    "/opt/rabbitmq*",
    "/opt/homebrew/opt/rabbitmq",
    "/usr/local/opt/rabbitmq",
)
_CONNECT_TIMEOUT_S = 5.0
_API_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Installation:
    """The programs of a RabbitMQ installation."""

    server: Path
    control: Path
    epmd: Path


def find_rabbitmq() -> Installation:
    """The last RabbitMQ (by folder name) in the usual folders, with Erlang's epmd.

    Raises:
        EmbeddedError: there is none.
    """
    epmd = shutil.which("epmd") or next(
        (str(p) for p in Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), None
    )
    for pattern in LIBRARIES:
        for library in sorted(Path("/").glob(pattern[1:]), reverse=True):
            server = library / "sbin" / "rabbitmq-server"
            if server.is_file() and epmd is not None:
                return Installation(server, server.with_name("rabbitmqctl"), Path(epmd))
    raise EmbeddedError("No RabbitMQ was found.", "Debian, Ubuntu: apt-get install rabbitmq-server")


class RabbitMqServer(Server):
    """One private node, reachable with a random password on a free port of 127.0.0.1.

    Args:
        sandbox: an open sandbox.
        folder: name of its folder in the sandbox, for those who run several.
        joins: a node that runs when this one starts for the first time: the two become one cluster.
    """

    title = "RabbitMQ"

    #: How long after its declaration a quorum queue survives kill -9 of a single node. Ra writes the names of its members to disk
    #: when nothing else happened for half a second (auto_save in ra_directory.erl); a queue killed before has no leader ever
    #: again, and consuming from it answers INTERNAL_ERROR or nothing at all. Seen with RabbitMQ 3.10.8.
    QUEUE_SETTLES_S = 2.0

    def __init__(
        self, sandbox: Sandbox, folder: str = "rabbitmq", *, joins: RabbitMqServer | None = None
    ) -> None:
        self.installation = find_rabbitmq()
        super().__init__(sandbox, folder)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._joins = joins
        # The nodes of a cluster share the account, Erlang's cookie and Erlang's name server.
        self._password: str = secrets.token_hex(16) if joins is None else joins._password
        self._cookie: str = secrets.token_hex(16).upper() if joins is None else joins._cookie
        self._epmd_port: int = free_port() if joins is None else joins._epmd_port
        self.node = f"r{self.port}@localhost"

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self._api_port, self._distribution_port = free_port(), free_port()

    def url(self, vhost: str = "/") -> str:
        """``amqp://`` URL of a virtual host, password included."""
        return f"amqp://{USER}:{self._password}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def add_vhost(self, name: str) -> None:
        """Make a virtual host that the user of :meth:`url` may do everything in."""
        self.api("PUT", f"/vhosts/{quote(name, safe='')}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"/permissions/{quote(name, safe='')}/{USER}", everything)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host, its queues, and the connections in it."""
        self.api("DELETE", f"/vhosts/{quote(name, safe='')}")

    def api(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Call the management API; ``path`` follows ``/api``. Returns the parsed answer, or None when it is empty.

        Raises:
            httpx.HTTPError: no answer, or an answer of status 400 and above.
        """
        url = f"http://127.0.0.1:{self._api_port}/api{path}"
        # Every client reads the authorities of the whole world, which takes longer than the answer; this one speaks to this machine.
        with httpx.Client(
            auth=(USER, self._password), timeout=_API_TIMEOUT_S, trust_env=False, verify=_NO_AUTHORITIES
        ) as client:
            answer = client.request(method, url, json=body).raise_for_status()
        return answer.json() if answer.content else None

    def control(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run ``rabbitmqctl``; a second or two each. Returns what it prints.

        Raises:
            EmbeddedError: it failed.
            subprocess.TimeoutExpired: it took longer than ``timeout`` seconds.
        """
        answer = subprocess.run(
            [self.installation.control, "-n", self.node, "--quiet", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment(),
            cwd=self.folder,
            timeout=timeout,
            check=False,
            **(self.sandbox.account.popen() if self.sandbox.account is not None else {}),
        )
        if answer.returncode != 0:
            raise EmbeddedError(
                f"rabbitmqctl {' '.join(arguments)} failed.", "", (answer.stdout + answer.stderr).strip()
            )
        return answer.stdout

    def close_all_connections(self, reason: str = "test") -> None:
        """Cut every client off, in an orderly way (connection.close with code 320)."""
        self.control("close_all_connections", "--global", reason)

    def _prepare(self) -> None:
        # Small and quick: no spinning schedulers beside the programs under test; a write-ahead log of 64 MB instead of 512.
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            f"default_user = {USER}",
            f"default_pass = {self._password}",
            "default_user_tags.administrator = true",
            "log.console = true",
            "log.console.level = warning",
            "log.file = false",
            "raft.wal_max_size_bytes = 67108864",
            "disk_free_limit.absolute = 50MB",
            f"management.tcp.port = {self._api_port}",
            "management.tcp.ip = 127.0.0.1",
        ]
        if self._joins is not None:
            lines += [
                "cluster_formation.peer_discovery_backend = classic_config",
                f"cluster_formation.classic_config.nodes.1 = {self._joins.node}",
                f"cluster_formation.classic_config.nodes.2 = {self.node}",
            ]
        for name, text in (
            ("rabbitmq.conf", "\n".join(lines) + "\n"),
            ("enabled_plugins", "[rabbitmq_management].\n"),
            (".erlang.cookie", self._cookie),
        ):
            (self.folder / name).unlink(missing_ok=True)
            self.sandbox.file(self.folder / name, text)

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self._joins is None and (self._epmd is None or self._epmd.poll() is not None):
            # Called by a link in our folder: so the process can be told from other people's.
            link = self.folder / "epmd"
            link.unlink(missing_ok=True)
            link.symlink_to(self.installation.epmd)
            self._epmd = self.sandbox.spawn(
                [link, "-address", "127.0.0.1", "-port", str(self._epmd_port)], log=self.folder / "epmd.log"
            )
        return self.sandbox.spawn([self.installation.server], log=self.log, environment=self._environment())

    def _answers(self) -> bool:
        try:
            with amqp.Connection(
                f"127.0.0.1:{self.port}",
                userid=USER,
                password=self._password,
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_CONNECT_TIMEOUT_S,
                write_timeout=_CONNECT_TIMEOUT_S,
            ):
                pass
            self.api("GET", "/overview")
        except (OSError, amqp.AMQPError, httpx.HTTPError):
            return False
        return True

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        return server_environment() | {
            "HOME": str(folder),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/nonexistent",
            # With "input allowed" the script becomes the server instead of staying its parent: the process we start is the
            # one that faults are inflicted on.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }
