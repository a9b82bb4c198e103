"""Sends: the list, one of them, and the brake."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from pushq import control
from pushq.access.principal import Principal
from pushq.database import Database
from pushq.delivery.preview import face, imagined_devices, show
from pushq.delivery.rehearsal import needed_values
from pushq.errors import InvalidRequest
from pushq.ledger import board
from pushq.ledger import progress as ledger
from pushq.ledger.pace import Speed, duration
from pushq.ledger.progress import COUNTS, Progress
from pushq.ledger.replay import REPLAYABLE
from pushq.ledger.sends import FINAL_STATES, UnknownSend
from pushq.ledger.sends import load as load_send
from pushq.submission import MAX_RATE
from pushq.web.console import charts, live
from pushq.web.console.forms import Filled
from pushq.web.console.pages import OUTCOMES, STATES, fragment, page, percent
from pushq.web.console.routing import PageRoute, go_to, note_of
from pushq.web.pagination import after_send, encode
from pushq.web.security import csrf_token, session
from pushq.web.state import State, WebState

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Reader = Annotated[Principal, Depends(session("sends:read"))]
Controller = Annotated[Principal, Depends(session("sends:control"))]

PAGE: Final = 25
#: Apart: services send single messages all day long, and a broadcast must still be found.
KINDS: Final = ("broadcast", "transactional")
#: Ended sends whose sums are remembered: nobody counts 4,000 batches twice a second.
REMEMBERED: Final = 500
#: Seconds between two looks at what the last day brought.
STATS_EVERY_S: Final = 5.0
#: Most outcomes come first in a bar; what waits is its rest.
_DRAWN: Final = (*COUNTS,)


class Sums:
    """How far sends are: those that have ended are counted once."""

    def __init__(self) -> None:
        self._ended: dict[tuple[uuid.UUID, Any], dict[str, int]] = {}

    def of(self, database: Database, rows: Sequence[Mapping[str, Any]]) -> dict[uuid.UUID, dict[str, int]]:
        known = {row["id"]: self._ended.get((row["id"], row["finished_at"])) for row in rows}
        asked = [send_id for send_id, sums in known.items() if sums is None]
        fresh = board.counts(database, asked)
        for row in rows:
            sums = fresh.get(row["id"])
            # A send that was cancelled may still have batches with a worker.
            if sums is not None and row["state"] in FINAL_STATES and not sums["pending"]:
                self._ended[row["id"], row["finished_at"]] = sums
        while len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]
        return {send_id: sums if sums is not None else fresh[send_id] for send_id, sums in known.items()}


@dataclass
class Rooms:
    """What the console keeps beside the application's state."""

    glances: live.Glances
    sums: Sums
    speeds: dict[uuid.UUID, Speed]


def rooms_of(request: Request) -> Rooms:
    """The console's own state; made by the first who asks."""
    app = request.app
    found: Rooms | None = getattr(app.state, "console", None)
    if found is None:
        found = app.state.console = Rooms(live.Glances(), Sums(), {})
    return found


def _apps(who: Principal) -> tuple[str, ...] | None:
    return None if who.apps is None else tuple(sorted(who.apps))


@router.get("/console/")
async def sends(
    request: Request, web: State, who: Reader, kind: str = "broadcast", cursor: str | None = None
) -> Response:
    """The newest sends."""
    return page(
        request,
        who,
        "sends.html",
        here="sends",
        note=note_of(request),
        query="?" + urlencode({"kind": kind} | ({"cursor": cursor} if cursor else {})),
        **await _list(request, web, who, kind, cursor),
    )


@router.get("/console/live")
async def sends_live(
    request: Request, web: State, who: Reader, kind: str = "broadcast", cursor: str | None = None
) -> Response:
    """The same, for as long as somebody looks."""

    async def part() -> live.Part:
        return fragment("sends_live.html", **await _list(request, web, who, kind, cursor)), False

    return live.stream(web, rooms_of(request).glances, part, every_s=1.0)


