"""The session's cookie, and the proof that a request comes from one of our own pages."""

from __future__ import annotations

import hmac
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from pushq.access.principal import Forbidden
from pushq.access.sessions import csrf_token_of, new_token, well_formed

#: ``__Host-``: browsers take it only with Secure, for this host alone and for all paths; nobody beside us can set it.
SECURE_COOKIE: Final = "__Host-pushq"
#: On this machine, without TLS.
PLAIN_COOKIE: Final = "pushq_session"
#: Of a browser that is about to sign in; another prefix, for it is bound to the path.
LOGIN_COOKIE: Final = "pushq_login"
LOGIN_LIFE_S: Final = 3600
CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf_token"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
FORM: Final = "application/x-www-form-urlencoded"
MOST_FORM_BYTES: Final = 1024 * 1024
MOST_FIELDS: Final = 5_000
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(request: Request) -> bool:
    """Whether the browser believes to talk to its own machine."""
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    return host in _LOOPBACK or host.endswith(".localhost")


def may_sign_in(request: Request) -> bool:
    """Whether a password may travel this way: encrypted, or not at all."""
    return request.url.scheme == "https" or is_loopback(request)


def session_token(request: Request) -> str | None:
    """The token in the session's cookie; None when there is none that could be one."""
    token = request.cookies.get(_name(request), "")
    return token if well_formed(token) else None


def set_session(request: Request, response: Response, token: str, life_s: int) -> None:
    _set(request, response, _name(request), token, life_s)


def clear_session(request: Request, response: Response) -> None:
    _set(request, response, _name(request), "", 0)


def login_token(request: Request) -> str:
    """What ties a login form to the browser that got it; a new one when the browser has none."""
    token = request.cookies.get(LOGIN_COOKIE, "")
    return token if well_formed(token) else new_token()


def set_login(request: Request, response: Response, token: str) -> None:
    _set(request, response, LOGIN_COOKIE, token, LOGIN_LIFE_S if token else 0, path="/login", strict=True)


def _name(request: Request) -> str:
    return SECURE_COOKIE if request.url.scheme == "https" else PLAIN_COOKIE


def _set(
    request: Request,
    response: Response,
    name: str,
    value: str,
    life_s: int,
    *,
    path: str = "/",
    strict: bool = False,
) -> None:
    response.set_cookie(
        name,
        value,
        max_age=life_s,
        path=path,
        secure=request.url.scheme == "https",
        httponly=True,
        # Lax: whoever follows a link to a send from a chat is signed in. Nothing changes by GET, and the rest is checked below.
        samesite="strict" if strict else "lax",
    )


async def check_origin_and_token(request: Request, token: str, *, form: bool) -> None:
    """Let a request that changes something through only when a page of ours made it.

    Three things must be right, of which each should be enough: what the browser says of the page's site, the page's origin, and the
    session's CSRF token in the header, or, with ``form``, in the field ``csrf_token``.

    Raises:
        Forbidden: one of them is not.
    """
    check_origin(request)
    given = request.headers.get(CSRF_HEADER)
    if given is None and form:
        given = await _field(request)
    check_token(given, token)


def check_origin(request: Request) -> None:
    """Raise :class:`Forbidden` when the browser says that a page of somebody else made this request."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("a request from this site (Sec-Fetch-Site)")
    origins = request.headers.getlist("origin")
    if origins and (len(origins) > 1 or not _is_ours(origins[0], request)):
        raise Forbidden("a request from this site (Origin)")


def check_token(given: str | None, token: str) -> None:
    """Raise :class:`Forbidden` unless this is the CSRF token that belongs to ``token``; in constant time."""
    if not hmac.compare_digest((given or "").encode(), csrf_token_of(token).encode()):
        raise Forbidden("the page's token, which may be of an earlier session; load the page again")


def _is_ours(origin: str, request: Request) -> bool:
    # Host and port alone: behind a proxy that ends TLS our own scheme may differ from the browser's.
    try:
        return urlsplit(origin).netloc == request.headers.get("host", "") != ""
    except ValueError:
        return False


async def _field(request: Request) -> str | None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        return None
    body = await request.body()
    if len(body) > MOST_FORM_BYTES:
        return None
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return None
    found = [value for name, value in fields if name == CSRF_FIELD]
    return found[0] if len(found) == 1 else None
