"""``pushq worker`` and ``pushq beat``: Celery, started the way that was measured."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import click

from pushq import __version__, collector, logs
from pushq.cli.parent import end_with
from pushq.platforms import PLATFORMS
from pushq.settings import Settings, load

log = logging.getLogger("pushq.worker")

#: Batches that one process works on at the same time.
DEFAULT_CONCURRENCY = dict.fromkeys(("core", *PLATFORMS), 16)


@click.command(epilog="Example: pushq worker apns --lane broadcast --nice 10")
@click.argument("kind", type=click.Choice(["core", *PLATFORMS]))
@click.option(
    "--concurrency", "-c", type=click.IntRange(1, 1000), help="Batches at the same time (default: 16)."
)
@click.option(
    "--lane",
    type=click.Choice(["both", "broadcast", "transactional"]),
    default="both",
    help="Which lane's queues to serve; broadcast buries, sweeps and cleans, too.",
)
@click.option(
    "--nice",
    type=click.IntRange(0, 19),
    default=0,
    help="How far it stands back when the processors are short: broadcasts behind transactional sends.",
)
@click.option("--name", help="The worker's node name; default: the kind and the process id.")
@click.option(
    "--ready-file", type=click.Path(dir_okay=False, path_type=Path), help="Made once the worker takes tasks."
)
@click.option("--parent-pid", type=int, hidden=True)
def worker(
    kind: str,
    concurrency: int | None,
    lane: str,
    nice: int,
    name: str | None,
    ready_file: Path | None,
    parent_pid: int | None,
) -> None:
    """Run a worker until SIGTERM, which lets running batches finish or hands them back, within PUSHQ_SHUTDOWN_GRACE seconds.

    core plans sends, buries dead letters, sweeps and cleans; apns, fcm and hms deliver. A process delivers to one provider only.
    """
    from celery.signals import worker_ready, worker_shutting_down  # noqa: PLC0415
    from kombu.exceptions import OperationalError  # noqa: PLC0415
    from prometheus_client import REGISTRY  # noqa: PLC0415

    from pushq import tracing  # noqa: PLC0415
    from pushq.app import app, declare_poison  # noqa: PLC0415
    from pushq.observe.endpoint import serve  # noqa: PLC0415
    from pushq.observe.greenlets import LiveGreenlets  # noqa: PLC0415
    from pushq.observe.worker import WorkerHealth  # noqa: PLC0415
    from pushq.tasks import hooks, runtime  # noqa: PLC0415
    from pushq.tasks.event_groups import EventGroups  # noqa: PLC0415
    from pushq.tasks.held import HeldMessages  # noqa: PLC0415
    from pushq.tasks.replaced_connection import NoticeReplacedConnection  # noqa: PLC0415

    end_with(parent_pid)
    if nice:
        _stand_back(nice)
    settings = load()
    logs.configure(settings, f"worker-{kind}")
    _leave_logs_alone()
    tracing.configure(settings, f"pushq-{kind}")
    hooks.connect()
    greenlets = concurrency or DEFAULT_CONCURRENCY[kind]
    health = WorkerHealth(kind)
    end_endpoint = None
    if settings.metrics_port:
        end_endpoint = serve(settings.metrics_host, settings.metrics_port, health, version=__version__)
    # Here, not at the first task: whoever starts a worker with a wrong key or without a schema sees it at once.
    runtime.configure(settings, () if kind == "core" else (kind,), greenlets=greenlets)
    queues = _queues(kind, lane)
    REGISTRY.register(HeldMessages(queues))
    REGISTRY.register(LiveGreenlets())
    arguments = ["--quiet", "worker", "-P", "gevent", "-c", str(greenlets), "-Q", ",".join(queues)]
    arguments += [
        "-n",
        name or f"{kind}-{os.getpid()}@%h",
        "-l",
        "WARNING",
        "--without-gossip",
        "--without-mingle",
    ]
    arguments += _event_options(settings)

    def ready(sender: object, **_: object) -> None:
        collector.tame()
        health.consumes(sender)
        if ready_file is not None:
            ready_file.touch()

    def shutting_down(**_: object) -> None:
        runtime.drain()
        # Everything has its own time-out, but a worker that hangs all the same must not outlive the grace period: the kernel
        # ends it. What that cuts off is swept, as after any kill.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, settings.shutdown_grace)

    worker_ready.connect(ready, weak=False)
    worker_shutting_down.connect(shutting_down, weak=False)
    app.steps["consumer"].update({EventGroups, NoticeReplacedConnection})
    try:
        declare_poison(app)
    except (OperationalError, OSError) as exc:
        # The worker waits for its broker by itself; the next one to start makes the queue.
        log.warning("poison_queue_not_declared", extra={"error": type(exc).__name__})
    try:
        app.worker_main(arguments)
    finally:
        runtime.shutdown()
        tracing.shutdown(1.0)  # what is left of the grace period must do
        if end_endpoint is not None:
            end_endpoint()


def _stand_back(nice: int) -> None:
    os.nice(nice)
    group = Path("/proc/self/autogroup")
    if os.getsid(0) == os.getpid() and group.exists():
        # Linux shares processors between sessions first, and among the processes of one by their nice (sched(7)).
        with suppress(OSError):
            group.write_text(str(nice))


def _leave_logs_alone() -> None:
    """Celery would add handlers and formats of its own, and print what it has to say about signals."""
    from celery.apps import worker as program  # noqa: PLC0415
    from celery.signals import setup_logging  # noqa: PLC0415

    def done(**_: object) -> None: ...

    setup_logging.connect(done, weak=False)
    program.safe_say = logs.write_at_once


def _queues(kind: str, lane: str) -> list[str]:
    from pushq.app import CORE_LANES, PLATFORM_QUEUES  # noqa: PLC0415 - after gevent's patches, as all of Celery

    lanes = ("broadcast", "transactional") if lane == "both" else (lane,)
    if kind == "core":
        return [queue for one in lanes for queue in CORE_LANES[one]]
    return [PLATFORM_QUEUES[kind, one] for one in lanes]


def _event_options(settings: Settings) -> list[str]:
    # Flower needs events; without it a worker is faster still without a dispatcher (see benchmarks/consume_rate.py).
    return ["-E"] if settings.events else ["--without-heartbeat"]


@click.command(epilog="Example: pushq beat")
@click.option(
    "--schedule", type=click.Path(dir_okay=False, path_type=Path), help="Where beat remembers its last runs."
)
@click.option("--parent-pid", type=int, hidden=True)
def beat(schedule: Path | None, parent_pid: int | None) -> None:
    """Run the clock: it starts the sweeper every few seconds and the clean-up every night.

    Two of them at once do no harm: what they start is safe to repeat.
    """
    from pushq.app import app  # noqa: PLC0415
    from pushq.observe.endpoint import serve  # noqa: PLC0415
    from pushq.observe.health import Health  # noqa: PLC0415
    from pushq.tasks.clock import Pulse, scheduler  # noqa: PLC0415

    end_with(parent_pid)
    settings = load()
    logs.configure(settings, "beat")
    _leave_logs_alone()
    settings.need_broker()
    pulse = Pulse()
    if settings.metrics_port:
        health = Health("beat", live={"clock": pulse.stuck}, ready={"broker": pulse.in_vain})
        # A daemon's thread: it ends with the process.
        serve(settings.metrics_host, settings.metrics_port, health, version=__version__)
    with tempfile.TemporaryDirectory(prefix="pushq-beat-") as folder:
        app.Beat(
            schedule=str(schedule or Path(folder) / "schedule"),
            loglevel="WARNING",
            quiet=True,
            scheduler_cls=scheduler(pulse),
            max_interval=min(settings.sweep_seconds, 5),
        ).run()