async def _list(
    request: Request, web: WebState, who: Principal, kind: str, cursor: str | None
) -> dict[str, Any]:
    if kind not in KINDS:
        raise InvalidRequest("kind", repr(kind)[:40], f"one of: {', '.join(KINDS)}")
    rooms = rooms_of(request)
    apps = _apps(who)
    after = after_send(cursor)

    def read() -> tuple[list[dict[str, Any]], dict[uuid.UUID, dict[str, int]]]:
        rows = ledger.recent(web.database, PAGE, after=after, apps=apps, kind=kind)
        return rows, rooms.sums.of(web.database, rows)

    rows, sums = await rooms.glances.look(("list", apps, kind, cursor), lambda: web.short.run(read))
    stats = None
    if cursor is None and kind == "broadcast":
        stats = await rooms.glances.look(
            ("today", apps), lambda: web.short.run(board.today, web.database, apps), every_s=STATS_EVERY_S
        )
        scheduled = sum(row["state"] == "scheduled" for row in rows)
        waiting = sum(sums[row["id"]]["pending"] for row in rows if row["state"] not in FINAL_STATES)
        under_way = sum(row["state"] not in FINAL_STATES for row in rows) - scheduled
        stats = {**stats, "open": under_way, "scheduled": scheduled, "pending": waiting} if rows else None
    return {
        "rows": [_row(row, sums[row["id"]]) for row in rows],
        "stats": stats,
        "next": _next(kind, rows),
        "kind": kind,
        "may_send": who.may("send"),
    }


