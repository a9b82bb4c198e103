"""Signing in to the console and out of it."""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from typing import Annotated, Final
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import RedirectResponse, Response

from pushq.access import sessions, users
from pushq.access.principal import Forbidden, Principal
from pushq.access.sessions import csrf_token_of, well_formed
from pushq.web import cookies
from pushq.web.console.pages import bare
from pushq.web.problems import Problem, problem
from pushq.web.ratelimit import Rate
from pushq.web.security import LoginRequired, Security, remote_of, security_of, session

log = logging.getLogger("pushq.web")

HOME: Final = "/console/"
MOST_BYTES: Final = 8 * 1024
#: Tries for one name from one address, from one address whatever the name, and for one name from everywhere. The last is the widest:
#: a stranger must not be able to lock somebody out who signs in from elsewhere.
PAIR: Final = Rate(per_s=1 / 30, burst=5)
ADDRESS: Final = Rate(per_s=1 / 5, burst=20)
NAME: Final = Rate(per_s=1 / 5, burst=50)

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def show(request: Request, next: str = "") -> Response:  # noqa: A002 - as it is called in the address
    """The form, or the way on for somebody who is signed in."""
    token = cookies.session_token(request)
    if token is not None and await security_of(request).sessions.get(token) is not None:
        return RedirectResponse(_inside(next), 303)
    return _form(request, _inside(next))


@router.post("/login")
async def sign_in(request: Request) -> Response:
    """Check name and password, and open a session."""
    security = security_of(request)
    fields = await _fields(request)
    way_on = _inside(fields.get("next", ""))
    name, password = fields.get("name", "").strip()[:64], fields.get("password", "")
    try:
        await _from_our_form(request, fields)
    except Forbidden:
        return _form(request, way_on, "This page was too old, or was not ours. Please try again.", name, 403)
    if not cookies.may_sign_in(request):
        return _form(request, way_on, status=403)
    wait = await _throttle(security, request, name)
    if wait:
        after = max(1, round(wait))
        answer = _form(request, way_on, f"Too many tries. Please try again in {after} s.", name, 429)
        answer.headers["Retry-After"] = str(after)
        return answer
    attempt = await security.logins.run(users.authenticate, security.database, name, password)
    if attempt.user is None:
        remote = remote_of(request)
        log.warning("login_refused", extra={"remote": remote})
        if attempt.known:
            # Only then: people type passwords into the field for the name. Later, so that the answer takes as long for other names.
            who = Principal("user", name, name, frozenset(), None, remote)
            security.audit.add(who, "login.refused", object_id=name)
        return _form(request, way_on, "The name or the password is wrong.", name, 401)
    await security.limiter.forget(_pair(request, name))
    return await _open(request, attempt.user, way_on)


@router.get("/login/link/{token}")
async def follow_link(request: Request, token: str) -> Response:
    """Sign in by a link of ``pushq users link``: once, and within minutes."""
    security = security_of(request)
    if not cookies.may_sign_in(request):
        return _form(request, HOME, status=403)
    if "prefetch" in request.headers.get("sec-purpose", ""):
        return Response(status_code=503)  # nobody has followed it yet
    wait = await _throttle(security, request, "")
    user = None
    if well_formed(token) and not wait:
        user = await security.threads.run(sessions.redeem, security.database, token)
    if user is None:
        log.warning("login_refused", extra={"remote": remote_of(request)})
        return _form(
            request,
            HOME,
            "This link was used before, or is too old. Make another: pushq users link NAME",
            status=401,
        )
    return await _open(request, user, HOME)


@router.post("/logout")
async def sign_out(request: Request, principal: Annotated[Principal, Depends(session())]) -> Response:
    """End the session here and in the database."""
    security = security_of(request)
    token = cookies.session_token(request)
    if token is not None:
        await security.threads.run(sessions.end, security.database, principal, token)
        security.sessions.forget(token)
    answer = RedirectResponse("/login", 303)
    cookies.clear_session(request, answer)
    return answer


def install(app: FastAPI) -> None:
    """Add the routes, and the answer for who is not signed in."""
    app.include_router(router)
    app.add_exception_handler(LoginRequired, _to_login)


async def _to_login(request: Request, _: Exception) -> Response:
    if request.method not in ("GET", "HEAD") or "text/html" not in request.headers.get("accept", ""):
        return problem(401, "unauthorized", "You are not signed in any more: see /login")
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(here, safe='/')}" if here != HOME else "/login", 303)


def _inside(target: str) -> str:
    """An address of our own, or the first page: nobody may be led elsewhere by a link to our login."""
    plain = target.isascii() and target.isprintable() and len(target) <= 1000
    inside = target.startswith("/") and not target.startswith("//") and "\\" not in target
    return target if plain and inside and not target.startswith(("/login", "/logout")) else HOME


def _form(
    request: Request, way_on: str, error: str | None = None, name: str = "", status: int = 200
) -> Response:
    if not cookies.may_sign_in(request):
        error = "A password may not travel unencrypted: open this page with https://, or on the machine itself as http://localhost. Behind a proxy that speaks TLS, PUSHQ_WEB_TRUSTED_PROXIES has to name it."
    token = cookies.login_token(request)
    answer = bare(
        request,
        "login.html",
        status=status,
        fault=error,
        hidden={cookies.CSRF_FIELD: csrf_token_of(token), "next": way_on},
        name=name,
    )
    cookies.set_login(request, answer, token)
    return answer


async def _fields(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != cookies.FORM:
        raise Problem(415, "media-type", f"expected {cookies.FORM}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Problem(413, "too-large", f"expected at most {MOST_BYTES:,} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise Problem(422, "invalid-request", "the form cannot be read, or has more than 20 fields") from None


async def _from_our_form(request: Request, fields: dict[str, str]) -> None:
    """Raises Forbidden unless this browser got the form from us: else somebody could be signed in as somebody else unnoticed."""
    token = request.cookies.get(cookies.LOGIN_COOKIE, "")
    if not well_formed(token):
        raise Forbidden("the login page's cookie")
    cookies.check_origin(request)
    cookies.check_token(fields.get(cookies.CSRF_FIELD), token)


def _pair(request: Request, name: str) -> str:
    return f"login:{remote_of(request)}:{_hidden(name)}"


def _hidden(name: str) -> str:
    """A name as Redis may know it: people type passwords into its field."""
    return hashlib.sha256(name.casefold().encode("utf-8", "replace")).hexdigest()[:16]


async def _throttle(security: Security, request: Request, name: str) -> float:
    """Seconds to wait before another try; 0.0 when this one may be made."""
    limits = [(f"login:{remote_of(request)}", ADDRESS)]
    if name:
        limits += [(_pair(request, name), PAIR), (f"login::{_hidden(name)}", NAME)]
    for key, rate in limits:
        wait = await security.limiter.take(key, rate)
        if wait:
            return wait
    return 0.0


async def _open(request: Request, user: users.User, way_on: str) -> Response:
    security = security_of(request)
    life = timedelta(hours=security.settings.web_session_hours)
    token = await security.threads.run(
        sessions.start, security.database, user, life=life, remote=remote_of(request)
    )
    answer = RedirectResponse(way_on, 303)
    cookies.set_session(request, answer, token, int(life.total_seconds()))
    cookies.set_login(request, answer, "")
    return answer
