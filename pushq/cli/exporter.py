"""``pushq exporter``: queues, ledger and Redis for Prometheus."""

from __future__ import annotations

import signal
import sys
import threading

import click

from pushq import __version__, logs
from pushq.cli.output import emit_json, json_option
from pushq.cli.parent import end_with
from pushq.settings import load


@click.command(epilog="Example: PUSHQ_EXPORTER_PORT=9808 pushq exporter")
@click.option("--once", is_flag=True, help="Print what a scrape would find, and end: 1 if a source is away.")
@json_option
@click.option("--parent-pid", type=int, hidden=True)
def exporter(once: bool, as_json: bool, parent_pid: int | None) -> None:
    """Serve the state of queues, ledger and Redis to Prometheus, until SIGTERM, on PUSHQ_METRICS_HOST and PUSHQ_EXPORTER_PORT.

    One is enough. A source that is away costs its own series and nothing else; pushq_exporter_up says so. RabbitMQ tells of
    unacknowledged messages only through its management plugin: set PUSHQ_RABBITMQ_MANAGEMENT_URL, or rely on the workers'
    pushq_messages_held.
    """
    from prometheus_client import generate_latest  # noqa: PLC0415

    from pushq.observe.endpoint import serve  # noqa: PLC0415
    from pushq.observe.exporter import Exporter  # noqa: PLC0415
    from pushq.observe.health import Health  # noqa: PLC0415

    end_with(parent_pid)
    settings = load()
    logs.configure(settings, "exporter")
    source = Exporter(settings)
    try:
        if once:
            registry = source.registry()
            if as_json:
                samples = [
                    {"name": sample.name, "labels": sample.labels, "value": sample.value}
                    for family in registry.collect()
                    for sample in family.samples
                    if not sample.name.endswith("_created")
                ]
                emit_json({"samples": samples})
                up = [one["value"] for one in samples if one["name"] == "pushq_exporter_up"]
            else:
                text = generate_latest(registry).decode()
                click.echo(text, nl=False)
                up = [
                    float(line.rpartition(" ")[2])
                    for line in text.splitlines()
                    if line.startswith("pushq_exporter_up{")
                ]
            if not all(up):
                sys.exit(1)
            return
        end = serve(
            settings.metrics_host,
            settings.exporter_port,
            # Ready as long as it lives: what it says is wanted most while a source is away.
            Health("exporter"),
            version=__version__,
            registry=source.registry(),
            setting="PUSHQ_EXPORTER_PORT",
        )
        over = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: over.set())
        signal.signal(signal.SIGINT, lambda *_: over.set())
        over.wait()
        end()
    finally:
        source.close()