def _next(kind: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The query for the page after these rows."""
    if len(rows) < PAGE:
        return None
    return urlencode({"kind": kind, "cursor": encode(rows[-1]["created_at"], rows[-1]["id"])})


def _row(row: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        **row,
        "counts": counts,
        "bar": charts.bar(counts, _DRAWN, counts["devices"]),
        "bar_label": _bar_label(counts),
    }


def _bar_label(counts: Mapping[str, int]) -> str:
    told = [f"{counts[name]:,} {OUTCOMES[name][0].lower()}" for name in (*COUNTS, "pending") if counts[name]]
    return ", ".join(told) or "nothing yet"


@router.get("/console/sends/{send_id}")
async def send(request: Request, web: State, who: Reader, send_id: uuid.UUID) -> Response:
    """One send."""
    try:
        view = await _look(request, web, send_id)
    except UnknownSend:
        return await _on_its_way(request, web, who, send_id)
    who.check_app(view["send"].app)
    said = await web.short.run(board.message, web.database, send_id)
    shown = await web.short.run(_faces, web, send_id)
    return page(
        request,
        who,
        "send.html",
        here="sends",
        note=note_of(request),
        notification=said["notification"],
        audience=audience_text(said["audience"]),
        key=said["idempotency_key"],
        shown=shown,
        replayable=tuple(REPLAYABLE),
        **_for(request, who, view),
    )


@router.get("/console/sends/{send_id}/live")
async def send_live(request: Request, web: State, who: Reader, send_id: uuid.UUID) -> Response:
    """The same, for as long as somebody looks; an ended send ends it."""
    allowed = False

    async def part() -> live.Part:
        nonlocal allowed
        view = await _look(request, web, send_id)
        if not allowed:
            who.check_app(view["send"].app)
            allowed = True
        return fragment("send_live.html", **_for(request, who, view)), view["send"].finished

    return live.stream(web, rooms_of(request).glances, part)


async def _on_its_way(request: Request, web: WebState, who: Principal, send_id: uuid.UUID) -> Response:
    """A call that the broker has and the ledger does not yet; the page asks again by itself."""
    noted = await web.short.run(web.claims.noted, send_id)
    if noted is None:
        raise UnknownSend(f"No send has the id {send_id}")
    if noted.app is not None:
        who.check_app(noted.app)
    return page(request, who, "send_waiting.html", here="sends", note=None, send_id=send_id)


def _for(request: Request, who: Principal, view: Mapping[str, Any]) -> dict[str, Any]:
    return {**view, "csrf": csrf_token(request), "may_control": who.may("sends:control")}


async def _look(request: Request, web: WebState, send_id: uuid.UUID) -> dict[str, Any]:
    rooms = rooms_of(request)

    def read() -> dict[str, Any]:
        state = ledger.progress(web.database, send_id)
        failures = ledger.reasons(web.database, send_id, limit=10)
        parked = ledger.parked(web.database, send_id, limit=10) if state.parked else []
        title = board.title(web.database, send_id)
        return _view(
            state, failures, parked, board.timeline(web.database, send_id), title, _rate(rooms, state)
        )

    found: dict[str, Any] = await rooms.glances.look(("send", send_id), lambda: web.short.run(read))
    return found


def _rate(rooms: Rooms, state: Progress) -> float | None:
    """Recipients a second at present; of an ended send, on average."""
    if state.state in FINAL_STATES:
        rooms.speeds.pop(state.id, None)
        return state.settled / state.seconds if state.seconds > 0 else 0.0
    if len(rooms.speeds) > REMEMBERED:
        del rooms.speeds[next(iter(rooms.speeds))]
    return rooms.speeds.setdefault(state.id, Speed()).rate(time.monotonic(), state.settled)


def _view(
    state: Progress,
    failures: Sequence[Mapping[str, Any]],
    parked: Sequence[Mapping[str, Any]],
    timeline: board.Timeline | None,
    title: str | None,
    rate: float | None,
) -> dict[str, Any]:
    totals = {name: state.total(name) for name in ("devices", *COUNTS, "pending")}
    settled, devices = state.settled, totals["devices"]
    share = settled * 100 // devices if devices else (100 if state.finished else 0)
    most = max((row["recipients"] for row in failures), default=0)
    chart = None
    if timeline is not None:
        chart = charts.columns(
            timeline.times, timeline.step, {"accepted": timeline.accepted, "other": timeline.other}
        )
    return {
        "send": state,
        "title": title or "Silent message",
        "totals": totals,
        "settled": settled,
        "share": share,
        "share_text": percent(settled, devices) if devices else (STATES[state.state]),
        "rate": rate if state.state != "paused" else 0,
        "eta": _eta(state, rate, totals["pending"]),
        "parts": charts.bar(totals, _DRAWN, devices),
        "bar_label": _bar_label(totals),
        "shown_counts": [
            name for name in (*COUNTS, "pending") if totals[name] or name in ("accepted", "pending")
        ],
        "platforms": [_platform(name, counts) for name, counts in state.platforms.items()],
        "reasons": [_reason(row, most) for row in failures],
        "parked": parked,
        "chart": chart,
        "chart_label": f"Settled recipients over time: {totals['accepted']:,} accepted, {settled - totals['accepted']:,} not reached",
        "can_replay": any(totals[name] for name in REPLAYABLE),
        "spoken": _spoken(state, share),
    }


def _eta(state: Progress, rate: float | None, pending: int) -> str | None:
    if state.state in FINAL_STATES:
        return f"{state.seconds:.1f} s" if state.seconds < 10 else duration(state.seconds)
    if state.state == "sending" and rate and pending:
        return duration(pending / rate)
    return None


def _spoken(state: Progress, share: int) -> str:
    """What a screen reader is told: the state, and every quarter of the way."""
    if state.state == "sending":
        return f"Sending, {share // 25 * 25} percent settled" if share >= 25 else "Sending"
    return STATES[state.state]


def _platform(name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "platform": name,
        "counts": counts,
        "other": sum(counts[each] for each in COUNTS if each not in ("accepted", "dead")),
        "bar": charts.bar(counts, _DRAWN, counts["devices"]),
        "label": _bar_label(counts),
    }


def _reason(row: Mapping[str, Any], most: int) -> dict[str, Any]:
    column = row["outcome"] if row["outcome"] in OUTCOMES else "rejected"
    return {
        **row,
        "column": column,
        "bar": charts.bar({column: row["recipients"]}, (column,), most),
    }


def _faces(web: WebState, send_id: uuid.UUID) -> list[dict[str, Any]]:
    """What phones show of a stored send, on an imagined device of each of its platforms."""
    with web.database.begin() as connection:
        known = load_send(connection, send_id)
        planned = connection.exec_driver_sql(
            "SELECT DISTINCT platform FROM send_batches WHERE send_id = %s ORDER BY 1", (send_id,)
        ).scalars()
        platforms = list(planned)
    app = web.apps.get(known.app)
    if app is None or known.target is not None:
        return []
    stand_ins = {name: name for name in needed_values(known.notification)}
    values = {0: stand_ins} if stand_ins else {}
    known = replace(known, values=values)
    shown = [
        show(known, app, device, imagined=True)
        for device in imagined_devices(platforms or tuple(app.platforms()))
    ]
    return [{"shown": each, "face": face(each)} for each in shown]


def audience_text(audience: Mapping[str, Any]) -> str:
    """An audience in words."""
    told = []
    for key, called in (("topic", "topic"), ("condition", "topics"), ("channel", "channel")):
        if audience.get(key):
            return f"{called} {audience[key]}"
    users = audience.get("user_ids")
    segments = [name for name in audience.get("segments", ()) if name != "all"]
    if users:
        told.append(f"{len(users):,} single users" if len(users) > 1 else f"user {users[0]}")
    elif segments:
        told.append("users in " + " or ".join(segments))
    else:
        told.append("everybody")
    if audience.get("exclude_segments"):
        told.append("but not in " + ", ".join(audience["exclude_segments"]))
    if audience.get("filter"):
        told.append("by a filter on " + ", ".join(audience["filter"]))
    if audience.get("platforms"):
        told.append("only on " + ", ".join(audience["platforms"]))
    return ", ".join(told)


async def _order(
    request: Request, web: WebState, send_id: uuid.UUID, act: Callable[[], control.Change], note: str
) -> Response:
    """Who does it is checked and put on record in the same transaction (pushq.control)."""
    change = await web.short.run(act)
    rooms_of(request).glances.changed(("send", send_id))
    return go_to(f"/console/sends/{send_id}", note if change.changed else "late")


@router.post("/console/sends/{send_id}/pause")
async def pause(request: Request, web: State, who: Controller, send_id: uuid.UUID) -> Response:
    """Hold a send."""
    return await _order(
        request, web, send_id, lambda: control.pause(send_id, by=who, database=web.database), "paused"
    )


@router.post("/console/sends/{send_id}/resume")
async def resume(request: Request, web: State, who: Controller, send_id: uuid.UUID, form: Filled) -> Response:
    """Let a held send go on."""
    trust = form.on("trust_rejections")
    return await _order(
        request,
        web,
        send_id,
        lambda: control.resume(send_id, trust_rejections=trust, by=who, database=web.database),
        "resumed",
    )


@router.post("/console/sends/{send_id}/cancel")
async def cancel(request: Request, web: State, who: Controller, send_id: uuid.UUID) -> Response:
    """End a send for good."""
    return await _order(
        request, web, send_id, lambda: control.cancel(send_id, by=who, database=web.database), "cancelled"
    )


@router.post("/console/sends/{send_id}/rate")
async def rate(request: Request, web: State, who: Controller, send_id: uuid.UUID, form: Filled) -> Response:
    """Change a send's speed; without a number it has no limit of its own."""
    wanted = form.number("rate", "rate", 1, MAX_RATE)
    return await _order(
        request,
        web,
        send_id,
        lambda: control.set_rate(send_id, wanted, by=who, database=web.database),
        "rate",
    )


@router.post("/console/sends/{send_id}/replay")
async def replay(request: Request, web: State, who: Controller, send_id: uuid.UUID, form: Filled) -> Response:
    """Send again to those who were not reached."""
    outcomes = form.texts("outcome")
    if not outcomes:
        raise InvalidRequest("outcome", "none", "at least one")
    done = await web.long.run(
        control.replay, send_id, outcomes, may_duplicate="unknown" in outcomes, by=who, database=web.database
    )
    rooms_of(request).glances.changed(("send", send_id))
    return go_to(f"/console/sends/{send_id}", "replayed" if done.recipients else "nobody")
