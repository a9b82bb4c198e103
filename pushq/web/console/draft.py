"""A message while it is written: what stands in the form, and the call that it becomes. Pure."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

from pushq.errors import InvalidRequest
from pushq.notification import merged
from pushq.submission import MAX_RATE, Submission, submit
from pushq.web.console.forms import Form

#: Users who can be named in the form; more are a segment.
MOST_USERS: Final = 1000
_USERS: Final = re.compile(r"[\s,;]+")
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(?:/[A-Za-z0-9_+-]{1,31}){0,2}", re.ASCII).fullmatch

#: What is chosen where nothing was.
DEFAULTS: Final[Mapping[str, str]] = {
    "to": "all",
    "when": "now",
    "priority": "high",
    "guarantee": "at_most_once",
    "zone": "UTC",
}
#: Texts of a message that stand in one field each.
_TEXTS: Final = ("title", "body", "image", "link", "sound", "category", "collapse_id")
_MAX_TTL: Final = 2_419_200
#: By the beginning of a wrong field's name, the field of the form that it stands in; the first that fits.
_PLACES: Final = (
    ("notification.title", "title"),
    ("notification.body", "body"),
    ("notification.image", "image"),
    ("notification.link", "link"),
    ("notification.data", "data"),
    ("notification.sound", "sound"),
    ("notification.badge", "badge"),
    ("notification.category", "category"),
    ("notification.collapse_id", "collapse_id"),
    ("notification.ttl", "ttl"),
    ("notification.languages", "more"),
    ("notification.apns", "more"),
    ("notification.fcm", "more"),
    ("notification.hms", "more"),
    ("notification.d", "more"),
    ("notification", "title"),
    ("audience.segments", "segments"),
    ("audience.exclude_segments", "segments"),
    ("audience.user_ids", "users"),
    ("audience.platforms", "platforms"),
    ("user", "users"),
    ("segment", "segments"),
    ("send_at", "send_at"),
    ("rate", "rate"),
)


class Draft:
    """What somebody has written so far.

    Attributes:
        faults: what is wrong, by field; an empty name is no field's.
    """

    def __init__(self, form: Form | None = None) -> None:
        self.form = form or Form()
        self.faults: dict[str, str] = {}
        # The same form is the same send, however often it is sent.
        self._key = self.form.text("key") or f"console-{secrets.token_urlsafe(18)}"

    def raw(self, name: str) -> str:
        return self._key if name == "key" else self.form.raw(name)

    def chosen(self, name: str) -> Sequence[str]:
        found = self.form.texts(name)
        if not found and name in DEFAULTS:
            return [DEFAULTS[name]]
        return found

    def has(self, *names: str) -> bool:
        return any(self.form.text(name) for name in names)

    def fields(self) -> list[tuple[str, str]]:
        """All of it, to be sent again by another form."""
        told = [
            (name, value)
            for name, values in self.form.fields.items()
            for value in values
            if name not in ("key", "csrf_token", "test_user")
        ]
        return [*told, ("key", self._key)]

    def blame(self, error: InvalidRequest) -> None:
        """Note an error at the field that it is about."""
        place = next((place for start, place in _PLACES if error.field.startswith(start)), "")
        self.faults.setdefault(place, _said(error))

    # What it says

    def notification(self) -> dict[str, Any]:
        """The message as a caller would write it.

        Raises:
            InvalidRequest: a field cannot be read.
        """
        told: dict[str, Any] = {name: text for name in _TEXTS if (text := self.form.text(name)) is not None}
        if (badge := self.form.number("badge", "notification.badge", 0, 99_999)) is not None:
            told["badge"] = badge
        if (ttl := self.form.number("ttl", "notification.ttl", 0, _MAX_TTL)) is not None:
            told["ttl"] = ttl
        if self.chosen("priority")[0] != DEFAULTS["priority"]:
            told["priority"] = self.chosen("priority")[0]
        if data := dict(_pairs(self.form.raw("data"), "notification.data")):
            told["data"] = data
        return merged(self._more(), told)

    def _more(self) -> dict[str, Any]:
        text = self.form.text("more")
        if text is None:
            return {}
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(
                "notification.languages",
                f"text that is no JSON ({error.msg}, line {error.lineno})",
                "a JSON object",
            ) from None
        if not isinstance(document, dict):
            raise InvalidRequest("notification.languages", "JSON that is no object", "a JSON object")
        return document

    # Who gets it

    @property
    def transactional(self) -> bool:
        return self.chosen("to")[0] == "users"

    def audience(self) -> dict[str, Any]:
        """The audience as a caller would write it.

        Raises:
            InvalidRequest: nobody is chosen, or a user id is none.
        """
        told: dict[str, Any] = {}
        match self.chosen("to")[0]:
            case "users":
                told["user_ids"] = self._users()
            case "segments":
                told["segments"] = self.form.texts("segment")
                if not told["segments"]:
                    raise InvalidRequest("segments", "none", "at least one segment")
            case _:
                told["segments"] = ["all"]
        if (excluded := self.form.texts("exclude")) and not self.transactional:
            told["exclude_segments"] = excluded
        if platforms := self.form.texts("platform"):
            told["platforms"] = platforms
        return told

    def _users(self) -> list[int]:
        found = [part for part in _USERS.split(self.form.raw("users")) if part]
        if not found:
            raise InvalidRequest("users", "none", "at least one user id")
        if len(found) > MOST_USERS:
            raise InvalidRequest(
                "users", f"{len(found):,} ids", f"at most {MOST_USERS:,}; for more, make a segment"
            )
        for part in found:
            if not (part.isascii() and part.isdigit() and len(part) <= 19):
                raise InvalidRequest("users", repr(part[:40]), "whole numbers")
        return [int(part) for part in found]

    # When and how

    def send_at(self) -> datetime | None:
        """When it is to begin, UTC; None: at once.

        Raises:
            InvalidRequest: there is no such time.
        """
        if self.chosen("when")[0] != "later":
            return None
        text = self.form.text("send_at")
        if text is None:
            raise InvalidRequest("send_at", "nothing", "a day and a time")
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidRequest("send_at", repr(text[:40]), "a day and a time") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=self._zone())
        return moment.astimezone(UTC)

    def _zone(self) -> ZoneInfo:
        name = self.form.text("zone") or DEFAULTS["zone"]
        if not _ZONE(name):
            raise InvalidRequest("send_at", f"the time zone {name[:40]!r}", "a zone such as Europe/Berlin")
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InvalidRequest(
                "send_at", f"the time zone {name!r}", "a zone such as Europe/Berlin"
            ) from None

    def submission(self, app: str, now: datetime, *, test_user: int | None = None) -> Submission:
        """The call, checked completely.

        Args:
            test_user: only for this user, at once; it has nothing to do with the send that may follow.

        Raises:
            InvalidRequest: names the field.
        """
        if test_user is not None:
            return submit(
                "transactional",
                notification=self.notification(),
                audience={"user_ids": [test_user]},
                app=app,
                guarantee="at_least_once",
                called_at=now,
            )
        send_at = self.send_at()
        if send_at is not None and send_at <= now:
            raise InvalidRequest("send_at", "a time that is over", "a time to come, or 'at once'")
        return submit(
            "transactional" if self.transactional else "broadcast",
            notification=self.notification(),
            audience=self.audience(),
            app=app,
            guarantee=self.chosen("guarantee")[0],
            idempotency_key=self._key,
            send_at=send_at,
            rate=self.form.number("rate", "rate", 1, MAX_RATE),
            called_at=now,
        )


def _said(error: InvalidRequest) -> str:
    name = error.field.removeprefix("notification.").removeprefix("audience.").replace("_", " ")
    return f"{name[:1].upper()}{name[1:]}: found {error.found}; expected {error.expected}"


def _pairs(text: str, called: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, separator, value = line.partition("=")
        if not separator or not name.strip():
            raise InvalidRequest(called, f"line {number}, {line.strip()[:40]!r}", "name=value")
        pairs.append((name.strip(), value.strip()))
    return pairs


def draft_of(
    notification: Mapping[str, Any], audience: Mapping[str, Any], options: Mapping[str, Any]
) -> Draft:
    """A draft that says what a send said, to be changed and sent anew."""
    fields: dict[str, list[str]] = {}
    rest = dict(notification)
    for name in (*_TEXTS, "badge", "ttl", "priority"):
        if (value := rest.pop(name, None)) is not None:
            fields[name] = [str(value)]
    if data := rest.pop("data", None):
        fields["data"] = ["\n".join(f"{name}={value}" for name, value in data.items())]
    if rest:
        fields["more"] = [orjson.dumps(rest, option=orjson.OPT_INDENT_2).decode()]
    segments = [name for name in audience.get("segments", ()) if name != "all"]
    if segments:
        fields |= {"to": ["segments"], "segment": segments}
    if users := audience.get("user_ids"):
        fields |= {"to": ["users"], "users": [" ".join(map(str, users[:MOST_USERS]))]}
    fields |= {
        "exclude": list(audience.get("exclude_segments", ())),
        "platform": list(audience.get("platforms", ())),
    }
    for name in ("guarantee", "rate"):
        if options.get(name):
            fields[name] = [str(options[name])]
    return Draft(Form(fields))
