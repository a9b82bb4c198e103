"""What all routes of the console share: errors become pages, and what blocks runs in threads."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pushq.access.principal import Forbidden
from pushq.audience.request import MAX_USER_ID
from pushq.errors import InvalidRequest, PushqError, ServiceUnavailable
from pushq.ledger.sends import UnknownSend, WrongState
from pushq.web.console.pages import bare, fragment
from pushq.web.problems import Problem, answer_to
from pushq.web.security import LoginRequired, TooManyRequests
from pushq.web.threads import Busy

log = logging.getLogger("pushq.web")

#: A script asks for a part of a page.
PART: Final = "x-part"

#: By the word in the address, what is said on top of a page after something was done.
NOTES: Final = {
    "sent": ("good", "On its way. This page stays up to date by itself."),
    "scheduled": ("good", "Scheduled. It starts by itself at its time."),
    "paused": ("good", "Paused: nothing new is begun, and what is on its way is finished."),
    "resumed": ("good", "Resumed."),
    "cancelled": ("good", "Cancelled. What is on its way is being finished."),
    "rate": ("good", "The speed is changed; workers follow within a second."),
    "replayed": ("good", "Sent again to those who were not reached."),
    "nobody": ("warn", "Nobody is left with such an outcome: nothing was sent."),
    "revoked": ("good", "The key lets nobody in any more."),
    "late": ("warn", "Nothing was changed: the send's state did not allow it any more."),
}


@dataclass(frozen=True)
class Note:
    kind: str
    text: str


def note_of(request: Request) -> Note | None:
    """What the page before has done."""
    found = NOTES.get(request.query_params.get("note", ""))
    return None if found is None else Note(*found)


def go_to(path: str, note: str | None = None) -> Response:
    """The next page, after something was done."""
    return RedirectResponse(f"{path}?note={note}" if note else path, 303)


def whole(text: str, called: str, high: int = MAX_USER_ID) -> int:
    """A number as somebody typed it.

    Raises:
        InvalidRequest: it is none.
    """
    plain = text.strip()
    if not (plain.isascii() and plain.isdigit() and len(plain) <= 19 and 1 <= int(plain) <= high):
        raise InvalidRequest(called, repr(text[:40]), f"a whole number from 1 to {high}")
    return int(plain)


class PageRoute(APIRoute):
    """Errors are shown as a page, or, to a script that asks for a part of one, as a sentence."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except LoginRequired:
                if request.method in ("GET", "HEAD") or PART in request.headers:
                    raise
                return _page(request, 401, "You are signed out", _SIGNED_OUT)
            except (PushqError, HTTPException, RequestValidationError) as error:
                return _shown(request, error)
            except Exception:
                name = secrets.token_hex(8)
                log.exception("page_failed", extra={"id": name, "path": request.url.path})
                return _page(
                    request, 500, "Something went wrong", f"pushq's log tells more under the id {name}."
                )

        return handler


_SIGNED_OUT: Final = "Your session is over, and nothing was done. What you wrote still stands on the page before: go back and copy it, then sign in again."

#: What is said above an error's own words.
_HEADINGS: Final = {
    400: "This cannot be read",
    403: "Not allowed",
    404: "There is nothing here",
    409: "Not as it stands",
    413: "Too much at once",
    422: "Something has to be corrected",
    429: "Too fast",
    503: "Not available at the moment",
}


def _shown(request: Request, error: Exception) -> Response:
    answer = answer_to(error)
    status = 500 if answer is None else answer.status_code
    if status >= 500 and status != 503:
        log.error(
            "page_refused", extra={"path": request.url.path, "error": f"{type(error).__name__}: {error}"}
        )
    page = _page(request, status, _HEADINGS.get(status, "That did not work"), words(error))
    for header in ("retry-after", "allow"):
        if answer is not None and header in answer.headers:
            page.headers[header] = answer.headers[header]
    return page


def words(error: Exception) -> str:
    """An error in words for people; nothing of the machine room."""
    match error:
        case InvalidRequest():
            return f"{error.field}: found {error.found}; expected {error.expected}"
        case ServiceUnavailable():
            return f"{error.service} does not answer. Nothing was changed; please try again in a moment."
        case Busy():
            return "Too much is going on at once. Nothing was changed; please try again in a moment."
        case TooManyRequests():
            return "That was a lot within a short time. Please wait a moment."
        case Forbidden():
            return f"Your account does not allow this: {error.missing} is not granted."
        case UnknownSend():
            return "There is no such send, or it has been cleaned up."
        case WrongState() | Problem():
            return str(error)
        case HTTPException():
            return (
                "There is no such page." if error.status_code == 404 else HTTPStatus(error.status_code).phrase
            )
        case RequestValidationError():
            return "The address cannot be read."
        case _:
            return "This cannot be done."


def _page(request: Request, status: int, heading: str, detail: str) -> Response:
    if PART in request.headers:
        return Response(fragment("fault_part.html", detail=detail), status, media_type="text/html")
    return bare(request, "fault.html", status=status, heading=heading, detail=detail)
