"""``pushq bench wire``: measure the sender alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pushq.bench.message import DEFAULT_HEADERS, MIN_BODY_BYTES
from pushq.cli.output import console, emit_json, json_option
from pushq.errors import InvalidRequest, PushqError
from pushq.http2 import Origin

if TYPE_CHECKING:
    from pushq.bench.wire import WireLoad, WireResult

#: Drawing costs CPU time of the process that is measured, so seldom.
_DRAW_S = 0.5

EXAMPLE = """\b
Example:
  pushq bench wire --url https://localhost:8443 --cafile ca.pem \\
      --requests 1000000 --connections 1 --path-prefix /3/device/ --json
"""


class MeasurementStopped(PushqError):
    """The server went away in mid-run; what was counted until then has been printed."""


class _Server(click.ParamType[tuple[str, int]]):
    """``https://HOST:PORT`` as (host, port)."""

    name = "url"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "https://HOST:PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        expected = "expected https://HOST:PORT, such as https://localhost:8443"
        try:
            parts = urlsplit(value)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            self.fail(f"found {value!r} ({error}); {expected}", param, ctx)
        if parts.scheme != "https" or not host or port == 0:
            self.fail(f"found {value!r}; {expected}", param, ctx)
        if parts.username or parts.query or parts.fragment or parts.path not in ("", "/"):
            self.fail(f"found {value!r}; {expected}, and the path in --path-prefix", param, ctx)
        return host, port or 443


class _Header(click.ParamType[tuple[str, str]]):
    """``name: value`` as a pair."""

    name = "'NAME: VALUE'"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, colon, text = str(value).partition(":")
        if not colon or not name.strip():
            # The value may be a credential, so it is not repeated.
            self.fail("found no colon; expected 'name: value'", param, ctx)
        return name.strip().lower(), text.strip()


