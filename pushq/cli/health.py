"""``pushq health``: the question of a probe."""

from __future__ import annotations

import http.client
import socket
import sys
from typing import Any

import click
import orjson

from pushq.cli.output import emit_json, json_option
from pushq.platforms import PLATFORMS
from pushq.settings import load

ROLES = ("core", *PLATFORMS, "beat", "web", "exporter")


@click.command(epilog="Example: pushq health apns --ready")
@click.argument("role", type=click.Choice(ROLES))
@click.option("--ready", is_flag=True, help="Whether it could work now, what it needs from others included.")
@click.option("--host", help="Where it serves; default: PUSHQ_METRICS_HOST.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Default: PUSHQ_METRICS_PORT, PUSHQ_EXPORTER_PORT for the exporter.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 60),
    default=3.0,
    show_default=True,
    help="Seconds until no answer is one.",
)
@json_option
def health(role: str, ready: bool, host: str | None, port: int | None, timeout: float, as_json: bool) -> None:
    """Ask the process of a ROLE on this machine whether it works; ends with 0 if it does, with 1 if not.

    Without --ready it is a liveness probe: whether the process itself still turns. That PostgreSQL, Redis, the broker or a provider is
    away makes nobody dead: a worker waits for them, a new one would wait as well, and killing it would only cut off what it has in
    flight. With --ready it is a readiness probe: false as well while the database, Redis or the broker is not to be had, and during a
    shutdown; so a rollout with a wrong password stops at its first worker. The exporter is ready while it lives, for it has most to say
    when the others are away.
    """
    settings = load()
    if host is None:
        # Who listens everywhere is asked here.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.metrics_host, settings.metrics_host)  # noqa: S104
    if port is None:
        port = settings.exporter_port if role == "exporter" else settings.metrics_port
    if not port:
        raise click.UsageError(
            f"PUSHQ_METRICS_PORT: found nothing; expected the port on which this machine's {role} serves its metrics and its health"
        )
    found = _ask(host, port, "ready" if ready else "live", timeout)
    if found.get("role") not in (role, None):
        found = {**found, "ok": False, "why": f"found a {found['role']} at {host}:{port}, expected a {role}"}
    found.setdefault("role", role)
    ok = found["ok"] is True
    if as_json:
        emit_json(found)
    else:
        click.echo(_line(found, ok))
    if not ok:
        sys.exit(1)


def _ask(host: str, port: int, probe: str, timeout: float) -> dict[str, Any]:
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", f"/{probe}")
        answer = connection.getresponse()
        body = answer.read(64 * 1024)
        found = orjson.loads(body)
        if not isinstance(found, dict) or not isinstance(found.get("ok"), bool):
            raise ValueError("no health in it")
        return found
    except TimeoutError:
        why = f"{host}:{port} takes connections and does not answer within {timeout:g} s: the process hangs"
    except ConnectionRefusedError:
        why = f"nobody listens on {host}:{port}: it does not run, or serves on another port"
    except socket.gaierror:
        why = f"{host!r} is no host"
    except (OSError, http.client.HTTPException, ValueError) as exc:
        why = f"{host}:{port} gives another answer than pushq would ({type(exc).__name__})"
    finally:
        connection.close()
    return {"probe": probe, "ok": False, "why": why}


def _line(found: dict[str, Any], ok: bool) -> str:
    bad = [
        f"{name}: {check.get('why')}" for name, check in found.get("checks", {}).items() if not check["ok"]
    ]
    if found.get("why"):
        bad.insert(0, str(found["why"]))
    word = found["probe"] if ok else f"not {found['probe']}"
    return f"{found['role']} is {word}" + (f": {'; '.join(bad)}" if bad else "")
