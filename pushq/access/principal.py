"""Who asks, and what that one may do. Pure: where a principal comes from is the business of keys, sessions and the command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from pushq.errors import InvalidRequest, PushqError

#: Every scope and what it lets through.
SCOPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "send": "send broadcasts and notifications",
        "devices": "register, change, import and look at devices",
        "segments": "create, fill, count and look at segments",
        "sends:read": "list, show, follow and export sends",
        "sends:control": "pause, resume, cancel, replay and change the rate of sends",
        "audit:read": "read the audit log",
        "admin": "everything, and what belongs to no app: keys, users, credentials",
    }
)
ADMIN: Final = "admin"
_APP: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
MOST_APPS: Final = 100

PrincipalKind = Literal["key", "user", "local"]


class Forbidden(PushqError):
    """Who asks is known, and may not do this.

    Attributes:
        missing: the scope or the app that is not granted, such as ``scope send`` or ``app shop``.
    """

    def __init__(self, missing: str) -> None:
        super().__init__(missing)
        self.missing = missing

    def __str__(self) -> str:
        return f"not allowed: {self.missing} is not granted"


@dataclass(frozen=True)
class Principal:
    """Somebody who asks for something.

    Attributes:
        kind: ``key`` (an API key), ``user`` (somebody at the console) or ``local`` (a process that has the database's password).
        name: what people call it; of a key the name it was given, which need not be unique.
        id: what tells it from all others of its kind: the key's id, or the user's name.
        scopes: of :data:`SCOPES`; ``admin`` implies all.
        apps: the apps it may touch; None is all of them.
        remote: network address that the request came from, if it came over a network.
    """

    kind: PrincipalKind
    name: str
    id: str
    scopes: frozenset[str]
    apps: frozenset[str] | None = None
    remote: str | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or ADMIN in self.scopes

    def may_app(self, app: str) -> bool:
        return self.apps is None or app in self.apps

    def check(self, scope: str) -> None:
        """Raise :class:`Forbidden` unless the scope is granted."""
        if not self.may(scope):
            raise Forbidden(f"scope {scope}")

    def check_app(self, app: str) -> None:
        """Raise :class:`Forbidden` unless the app is granted."""
        if not self.may_app(app):
            raise Forbidden(f"app {app[:63]}")


def parse_scopes(given: Iterable[str]) -> frozenset[str]:
    """Scopes as somebody wrote them.

    Raises:
        InvalidRequest: there is none, or one that does not exist.
    """
    scopes = frozenset(given)
    known = ", ".join(SCOPES)
    if not scopes:
        raise InvalidRequest("scopes", "none", f"some of {known}")
    for scope in sorted(scopes):
        if scope not in SCOPES:
            raise InvalidRequest("scopes", repr(scope[:60]), f"some of {known}")
    return scopes


def parse_apps(given: Collection[str] | None) -> frozenset[str] | None:
    """Names of apps as somebody wrote them; None, or none, is all apps.

    Raises:
        InvalidRequest: one of them cannot be the name of an app.
    """
    if not given:
        return None
    if len(given) > MOST_APPS:
        raise InvalidRequest("apps", f"{len(given)} apps", f"at most {MOST_APPS}")
    for app in given:
        if not _APP.fullmatch(app):
            raise InvalidRequest(
                "apps", repr(app[:60]), "names of apps, as in PUSHQ_CONFIG: lower case, digits, - and _"
            )
    return frozenset(given)
