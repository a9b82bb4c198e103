"""Pages: templates, what they may call, and what every page has."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pushq.access.principal import Principal
from pushq.ledger.pace import duration
from pushq.ledger.progress import COUNTS
from pushq.platforms import PLATFORMS, TITLES
from pushq.providers.meanings import meaning
from pushq.web.security import csrf_token

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"
THEME_COOKIE: Final = "pushq_theme"
THEMES: Final = ("light", "dark")

#: What a page of the menu is called, where it is, its picture, and what somebody needs to see it.
MENU: Final = (
    ("sends", "Sends", "/console/", "send", "sends:read"),
    ("dead-letters", "Dead letters", "/console/dead-letters", "letter", "sends:read"),
    ("devices", "Devices", "/console/devices", "phone", "devices"),
    ("queues", "Queues", "/console/queues", "queue", "sends:read"),
    ("credentials", "Credentials", "/console/credentials", "key", "sends:read"),
    ("access", "Access", "/console/access", "people", "audit:read"),
)

#: For what is not known.
DASH: Final = "\N{EN DASH}"

#: Outcomes in words for people, and what each means.
OUTCOMES: Final[Mapping[str, tuple[str, str]]] = {
    "accepted": ("Accepted", "the provider took the message"),
    "dead": ("Dead token", "the app is gone from the phone, or the token is out of date"),
    "rejected": ("Rejected", "the provider refused the message"),
    "exhausted": ("Gave up", "tried as often as allowed, without success"),
    "expired": ("Expired", "its time was over before it could be delivered"),
    "suppressed": ("Left out", "the device was taken out of use meanwhile"),
    "cancelled": ("Cancelled", "the send was cancelled before its turn"),
    "unknown": ("Unknown", "no answer came; it may have arrived, and is not repeated"),
    "pending": ("Waiting", "not sent yet"),
}
STATES: Final[Mapping[str, str]] = {
    "queued": "Queued",
    "scheduled": "Scheduled",
    "planning": "Planning",
    "sending": "Sending",
    "paused": "Paused",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
}


def number(value: float | None) -> str:
    """With thin separators; a dash for what is not known."""
    if value is None:
        return DASH
    return f"{value:,.0f}"


def short(value: float) -> str:
    """For an axis: 1.2k, 3M."""
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{sign}"
    return f"{value:.0f}"


def percent(part: float, whole: float) -> str:
    """Never 0 or 100 for what is not."""
    if whole <= 0:
        return "0%"
    share = part / whole * 100
    if 0 < share < 0.1:
        return "<0.1%"
    if 99.9 < share < 100:
        return ">99.9%"
    return f"{share:.0f}%" if share in (0, 100) or share >= 10 else f"{share:.1f}%"


def moment(value: datetime | None, style: str = "full") -> Markup:
    """A time as an element; the browser writes it in its own zone and language."""
    if value is None:
        return escape(DASH)
    utc = value.astimezone(UTC)
    shown = {"full": f"{utc:%Y-%m-%d %H:%M} UTC", "day": f"{utc:%Y-%m-%d}", "time": f"{utc:%H:%M}"}.get(
        style, f"{utc:%Y-%m-%d %H:%M} UTC"
    )
    return Markup('<time datetime="{}" data-style="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), style, shown
    )


def pretty(value: Any) -> str:
    """A JSON document for reading; text that is JSON likewise."""
    document = orjson.loads(value) if isinstance(value, str | bytes) else value
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()


def static(name: str) -> str:
    """The address of a file; it changes with the file's content, so that browsers may keep it for good."""
    return f"/console/static/{_version()}/{name}"


@cache
def _version() -> str:
    """Of all static files together: modules import each other by relative addresses."""
    found = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


@cache
def _file(name: str) -> tuple[bytes, str] | None:
    path = STATIC / name
    if "/" in name or not path.is_file():
        return None
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return path.read_bytes(), "text/javascript" if name.endswith(".js") else kind


def static_file(version: str, name: str) -> Response | None:
    """A file of this version, to be kept; one of another version is the present one, not to be kept."""
    found = _file(name)
    if found is None:
        return None
    content, kind = found
    keep = "public, max-age=31536000, immutable" if version == _version() else "no-cache"
    return Response(content, media_type=kind, headers={"Cache-Control": keep})


@cache
def environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.filters |= {
        "number": number,
        "short": short,
        "moment": moment,
        "duration": duration,
        "pretty": pretty,
    }
    env.globals |= {
        "percent": percent,
        "meaning": meaning,
        "static": static,
        "MENU": MENU,
        "OUTCOMES": OUTCOMES,
        "STATES": STATES,
        "COUNTS": COUNTS,
        "PLATFORMS": PLATFORMS,
        "TITLES": TITLES,
        "FINAL": ("done", "failed", "cancelled"),
    }
    return env


def theme(request: Request) -> str:
    """The theme that was chosen; empty: the system's."""
    chosen = request.cookies.get(THEME_COOKIE, "")
    return chosen if chosen in THEMES else ""


def page(
    request: Request, principal: Principal, template: str, *, status: int = 200, **context: Any
) -> HTMLResponse:
    """A whole page for somebody who is signed in."""
    shared = {
        "request": request,
        "who": principal,
        "csrf": csrf_token(request),
        "theme": theme(request),
        "now": datetime.now(UTC),
    }
    return HTMLResponse(
        environment().get_template(template).render(shared | context),
        status,
        headers={"Cache-Control": "no-store"},
    )


def fragment(template: str, **context: Any) -> str:
    """A part of a page, for one that is alive."""
    return environment().get_template(template).render(now=datetime.now(UTC), **context)


def bare(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """A page for somebody who is not signed in, or who cannot be shown another."""
    return HTMLResponse(
        environment().get_template(template).render(request=request, theme=theme(request), **context),
        status,
        headers={"Cache-Control": "no-store"},
    )
