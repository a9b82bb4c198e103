"""``pushq mock``: providers to play against, without an account anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pushq.errors import PushqError
from pushq.mock.settings import DEAD_PREFIX, LOOPBACK, MockSettings

EXAMPLE = """\b
Example:
  pushq mock --dir .pushq/mock --latency-ms 20
  PUSHQ_CONFIG=.pushq/mock/pushq.toml pushq worker apns
"""


@click.command(epilog=EXAMPLE, context_settings={"show_default": True})
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".pushq/mock"),
    help="Folder for credentials, pushq.toml and ready.json. Keys found there are used again.",
)
@click.option(
    "--engine",
    type=click.Choice(["fast", "strict"]),
    default="fast",
    help="fast for load; strict judges every frame and keeps the last requests.",
)
@click.option("--latency-ms", type=click.FloatRange(min=0), default=80.0, help="From request to answer.")
@click.option("--latency-spread", type=click.FloatRange(min=0), default=0.0, help="Plus or minus, in ms.")
@click.option("--dead-prefix", default=DEAD_PREFIX, help="Tokens that begin with this are dead.")
@click.option(
    "--host",
    default=LOOPBACK,
    help="Name that clients reach it by. Another than localhost is for a container: it listens on all interfaces.",
)
@click.option("--topic", default="com.example.shop", help="Bundle id of the app.")
@click.option(
    "--apns-streams", type=click.IntRange(min=1), default=1000, help="Streams after the first good JWT."
)
@click.option("--fcm-streams", type=click.IntRange(min=1), default=100, help="Streams per connection.")
@click.option(
    "--apns-port", type=click.IntRange(0, 65535), default=0, help="0 takes a free one, here and below."
)
@click.option("--sandbox-port", type=click.IntRange(0, 65535), default=0)
@click.option("--fcm-port", type=click.IntRange(0, 65535), default=0)
@click.option("--oauth-port", type=click.IntRange(0, 65535), default=0)
@click.option("--hms-port", type=click.IntRange(0, 65535), default=0)
@click.option("--hms-oauth-port", type=click.IntRange(0, 65535), default=0)
@click.option("--control-port", type=click.IntRange(0, 65535), default=0)
@click.option(
    "--proxy-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="An HTTP proxy that takes the providers' own names to this mock.",
)
@click.option(
    "--faults",
    "faults_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file of faults, see docs/mock.md.",
)
@click.option("--seed", type=int, default=0, help="For faults and latencies drawn at random.")
@click.option("--json", "as_json", is_flag=True, help="Print what is ready as one JSON object.")
def mock(*, latency_spread: float, as_json: bool, **options: Any) -> None:
    """Serve APNs, FCM, HMS and the OAuth of the latter two on this machine until Ctrl-C.

    They speak TLS and HTTP/2, check what the real ones check, count per token what they accepted, and fail on demand.
    """
    # gevent is only needed, and only loaded, by who serves.
    from pushq.mock.server import run  # noqa: PLC0415

    settings = MockSettings(latency_spread_ms=latency_spread, **options)
    try:
        run(settings, _print_json if as_json else _print_guide)
    except PushqError as error:
        raise click.ClickException(str(error)) from error


def _print_json(ready: dict[str, Any]) -> None:
    click.echo(json.dumps(ready))


def _print_guide(ready: dict[str, Any]) -> None:
    click.echo(
        f"APNs     {ready['apns']['url']}  (sandbox {ready['apns']['sandbox_url']})\n"
        f"FCM      {ready['fcm']['url']}\n"
        f"HMS      {ready['hms']['url']}\n"
        f"OAuth    {ready['oauth_url']}  (HMS {ready['hms']['oauth_url']})\n"
        f"Control  {ready['control_url']}/stats\n"
        f"Proxy    {ready['proxy_url']}  (HTTPS_PROXY, for senders whose endpoints cannot be set)\n"
        f"Use it   PUSHQ_CONFIG={ready['config_file']}\n"
        "Ctrl-C ends it."
    )
