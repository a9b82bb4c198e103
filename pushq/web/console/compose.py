"""Writing a message: the form with its preview and its count, a test, the review, and the send."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pushq.access.principal import Forbidden, Principal
from pushq.audience.request import parse_audience
from pushq.audience.segments import list_segments
from pushq.audience.survey import survey
from pushq.delivery.composing import send_of
from pushq.delivery.dry_run import dry_run
from pushq.delivery.preview import Face, Shown, face, imagined_devices, show
from pushq.delivery.rehearsal import needed_values
from pushq.errors import InvalidRequest, PushqError
from pushq.ledger import board
from pushq.ledger import progress as ledger
from pushq.ledger.sends import sendable_platforms
from pushq.notification import Notification, parse_notification
from pushq.rendering.languages import parse as parse_language
from pushq.submission import submit
from pushq.tokens.lookup import addressed
from pushq.web.console.draft import Draft, draft_of
from pushq.web.console.forms import Filled
from pushq.web.console.pages import fragment, page
from pushq.web.console.routing import PART, PageRoute, go_to, note_of, whole, words
from pushq.web.console.sends import audience_text
from pushq.web.security import security_of, session
from pushq.web.state import State, WebState

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Sender = Annotated[Principal, Depends(session("send"))]
#: Devices of one user that a preview shows.
MOST_SHOWN: Final = 6


@dataclass(frozen=True)
class Preview:
    """What phones show, or why that cannot be said."""

    shown: Sequence[Mapping[str, Any]] = ()
    needed: Sequence[str] = ()
    fault: str | None = None


@dataclass(frozen=True)
class Count:
    """How many devices there are, by platform; and how many of them lack a value that the message needs."""

    platforms: Mapping[str, int] = field(default_factory=dict)
    without: Mapping[str, int] = field(default_factory=dict)
    fault: str | None = None

    @property
    def devices(self) -> int:
        return sum(self.platforms.values())


@dataclass(frozen=True)
class Tested:
    """What became of a test."""

    user: int = 0
    id: uuid.UUID | None = None
    fault: str | None = None


def _apps(web: WebState, who: Principal) -> list[str]:
    """Apps that somebody may send for.

    Raises:
        Forbidden: none of them.
    """
    found = sorted(app for app in web.apps if who.may_app(app))
    if not found:
        raise Forbidden("an app that is configured here (PUSHQ_CONFIG)")
    return found


def _app(web: WebState, who: Principal, asked: str | None) -> str:
    apps = _apps(web, who)
    if asked is None:
        return apps[0]
    if asked not in apps:
        raise Forbidden(f"app {asked[:63]}")
    return asked


@router.get("/console/compose")
async def compose(request: Request, web: State, who: Sender, app: str | None = None) -> Response:
    """An empty form; or, with ``from``, one that says what a send said."""
    draft = Draft()
    source = request.query_params.get("from")
    if source is not None:
        draft, app = await _copied(web, who, source)
    return await _form(request, web, who, _app(web, who, app), draft)


async def _copied(web: WebState, who: Principal, source: str) -> tuple[Draft, str]:
    try:
        send_id = uuid.UUID(source)
    except ValueError:
        raise InvalidRequest("from", repr(source[:40]), "a send's id") from None
    who.check("sends:read")
    state = await web.short.run(ledger.progress, web.database, send_id)
    who.check_app(state.app)
    said = await web.short.run(board.message, web.database, send_id)
    options = {"guarantee": state.guarantee, "rate": state.rate}
    return draft_of(said["notification"], said["audience"], options), state.app


async def _form(
    request: Request, web: WebState, who: Principal, app: str, draft: Draft, *, tested: Tested | None = None
) -> Response:
    segments = await web.short.run(list_segments, web.database, app)
    return page(
        request,
        who,
        "compose.html",
        status=422 if draft.faults else 200,
        here="compose",
        note=note_of(request),
        draft=draft,
        app=app,
        apps=_apps(web, who),
        platforms=tuple(web.apps[app].platforms()),
        segments=segments[:200],
        preview=await _preview(web, app, draft),
        audience=None,
        tested=tested,
    )


@router.post("/console/compose/preview")
async def preview(web: State, who: Sender, form: Filled) -> Response:
    """What phones show."""
    app = _app(web, who, form.text("app"))
    return HTMLResponse(
        fragment("compose_preview.html", preview=await _preview(web, app, Draft(form)), app=app)
    )


async def _preview(web: WebState, app: str, draft: Draft) -> Preview:
    try:
        given = draft.notification()
        if not given:
            return Preview(fault="Write a title or a text, and see it here as phones will show it.")
        return await web.short.run(_previewed, web, app, draft, given)
    except PushqError as error:
        return Preview(fault=words(error))


def _previewed(web: WebState, app: str, draft: Draft, given: Mapping[str, Any]) -> Preview:
    settings = web.apps[app]
    chosen = draft.form.texts("platform")
    platforms = [name for name in settings.platforms() if not chosen or name in chosen]
    notification = parse_notification(given)
    send = send_of(
        submit(
            "broadcast",
            notification=notification,
            audience={"segments": ["all"], "platforms": platforms},
            guarantee=draft.chosen("guarantee")[0],
            idempotency_key=draft.raw("key"),
            called_at=datetime.now(UTC),
            app=app,
        ),
        app,
    )
    user = draft.form.text("preview_user")
    if user is not None:
        user_id = whole(user, "user")
        devices = [d for d in addressed(web.database, app, user_id) if d.platform in platforms][:MOST_SHOWN]
        if not devices:
            return Preview(fault=f"User {user_id} has no active device in {app}.")
        return Preview([_shown(show(send, settings, each, imagined=False)) for each in devices])
    language = draft.form.text("preview_language")
    if language is not None:
        language = parse_language(language, "language")
    needed = needed_values(notification)
    send = replace(send, values={0: {name: name for name in needed}})
    devices = imagined_devices(platforms, language=language)
    return Preview([_shown(show(send, settings, each, imagined=True)) for each in devices], needed)


def _shown(shown: Shown) -> dict[str, Shown | Face]:
    return {"shown": shown, "face": face(shown)}


@router.post("/console/compose/audience")
async def audience(web: State, who: Sender, form: Filled) -> Response:
    """How many get it."""
    app = _app(web, who, form.text("app"))
    return HTMLResponse(fragment("compose_audience.html", audience=await _count(web, app, Draft(form))))


async def _count(web: WebState, app: str, draft: Draft) -> Count:
    try:
        people = parse_audience(draft.audience())
    except InvalidRequest as error:
        return Count(fault=f"Nobody yet: {error.expected}." if error.found == "none" else words(error))
    try:
        names = _names(draft)
        found = await web.long.run(_surveyed, web, app, people, names)
    except PushqError as error:
        return Count(fault=words(error))
    platforms = {name: part.devices for name, part in found.items() if name in web.apps[app].platforms()}
    lacking: dict[str, int] = {}
    for part in found.values():
        for name, many in part.without.items():
            lacking[name] = lacking.get(name, 0) + many
    return Count(platforms, {name: many for name, many in lacking.items() if many})


def _names(draft: Draft) -> Sequence[str]:
    """Values that the message needs; none while it cannot be read."""
    try:
        notification: Notification = parse_notification(draft.notification())
    except InvalidRequest:
        return ()
    return needed_values(notification)


def _surveyed(web: WebState, app: str, people: Any, names: Sequence[str]) -> Any:
    with web.database.begin() as connection:
        return survey(connection, app, people, names)


@router.post("/console/compose/test")
async def test(request: Request, web: State, who: Sender, form: Filled) -> Response:
    """Send it to one user, now."""
    app = _app(web, who, form.text("app"))
    draft = Draft(form)
    try:
        user = whole(form.text("test_user") or "", "user id")
        if not await web.short.run(addressed, web.database, app, user, limit=1):
            raise InvalidRequest("user id", f"{user}, who has no active device in {app}", "a user with one")
        submission = draft.submission(app, datetime.now(UTC), test_user=user)
        accepted = await web.enqueuer.enqueue(submission)
        security_of(request).audit.add(
            who,
            "send.create",
            app=app,
            object_id=str(accepted.send_id),
            detail={"kind": "transactional", "test": True},
        )
        tested = Tested(user, accepted.send_id)
    except PushqError as error:
        tested = Tested(fault=words(error))
    if PART in request.headers:
        return HTMLResponse(fragment("compose_tested.html", tested=tested))
    return await _form(request, web, who, app, draft, tested=tested)


@router.post("/console/compose/back")
async def back(request: Request, web: State, who: Sender, form: Filled) -> Response:
    """The form again, as it was."""
    return await _form(request, web, who, _app(web, who, form.text("app")), Draft(form))


@router.post("/console/compose/review")
async def review(request: Request, web: State, who: Sender, form: Filled) -> Response:
    """What will be sent, to whom and when; or the form, with what has to be corrected."""
    app = _app(web, who, form.text("app"))
    draft = Draft(form)
    try:
        submission = draft.submission(app, datetime.now(UTC))
        sendable_platforms(submission, web.apps[app], app)
    except InvalidRequest as error:
        draft.blame(error)
        return await _form(request, web, who, app, draft)
    count = await _count(web, app, draft)
    if count.fault is not None:
        draft.faults[""] = count.fault
        return await _form(request, web, who, app, draft)
    return page(
        request,
        who,
        "review.html",
        here="compose",
        note=None,
        app=app,
        audience=count,
        audience_text=audience_text(draft.audience()),
        send_at=submission.send_at,
        rate=submission.rate,
        guarantee=submission.guarantee,
        preview=await _preview(web, app, draft),
        fields=[*draft.fields(), ("csrf_token", request.state.csrf_token)],
    )


@router.post("/console/compose/check")
async def check(web: State, who: Sender, form: Filled) -> Response:
    """What the providers say, without delivering anything."""
    app = _app(web, who, form.text("app"))
    submission = Draft(form).submission(app, datetime.now(UTC))
    settings = web.settings.model_copy(update={"apps": web.apps})
    _, found = await web.long.run(dry_run, settings, web.database, submission)
    told = [
        {
            "platform": each.platform,
            "note": each.said.note,
            "validated": each.said.validated,
            "objections": each.said.objections,
        }
        for each in found
    ]
    return HTMLResponse(fragment("check.html", found=told))


@router.post("/console/compose/send")
async def send(request: Request, web: State, who: Sender, form: Filled) -> Response:
    """Hand it to the workers. Sent twice, the same form is the same send."""
    app = _app(web, who, form.text("app"))
    draft = Draft(form)
    try:
        submission = draft.submission(app, datetime.now(UTC))
    except InvalidRequest as error:
        draft.blame(error)
        return await _form(request, web, who, app, draft)
    accepted = await web.enqueuer.enqueue(submission)
    security_of(request).audit.add(
        who,
        "send.create",
        app=app,
        object_id=str(accepted.send_id),
        detail={"kind": submission.kind, "repeated": accepted.repeated},
    )
    return go_to(f"/console/sends/{accepted.send_id}", "scheduled" if submission.send_at else "sent")
