"""``pushq users``: who may sign in to the console."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from pushq.access import sessions
from pushq.access import users as store
from pushq.access.local import local
from pushq.access.principal import SCOPES
from pushq.cli.keys import shown_apps, shown_time
from pushq.cli.output import emit_json, json_option, table_console
from pushq.cli.sends import database
from pushq.errors import InvalidRequest

password_option = click.option(
    "--password-file",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Where the password stands, in its first line; - is standard input. Default: ask.",
)


def _password(file: Path | None) -> str:
    """From a file or from a terminal; never from the command line, which others can see."""
    if file is None:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "Nobody can be asked for the password here: give --password-file FILE, or - for standard input."
            )
        asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "no UTF-8"
        raise InvalidRequest("password_file", f"{str(file)!r}: {why}", "a readable file") from None
    return text.splitlines()[0] if text.strip("\r\n") else ""


@click.group()
def users() -> None:
    """Create, list and delete the users of the console."""


@users.command(
    epilog=f"""\b
Examples:
  pushq users create ada --scope admin
  pushq users create bob --app shop --password-file bob.txt

\b
Without --scope: {", ".join(scope for scope in SCOPES if scope in store.DEFAULT_SCOPES)}."""
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(list(SCOPES)),
    help="What the user may do. May be repeated.",
)
@click.option("--app", "apps", multiple=True, help="Only this app. May be repeated. Default: all apps.")
@password_option
@json_option
def create(
    name: str, scopes: tuple[str, ...], apps: tuple[str, ...], password_file: Path | None, as_json: bool
) -> None:
    """Create the user NAME."""
    password = _password(password_file)
    with database() as opened:
        made = store.create(
            opened,
            local(),
            name=name,
            password=password,
            scopes=scopes or store.DEFAULT_SCOPES,
            apps=apps,
        )
    if as_json:
        emit_json(_document(made))
    else:
        click.echo(f"created {name}: {', '.join(sorted(made.scopes))}; apps: {shown_apps(made.apps)}")


def _document(user: store.User) -> dict[str, object]:
    return {
        "name": user.name,
        "scopes": sorted(user.scopes),
        "apps": None if user.apps is None else sorted(user.apps),
        "created_at": user.created_at,
        "password_at": user.password_at,
        "sessions": user.sessions,
    }


@users.command(name="list", epilog="Example: pushq users list --json")
@json_option
def list_(as_json: bool) -> None:
    """List the users and how many sessions each has open."""
    with database() as opened:
        found = store.list_users(opened)
    if as_json:
        emit_json({"users": [_document(user) for user in found]})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "scopes", "apps", "created", "password of", "sessions"):
        table.add_column(column)
    for user in found:
        table.add_row(
            escape(user.name),
            ", ".join(sorted(user.scopes)),
            shown_apps(user.apps),
            shown_time(user.created_at),
            shown_time(user.password_at),
            str(user.sessions),
        )
    table_console().print(table if found else "No users. Create one: pushq users create --help")


@users.command(epilog="Example: pushq users password ada")
@click.argument("name")
@password_option
@json_option
def password(name: str, password_file: Path | None, as_json: bool) -> None:
    """Give the user NAME another password; whoever is signed in as NAME no longer is."""
    new = _password(password_file)
    with database() as opened:
        store.set_password(opened, local(), name, new)
    if as_json:
        emit_json({"name": name, "changed": True})
    else:
        click.echo(f"{name} has another password; all sessions are ended")


@users.command(epilog="Example: pushq users delete bob")
@click.argument("name")
@json_option
def delete(name: str, as_json: bool) -> None:
    """Delete the user NAME and end all sessions."""
    with database() as opened:
        store.delete(opened, local(), name)
    if as_json:
        emit_json({"deleted": name})
    else:
        click.echo(f"deleted {name}")


@users.command(name="sign-out", epilog="Example: pushq users sign-out bob")
@click.argument("name")
@json_option
def sign_out(name: str, as_json: bool) -> None:
    """End all sessions of the user NAME, who may sign in again."""
    with database() as opened:
        ended = store.sign_out(opened, local(), name)
    if as_json:
        emit_json({"name": name, "ended": ended})
    else:
        click.echo(f"{name}: {ended} sessions ended")


@users.command(epilog="Example: pushq users link ada --url https://push.example.org")
@click.argument("name")
@click.option(
    "--url", default="http://127.0.0.1:8080", show_default=True, help="Where browsers reach `pushq web`."
)
@json_option
def link(name: str, url: str, as_json: bool) -> None:
    """Print an address that signs in as NAME without the password: once, within 15 minutes."""
    with database() as opened:
        token = sessions.login_link(opened, local(), name)
    address = f"{url.rstrip('/')}/login/link/{token}"
    if as_json:
        emit_json({"name": name, "url": address, "minutes": int(sessions.LINK_LIFE.total_seconds() // 60)})
    else:
        click.echo(address)
