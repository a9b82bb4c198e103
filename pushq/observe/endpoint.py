"""The endpoint of a process: its metrics and its health, over HTTP.

``/metrics`` is for Prometheus; ``/live`` and ``/ready`` answer 200 or 503, and JSON that says why.
"""

from __future__ import annotations

import logging
import platform
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from prometheus_client import REGISTRY, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from pushq import metrics
from pushq.errors import SettingsError
from pushq.observe.health import Health, Report

log = logging.getLogger("pushq.endpoint")

#: Seconds that a client may take for its request and for reading the answer.
CLIENT_TIMEOUT_S: Final = 10.0
#: More clients at a time than this are turned away: each costs a thread.
MOST_CLIENTS: Final = 16


def serve(
    host: str,
    port: int,
    health: Health,
    *,
    version: str,
    registry: CollectorRegistry = REGISTRY,
    setting: str = "PUSHQ_METRICS_PORT",
) -> Callable[[], None]:
    """Serve in the background; returns what ends it.

    Args:
        version: of pushq, for ``pushq_build_info``.
        setting: where the port comes from, for the error.

    Raises:
        SettingsError: nobody can listen there.
    """
    # A second series for each counter, which nobody reads.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    metrics.build_info.labels(version, platform.python_version()).set(1)
    if registry is not REGISTRY:
        registry.register(metrics.build_info)
    try:
        server = _Server(host, port, health, registry)
    except OSError as exc:
        raise SettingsError(
            f"{setting}: found {port} on {host}, where nobody can listen ({exc.strerror or exc}); "
            "expected a port of its own for each process of this machine"
        ) from exc
    thread = threading.Thread(target=server.serve_forever, name="pushq-endpoint", daemon=True)
    thread.start()

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5.0)

    return end


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that still reads must not hold up the end of the process
    request_queue_size = 64

    def __init__(self, host: str, port: int, health: Health, registry: CollectorRegistry) -> None:
        self.health, self.registry = health, registry
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        # HTTPServer's would ask the name service for this machine's name, which can take long and is of no use here.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("endpoint_client_gone", extra={"error": type(error).__name__})
        else:
            log.error("endpoint_failed", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_TIMEOUT_S

    def do_GET(self) -> None:  # the name is http.server's
        path = urlsplit(self.path).path
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.server.registry))
        elif path == "/live":
            self._say(self.server.health.live())
        elif path == "/ready":
            self._say(self.server.health.ready())
        else:
            self._answer(404, "text/plain; charset=utf-8", b"found nothing here; /metrics, /live, /ready\n")

    def _say(self, report: Report) -> None:
        self._answer(200 if report.ok else 503, "application/json", orjson.dumps(report.as_json()))

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Nobody wants to read of every scrape."""
