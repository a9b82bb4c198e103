"""The group of all commands; each lives in a module of its own and is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from pushq import __version__
from pushq.errors import PushqError

#: Command to "module:object" and the line that `pushq --help` shows.
COMMANDS: Final = {
    "demo": ("pushq.cli.demo:demo", "Broadcast to generated devices, with everything embedded."),
    "up": ("pushq.cli.demo:up", "Run everything embedded, until Ctrl-C, to try commands against it."),
    "send": ("pushq.cli.send:send", "Send one notification to an audience."),
    "sends": ("pushq.cli.sends:sends_", "List the newest sends."),
    "show": ("pushq.cli.sends:show", "Where one send stands."),
    "pause": ("pushq.cli.sends:pause", "Hold a running send."),
    "resume": ("pushq.cli.sends:resume", "Let a held send go on."),
    "tokens": ("pushq.cli.tokens:tokens", "Register, import and look at device tokens."),
    "segments": ("pushq.cli.segments:segments", "Create and look at segments."),
    "cache": ("pushq.cli.cache:cache", "Warm, clear and look at the token cache."),
    "db": ("pushq.cli.db:db", "Bring the database to this version's schema."),
    "worker": ("pushq.cli.worker:worker", "Run a worker: core, apns or fcm."),
    "beat": ("pushq.cli.worker:beat", "Run the clock that starts sweeper and clean-up."),
    "mock": ("pushq.cli.mock:mock", "Serve APNs, FCM and OAuth for tests and trials."),
    "bench": ("pushq.cli.bench:bench", "Measure the sender against a server of yours."),
    "sample-devices": ("pushq.cli.demo:sample_devices", "Write generated devices as CSV."),
}


class LazyGroup(click.Group):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table, not from the modules: `pushq --help` must work where an extra is not installed.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog="Start with: pushq demo")
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
    except BrokenPipeError:
        sys.exit(0)  # `pushq sends | head`: the reader had enough
