"""``pushq web``: the HTTP API and the console."""

from __future__ import annotations

import logging
import signal
import socket
from typing import TYPE_CHECKING, Any, Final

import click

from pushq import __version__, collector, logs, tracing
from pushq.cli.output import emit_json, json_option
from pushq.cli.parent import end_with
from pushq.errors import PushqError, SettingsError
from pushq.settings import Settings, load

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("pushq.web")

#: Seconds that requests in hand have to end; streams are told at once.
GRACE_S: Final = 10
#: Connections at most; more than requests, for some only wait for the next.
MOST_CONNECTIONS: Final = 4_000


@click.command(
    epilog="""\b
Examples:
  pushq web
  pushq web --host 0.0.0.0 --port 8080
  pushq web --openapi > openapi.json"""
)
@click.option(
    "--host", help="Address to listen at. Default: PUSHQ_WEB_HOST, else 127.0.0.1: this machine only."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Default: PUSHQ_WEB_PORT, else 8080; 0 takes any that is free.",
)
@click.option("--openapi", is_flag=True, help="Print the OpenAPI document, and end.")
@json_option
@click.option("--parent-pid", type=int, hidden=True)
def web(host: str | None, port: int | None, openapi: bool, as_json: bool, parent_pid: int | None) -> None:
    """Serve the HTTP API and the console, until SIGTERM. Needs the extra: pip install 'pushq[web]'.

    It tells nobody without an API key anything: make one with `pushq keys create`, or sign in at the console as a user made by
    `pushq users create`. Off this machine, put a proxy with TLS in front of it (docs/http-api.md).
    """
    try:
        from pushq.web.app import create_app  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise PushqError(
            f"pushq web needs {exc.name}, which is not installed. Run: pip install 'pushq[web]'"
        ) from exc
    end_with(parent_pid)
    settings = load()
    app = create_app(settings)
    if openapi:
        emit_json(app.openapi())
        return
    _check_schema(settings)
    logs.configure(settings, "web")
    tracing.configure(settings, "pushq-web")
    listening = _listen(host or settings.web_host, settings.web_port if port is None else port)
    address = _address(listening)
    if as_json:
        emit_json({"address": address})
    else:
        click.echo(f"API and console: {address}", err=True)
    end = _metrics(settings, app)
    try:
        _serve(app, listening, settings)
    finally:
        end()
        listening.close()


def _check_schema(settings: Settings) -> None:
    from pushq.database import Database  # noqa: PLC0415
    from pushq.ledger import schema  # noqa: PLC0415

    database = Database(settings.need_database(), pool_size=1, application_name="pushq-web")
    try:
        schema.check(database)
    finally:
        database.close()


def _listen(host: str, port: int) -> socket.socket:
    """Before the server starts, so that a port that is taken is an error of its own.

    Raises:
        SettingsError: nobody can listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except BaseException:
            listening.close()
            raise
    except OSError as exc:
        raise SettingsError(
            f"PUSHQ_WEB_PORT: found {port} on {host}, where nobody can listen ({exc.strerror or exc}); "
            "expected an address of this machine and a port that is free"
        ) from exc
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def _metrics(settings: Settings, app: FastAPI) -> Any:
    """The same endpoint for probes and Prometheus that every other process has, if PUSHQ_METRICS_PORT asks for it."""
    if not settings.metrics_port:
        return lambda: None
    from pushq.observe.endpoint import serve  # noqa: PLC0415
    from pushq.observe.health import Health  # noqa: PLC0415

    def ready() -> str | None:
        made = getattr(app.state, "web", None)
        if made is None:
            return "is starting"
        if made.closing.is_set():
            return "is about to end"
        report = made.health.ready()
        wrong = [f"{name}: {why}" for name, why in report.checks.items() if why is not None]
        return "; ".join(wrong) or None

    return serve(
        settings.metrics_host, settings.metrics_port, Health("web", ready={"web": ready}), version=__version__
    )


def _serve(app: FastAPI, listening: socket.socket, settings: Settings) -> None:
    import uvicorn  # noqa: PLC0415

    from pushq.web.protocol import Protocol  # noqa: PLC0415

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            # Not uvicorn's own, which would raise the signal again once all is closed: this end is in order.
            self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
            self.should_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            collector.tame()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.web.closing.set()  # streams end by themselves, and nobody waits for them
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.web_trusted_proxies),
        forwarded_allow_ips=settings.web_trusted_proxies or None,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = Server(config)
    server.run(sockets=[listening])
    if not server.started:
        raise PushqError("pushq web could not start; its log says why")
