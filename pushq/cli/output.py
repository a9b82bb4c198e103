"""How commands print: one JSON object for programs, or a picture for people."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from typing import Any

import click
import orjson
from rich.console import Console

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of a picture."
)


def emit_json(value: Any) -> None:
    """One line of JSON on standard output."""
    click.echo(orjson.dumps(plain(value)).decode())


def plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, uuid.UUID | datetime | date):
        return value.isoformat() if not isinstance(value, uuid.UUID) else str(value)
    return value


def console(*, stderr: bool = False) -> Console:
    """Output for people; no colours and no moving picture where it does not go to a terminal."""
    return Console(file=sys.stderr if stderr else sys.stdout, highlight=False)


def table_console() -> Console:
    """Output for tables: where no terminal sets the width, wide enough to cut nothing."""
    out = console()
    if not out.is_terminal:
        out.width = 200
    return out
