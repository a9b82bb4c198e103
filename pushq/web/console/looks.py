"""Things to look at: dead letters, devices, queues, credentials."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from pushq.access.principal import Principal
from pushq.errors import InvalidRequest, PushqError
from pushq.ledger.dead_letters import OTHER, SPANS, Filter, history, newest
from pushq.observe.crew import Crew, crew
from pushq.observe.queues import queues_of
from pushq.providers import expiry
from pushq.tokens.lookup import devices_of
from pushq.web.console import charts, live
from pushq.web.console.pages import fragment, page
from pushq.web.console.routing import PageRoute, note_of, whole, words
from pushq.web.console.sends import Reader, rooms_of
from pushq.web.security import session
from pushq.web.state import State, WebState

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: Single dead letters on the page.
NEWEST: Final = 25
#: Seconds between two looks into the broker.
QUEUES_EVERY_S: Final = 2.0
_QUEUE_PARTS: Final = ("held", "waiting")
#: Days of a certificate's life that its bar shows.
_FULL_DAYS: Final = 365


@router.get("/console/dead-letters")
async def dead_letters(
    request: Request,
    web: State,
    who: Reader,
    span: str = "day",
    platform: str | None = None,
    reason: str | None = None,
    send: uuid.UUID | None = None,
) -> Response:
    """Why messages did not arrive, over time."""
    apps = None if who.apps is None else tuple(sorted(who.apps))
    only = Filter(apps, platform, reason, send)
    now = datetime.now(UTC)
    found = await web.long.run(history, web.database, span, now=now, only=only)
    letters = await web.long.run(newest, web.database, span, now=now, only=only, limit=NEWEST)
    names = [f"{number % 7 + 1}" for number in range(len(found.reasons))]
    classes = {each.reason: name for each, name in zip(found.reasons, names, strict=True)}
    if OTHER in classes:
        classes[OTHER] = "cancelled"
    series = {classes[each.reason]: each.series for each in found.reasons}
    asked: dict[str, Any] = {"span": span, "platform": platform, "reason": reason, "send": send}

    def link(**changed: Any) -> str:
        return urlencode({name: value for name, value in (asked | changed).items() if value is not None})

    return page(
        request,
        who,
        "dead_letters.html",
        here="dead-letters",
        note=note_of(request),
        found=found,
        newest=letters,
        chart=charts.columns(found.times, found.step, series),
        names=list(series),
        called={classes[each.reason]: each.reason for each in found.reasons},
        classes=classes,
        chart_label=f"{found.recipients:,} dead letters: "
        + ", ".join(f"{each.reason} {each.recipients:,}" for each in found.reasons),
        spans=tuple(SPANS),
        link=link,
        **asked,
    )


@router.get("/console/devices")
async def devices(
    request: Request,
    web: State,
    who: Annotated[Principal, Depends(session("devices"))],
    user: str | None = None,
) -> Response:
    """The devices of one user."""
    found, fault = None, None
    if user is not None and user.strip():
        try:
            known = await web.short.run(devices_of, web.database, whole(user, "user id"), limit=200)
            found = [each for each in known if who.may_app(each.app)]
        except InvalidRequest as error:
            fault = words(error)
    return page(
        request,
        who,
        "devices.html",
        status=422 if fault else 200,
        here="devices",
        note=note_of(request),
        asked=(user or "").strip()[:40],
        devices=found,
        fault=fault,
    )


@router.get("/console/queues")
async def queues(request: Request, web: State, who: Reader) -> Response:
    """What waits in the broker, and who takes it."""
    return page(
        request, who, "queues.html", here="queues", note=note_of(request), **await _queues(request, web)
    )


@router.get("/console/queues/live")
async def queues_live(request: Request, web: State, who: Reader) -> Response:
    """The same, for as long as somebody looks."""

    async def part() -> live.Part:
        return fragment("queues_live.html", **await _queues(request, web)), False

    return live.stream(web, rooms_of(request).glances, part, every_s=QUEUES_EVERY_S)


async def _queues(request: Request, web: WebState) -> dict[str, Any]:
    try:
        found: Crew = await rooms_of(request).glances.look(
            "queues", lambda: web.long.run(_crew, web), every_s=QUEUES_EVERY_S
        )
    except PushqError as error:
        return {"fault": words(error), "crew": None, "lines": []}
    most = max(((line.ready or 0) + (line.unacked or 0) for line in found.queues), default=0)
    lines = [
        {
            "queue": line,
            "bar": charts.bar(
                {"held": line.unacked or 0, "waiting": line.ready or 0}, _QUEUE_PARTS, max(most, 10)
            ),
        }
        for line in found.queues
    ]
    return {"fault": None, "crew": found, "lines": lines}


def _crew(web: WebState) -> Crew:
    broker = queues_of(web.settings)
    try:
        return crew(web.settings.model_copy(update={"apps": web.apps}), broker.broker, broker.depths())
    finally:
        broker.close()


@router.get("/console/credentials")
async def credentials(request: Request, web: State, who: Reader) -> Response:
    """What apps are known by at their providers, and when it ends."""
    now = datetime.now(UTC)
    apps = {name: app for name, app in web.apps.items() if who.may_app(name)}
    found = await asyncio.shield(web.short.run(expiry.credentials, apps))
    told = []
    for each in found:
        days = None if each.expires_at is None else max(0, (each.expires_at - now).days)
        left = None if days is None else min(days / _FULL_DAYS, 1.0) * charts.WIDTH
        told.append({"credential": each, "state": each.state(now), "days": days, "left": left})
    return page(request, who, "credentials.html", here="credentials", note=note_of(request), found=told)
