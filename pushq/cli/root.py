"""The group of all commands; each lives in a module of its own and is imported when it is called."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import click

from pushq import __version__
from pushq.cli.lazy import LazyGroup
from pushq.errors import PushqError

#: Command to "module:object" and the line that `pushq --help` shows.
COMMANDS: Final = {
    "demo": ("pushq.cli.demo:demo", "Broadcast to generated devices, with everything embedded."),
    "up": ("pushq.cli.demo:up", "Run everything embedded, until Ctrl-C, to try commands against it."),
    "send": ("pushq.cli.send:send", "Send one notification to an audience."),
    "preview": ("pushq.cli.preview:preview", "Print the requests of a message; send nothing."),
    "sends": ("pushq.cli.sends:sends_", "List the newest sends."),
    "show": ("pushq.cli.sends:show", "Where one send stands."),
    "pause": ("pushq.cli.control:pause", "Hold a running send."),
    "resume": ("pushq.cli.control:resume", "Let a held send go on."),
    "cancel": ("pushq.cli.control:cancel", "End a send for good."),
    "rate": ("pushq.cli.control:rate", "Change the speed of a running send."),
    "replay": ("pushq.cli.control:replay", "Send again to those who were not reached."),
    "export": ("pushq.cli.export:export", "Write one row for each recipient."),
    "dead-letters": ("pushq.cli.dead_letters:dead_letters", "Why messages did not arrive, over time."),
    "queues": ("pushq.cli.queues:queues", "What waits in the broker, and the workers."),
    "credentials": ("pushq.cli.apns:credentials_", "What apps are known by, and when it ends."),
    "tokens": ("pushq.cli.tokens:tokens", "Register, import and look at device tokens."),
    "segments": ("pushq.cli.segments:segments", "Create and look at segments."),
    "apns": ("pushq.cli.apns:apns", "Broadcast channels of APNs; when certificates end."),
    "fcm": ("pushq.cli.fcm:fcm", "Subscribe devices to topics of FCM."),
    "keys": ("pushq.cli.keys:keys", "Create, list and revoke API keys."),
    "users": ("pushq.cli.users:users", "Create, list and delete users of the console."),
    "audit": ("pushq.cli.audit:audit", "Who did what to which send, key or user."),
    "cache": ("pushq.cli.cache:cache", "Warm, clear and look at the token cache."),
    "db": ("pushq.cli.db:db", "Bring the database to this version's schema."),
    "doctor": ("pushq.cli.doctor:doctor", "Check everything that a send needs, and say what to do."),
    "worker": ("pushq.cli.worker:worker", "Run a worker: core, apns, fcm or hms."),
    "beat": ("pushq.cli.worker:beat", "Run the clock that starts sweeper and clean-up."),
    "web": ("pushq.cli.web:web", "Serve the HTTP API and the console."),
    "exporter": ("pushq.cli.exporter:exporter", "Serve queues and ledger to Prometheus."),
    "health": ("pushq.cli.health:health", "Ask a process of this machine whether it works."),
    "mock": ("pushq.cli.mock:mock", "Serve APNs, FCM and OAuth for tests and trials."),
    "bench": ("pushq.cli.bench:bench", "Measure the sender, or a whole broadcast."),
    "sample-devices": ("pushq.cli.demo:sample_devices", "Write generated devices as CSV."),
}


class Root(LazyGroup):
    """All commands. A reader of their output that had enough (``pushq sends | head``) is no error."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # What is still buffered must not meet the closed pipe when the process ends; and click would end it with 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None


@click.group(cls=Root, table=COMMANDS, epilog="Start with: pushq demo")
@click.version_option(__version__, prog_name="pushq")
def cli() -> None:
    """Push notifications to millions of phones.

    Settings come from the environment (PUSHQ_DATABASE_URL, PUSHQ_BROKER_URL, PUSHQ_REDIS_URL) and from the TOML file that
    PUSHQ_CONFIG names.
    """


def run() -> None:
    """Run the command line; an error that pushq knows is one clear message and exit code 1."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except PushqError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(1)
