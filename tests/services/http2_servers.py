"""Private HTTP/2 servers that nobody here wrote, for as long as a block runs: nginx, nghttpd, hypercorn, granian."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pushq.embedded.errors import EmbeddedError
from pushq.embedded.server import free_port

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_START_S = 20.0
_STOP_S = 10.0
#: A server whose test was killed does not stay for ever.
_LIFE_S = 600

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format plain '$request_uri $status';
    access_log {folder}/requests.log plain;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    keepalive_requests {requests_per_connection};
    ssl_certificate {pem}; ssl_certificate_key {pem};
    server {{
        listen 127.0.0.1:{port} ssl http2;
        location / {{ return 200; }}
        location /gone/ {{ return 410 '{{"reason":"Unregistered"}}'; }}
        # Behind a proxy a request's body is read to its end before the answer.
        location /read/ {{ proxy_pass http://127.0.0.1:{inner}; }}
    }}
    server {{ listen 127.0.0.1:{inner}; access_log off; location / {{ return 200 "taken"; }} }}
}}
"""


def find_nginx() -> str:
    """Raises EmbeddedError when it is not installed."""
    return _find("nginx", "nginx")


def find_nghttpd() -> str:
    """Raises EmbeddedError when it is not installed."""
    return _find("nghttpd", "nghttp2-server")


def _find(program: str, package: str) -> str:
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise EmbeddedError(
            f"No `{program}` on PATH.", f"Install it (Debian, Ubuntu: apt-get install {package})."
        )
    return path


class Http2Server:
    """A server as a process.

    Attributes:
        log: lines of the requests that it has read; for nghttpd there is none.
    """

    def __init__(
        self, arguments: list[str], port: int, folder: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.port = port
        self.log = folder / "requests.log"
        self._arguments = ["timeout", str(_LIFE_S), *arguments] if shutil.which("timeout") else arguments
        self._environment = {**os.environ, **(environment or {})}
        self._output = folder / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.stop()
                    raise AssertionError(self._output.read_text(errors="replace")[-2000:]) from None
                time.sleep(0.05)
            else:
                return

    def send_signal(self, number: signal.Signals) -> None:
        """To the whole process group: ``timeout`` and the server with its workers."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.send_signal(signal.SIGKILL)
            self._process.wait(_STOP_S)
        self._process = None

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@contextmanager
def running(server: Http2Server) -> Iterator[Http2Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Nginx(Http2Server):
    """``pem`` is certificate and key in one file."""

    def __init__(self, folder: Path, pem: Path, *, requests_per_connection: int = 10**9) -> None:
        port = free_port()
        config = folder / "nginx.conf"
        config.write_text(
            _NGINX.format(
                folder=folder,
                pem=pem,
                port=port,
                inner=free_port(),
                requests_per_connection=requests_per_connection,
            )
        )
        self._pid_file = folder / "nginx.pid"
        log = str(folder / "error.log")
        super().__init__([find_nginx(), "-p", str(folder), "-c", str(config), "-e", log], port, folder)

    def reload(self) -> None:
        """Another worker takes over; the old one says GOAWAY and finishes."""
        os.kill(int(self._pid_file.read_text()), signal.SIGHUP)


def nghttpd(folder: Path, pem: Path, *options: str) -> Http2Server:
    port = free_port()
    arguments = [
        find_nghttpd(),
        "-a",
        "127.0.0.1",
        "-d",
        str(folder),
        *options,
        str(port),
        str(pem),
        str(pem),
    ]
    return Http2Server(arguments, port, folder)


def asgi(name: str, folder: Path, pem: Path, *, requests_per_connection: int = 10**9) -> Http2Server:
    """``name`` is hypercorn or granian; the application is :mod:`tests.services.asgi_app`.

    ``requests_per_connection``: after so many hypercorn says GOAWAY, and never answers what it has read by then.
    """
    port = free_port()
    target = "tests.services.asgi_app:app"
    if name == "hypercorn":
        options = ["--bind", f"127.0.0.1:{port}", "--certfile", str(pem), "--keyfile", str(pem)]
        config = folder / "hypercorn.toml"
        config.write_text(f"keep_alive_max_requests = {requests_per_connection}\n")
        options += ["--graceful-timeout", "2", "--config", str(config)]
    else:
        options = [
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--interface",
            "asgi",
            "--http",
            "2",
            "--no-ws",
        ]
        options += ["--ssl-certificate", str(pem), "--ssl-keyfile", str(pem), "--workers-kill-timeout", "2"]
    arguments = [sys.executable, "-m", name, *options, target]
    root = str(Path(__file__).resolve().parents[2])
    return Http2Server(
        arguments, port, folder, {"PYTHONPATH": root, "REFEREE_LOG": str(folder / "requests.log")}
    )
