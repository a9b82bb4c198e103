"""``pushq segments``: create, fill and look at segments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
from rich.table import Table

from pushq.audience import segments as store
from pushq.audience.members import MemberFile
from pushq.cli.output import console, emit_json, json_option
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.settings import load


@contextmanager
def database() -> Iterator[Database]:
    opened = Database(load().need_database(), pool_size=2, application_name="pushq-cli")
    try:
        yield opened
    finally:
        opened.close()


app_option = click.option("--app", required=True, help="The app that the segment belongs to.")


@click.group()
def segments() -> None:
    """Create, fill and look at segments. The segment `all` is everybody and needs no creating."""


@segments.command(
    epilog="""\b
Examples:
  pushq segments create vips --app shop --static
  pushq segments create german --app shop --filter '{"language": "de", "app_version": {"min": "4.2"}}'
  pushq segments create active-30d --app shop --filter '{"last_seen": {"within_days": 30}}'

\b
Conditions: platform, language, country, app_version {min, max}, tags {any, all, none},
last_seen {within_days, before_days}."""
)
@click.argument("name")
@app_option
@click.option("--static", is_flag=True, help="A list of users, filled with `pushq segments add`.")
@click.option(
    "--filter",
    "filter_",
    metavar="JSON",
    help="Everybody whose device passes, looked at when a send is planned.",
)
@json_option
def create(name: str, app: str, static: bool, filter_: str | None, as_json: bool) -> None:
    """Create the segment NAME."""
    if static == (filter_ is not None):
        raise click.UsageError("Say either --static or --filter.")
    conditions = None
    if filter_ is not None:
        try:
            conditions = orjson.loads(filter_)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(
                "filter", f"text that is no JSON ({error.msg})", 'JSON such as {"language": "de"}'
            ) from None
        if conditions is None:
            raise InvalidRequest("filter", "null", 'JSON such as {"language": "de"}')
    with database() as opened:
        store.create(opened, app, name, filter=conditions)
        counted = store.count_segment(opened, app, name) if conditions is not None else None
    if as_json:
        emit_json({"segment": name, "app": app, "kind": "static" if static else "filter"})
    elif counted is None:
        click.echo(f"created {name}; add users to it: pushq segments add {name} --app {app} FILE")
    else:
        click.echo(f"created {name}; now {sum(counted.devices.values()):,} active devices")


Store = Callable[[Database, str, str, Iterator[list[int]]], int]


def _members_command(name: str, help_: str, act: Store, said: str) -> None:
    """One command that reads a file of user ids: add, remove and replace differ in what they do with them."""

    @segments.command(
        name=name,
        help=help_,
        epilog=f"Example: pushq segments {name} vips --app shop users.txt   (- is standard input)",
    )
    @click.argument("segment")
    @app_option
    @click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
    @click.option(
        "--rejects", type=click.Path(path_type=Path, dir_okay=False), help="Default: FILE.rejects.csv"
    )
    @json_option
    def command(segment: str, app: str, file: Path, rejects: Path | None, as_json: bool) -> None:
        standard_input = str(file) == "-"
        wrong = rejects or (
            Path("stdin.rejects.csv") if standard_input else file.with_name(f"{file.name}.rejects.csv")
        )
        with ExitStack() as stack:
            stream: BinaryIO = sys.stdin.buffer
            if not standard_input:
                try:
                    stream = stack.enter_context(file.open("rb"))
                except OSError as error:
                    raise InvalidRequest(
                        "file", f"{str(file)!r}: {error.strerror}", "a readable file"
                    ) from None
            members = stack.enter_context(MemberFile(stream, wrong))
            changed = act(stack.enter_context(database()), app, segment, members.chunks())
        document: dict[str, Any] = {
            "segment": segment,
            "app": app,
            "read": members.accepted + members.rejected,
            "changed": changed,
            "rejected": members.rejected,
            "rejects_file": str(wrong) if members.rejected else None,
        }
        if as_json:
            emit_json(document)
            return
        click.echo(f"{segment}: {changed:,} users {said}, {members.accepted:,} read")
        if members.rejected:
            click.echo(f"{members.rejected:,} lines were rejected: line, reason and record are in {wrong}")


_members_command(
    "add", "Add the users in FILE: an id per line, or CSV with user_id.", store.add_members, "added"
)
_members_command("remove", "Take the users in FILE out of the segment.", store.remove_members, "removed")
_members_command(
    "replace", "Make the users in FILE the only ones, at once.", store.replace_members, "are in it now"
)


@segments.command(epilog="Example: pushq segments delete vips --app shop")
@click.argument("name")
@app_option
@json_option
def delete(name: str, app: str, as_json: bool) -> None:
    """Delete the segment NAME; devices and users stay."""
    with database() as opened:
        store.delete(opened, app, name)
    if as_json:
        emit_json({"deleted": name, "app": app})
    else:
        click.echo(f"deleted {name}")


@segments.command(name="list", epilog="Example: pushq segments list --app shop")
@click.option("--app", help="Only those of this app.")
@json_option
def list_(app: str | None, as_json: bool) -> None:
    """List the segments."""
    with database() as opened:
        found = store.list_segments(opened, app)
    if as_json:
        emit_json({"segments": found})
        return
    out = console()
    if not found:
        out.print("No segments yet; `all` is always there. Create one: pushq segments create --help")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("app", "segment", "kind", "changed", "filter"):
        table.add_column(name)
    for segment in found:
        shown = "" if segment.filter is None else orjson.dumps(segment.filter).decode().replace("[", r"\[")
        table.add_row(segment.app, segment.name, segment.kind, f"{segment.updated_at:%Y-%m-%d %H:%M}", shown)
    out.print(table)


@segments.command(epilog="Example: pushq segments count german --app shop")
@click.argument("name")
@app_option
@json_option
def count(name: str, app: str, as_json: bool) -> None:
    """Count the users and active devices of the segment NAME, now."""
    with database() as opened:
        counted = store.count_segment(opened, app, name)
    total = sum(counted.devices.values())
    if as_json:
        emit_json(
            {
                "segment": name,
                "app": app,
                "members": counted.members,
                "devices": counted.devices,
                "total": total,
            }
        )
        return
    if counted.members is not None:
        click.echo(f"{counted.members:>12,}  users")
    click.echo(f"{total:>12,}  active devices")
    for platform, devices in counted.devices.items():
        click.echo(f"{devices:>12,}    {platform}")