@click.command(epilog=EXAMPLE, context_settings={"show_default": True})
@click.option("--url", "server", type=_Server(), required=True, help="The server.")
@click.option(
    "--cafile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file of the authority to trust, instead of the system's.",
)
@click.option("--requests", type=click.IntRange(min=1), default=100_000, help="How many, all in all.")
@click.option(
    "--connections", type=click.IntRange(1, 1000), default=1, help="Opened before the clock starts."
)
@click.option(
    "--path-prefix", default="/3/device/", help="A token of 64 hex digits follows, another for each request."
)
@click.option(
    "--streams",
    type=click.IntRange(1, 100_000),
    default=1000,
    help="Requests in flight on a connection, if the server allows as many.",
)
@click.option(
    "--body-bytes", type=click.IntRange(MIN_BODY_BYTES, 1_000_000), default=150, help="Size of each body."
)
@click.option(
    "--body",
    type=click.Choice(["shared", "distinct"]),
    default="shared",
    help="One body for all, or another for each request.",
)
@click.option(
    "--header",
    "headers",
    type=_Header(),
    multiple=True,
    help="May be repeated. Without any: what an APNs worker sends, with a made-up credential.",
)
@click.option(
    "--request-ids", is_flag=True, help="Another apns-id header for each request, as APNs workers send it."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1, max=3600),
    default=30.0,
    help="Seconds for one request; a server that answers nothing for so long ends the run.",
)
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0.1),
    help="Begin no more requests after so many seconds.",
    show_default=False,
)
@json_option
def wire(
    *,
    server: tuple[str, int],
    cafile: Path | None,
    body: str,
    headers: tuple[tuple[str, str], ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the sender alone, against any HTTP/2 server that answers POST.

    Requests go through the pool that workers use, and each ends with an outcome of its own. `ok` are answers with status 200.
    CPU time is that of this process while it sends; making tokens and bodies is in it and printed by itself. Opening the
    connections, and one request on each to warm it, is not.
    """
    # gevent is only needed by who measures.
    from pushq.bench.wire import WireLoad, measure  # noqa: PLC0415

    load = WireLoad(
        origin=Origin(*server, ca_file=cafile),
        headers=headers or DEFAULT_HEADERS,
        distinct_bodies=body == "distinct",
        **options,
    )
    _check(load)
    # What the pool would log is in the result or in the error.
    logging.getLogger("pushq").addHandler(logging.NullHandler())
    out = console(stderr=True)
    with _progress(load.requests, out) as progress:
        result = measure(load, progress)
    if as_json:
        emit_json(report(load, result))
    else:
        _print(console(), load, result)
    if result.stopped is not None:
        raise MeasurementStopped(
            f"stopped after {result.requests:,} of {load.requests:,} requests: {result.stopped}"
        )


def _check(load: WireLoad) -> None:
    try:
        load.template()
    except InvalidRequest as error:
        option = "--path-prefix" if error.field == "template.path_prefix" else "--header"
        raise click.BadParameter(
            f"found {error.found}; expected {error.expected}", param_hint=option
        ) from error
    except UnicodeEncodeError as error:
        raise click.BadParameter(
            "found a character that a header cannot carry; expected Latin-1", param_hint="--header"
        ) from error


def report(load: WireLoad, result: WireResult) -> dict[str, Any]:
    """The result as ``--json`` prints it: the figures first, then what was asked for."""
    tenth = result.rss_mb_at_tenth
    return {
        "requests": result.requests,
        "ok": result.ok,
        "failed": result.failed,
        "wall_seconds": round(result.wall_seconds, 6),
        "cpu_seconds": round(result.cpu_seconds, 6),
        "per_second": round(result.per_second, 1),
        "per_cpu_second": round(result.per_cpu_second, 1),
        "peak_rss_mb": round(result.peak_rss_mb, 1),
        "rss_mb_at_tenth": None if tenth is None else round(tenth, 1),
        "preparing_cpu_seconds": round(result.preparing_cpu_seconds, 6),
        "statuses": {str(status): count for status, count in sorted(result.statuses.items())},
        "unanswered": dict(sorted(result.unanswered.items())),
        "resent": result.resent,
        "connections": load.connections,
        "streams": load.streams,
        "body_bytes": load.body_bytes,
        "body": "distinct" if load.distinct_bodies else "shared",
        "request_ids": load.request_ids,
        "stopped": result.stopped,
    }


@contextmanager
def _progress(total: int, out: Console) -> Iterator[Callable[[int], None] | None]:
    if not out.is_terminal:
        yield None
        return
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Without a thread that draws: it would compete with what is measured.
    with Progress(*columns, console=out, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=total)
        drawn_at = 0.0

        def show(done: int) -> None:
            nonlocal drawn_at
            now = time.monotonic()
            if now - drawn_at >= _DRAW_S:
                drawn_at = now
                bar.update(task, completed=done)
                bar.refresh()

        yield show


def _print(out: Console, load: WireLoad, result: WireResult) -> None:
    bodies = "a body for each" if load.distinct_bodies else "one body for all"
    out.print(
        f"{load.requests:,} requests, {load.connections} connection{'s' * (load.connections > 1)}, "
        f"bodies of {load.body_bytes:,} bytes, {bodies}",
        soft_wrap=True,
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row(f"{result.requests:,}", "requests")
    table.add_row(f"{result.ok:,}", "ok (status 200)")
    table.add_row(f"{result.failed:,}", "failed")
    for status, count in sorted(result.statuses.items()):
        if status != 200:
            table.add_row(f"{count:,}", f"  status {status}")
    for reason, count in sorted(result.unanswered.items()):
        table.add_row(f"{count:,}", f"  no answer: {reason}")
    if result.resent:
        table.add_row(f"{result.resent:,}", "sent again, because surely not processed")
    table.add_row(f"{result.wall_seconds:,.2f}", "seconds")
    table.add_row(
        f"{result.cpu_seconds:,.2f}",
        f"CPU seconds, {result.preparing_cpu_seconds:,.2f} of them for making tokens and bodies",
    )
    table.add_row(f"{result.per_second:,.0f}", "requests a second")
    table.add_row(f"{result.per_cpu_second:,.0f}", "requests per CPU second")
    table.add_row(f"{result.peak_rss_mb:,.1f}", "MiB of memory at most")
    out.print(table)
