"""URLs of services and other values that hold a password: what they may look like, and how they are shown without it."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator


class Secret:
    """A string that must not be printed: ``repr`` and ``str`` show only that it is there."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself: for the call that needs it, never for a message."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class ServiceUrl(Secret):
    """A URL that may carry a password; it prints with the password (and any query) left out."""

    __slots__ = ()

    def redacted(self) -> str:
        return ";".join(_redacted(one) for one in _each(self._value))

    def passwords(self) -> frozenset[str]:
        """The passwords in it, as written and decoded: what a log line must not show."""
        found = (urlsplit(one).password for one in _each(self._value))
        return frozenset(form for one in found if one for form in (one, unquote(one)))

    def each(self) -> list[ServiceUrl]:
        """One for each server, where several stand with ``;`` between them."""
        return [ServiceUrl(one) for one in _each(self._value)]

    def __repr__(self) -> str:
        return f"ServiceUrl({self.redacted()!r})"

    __str__ = redacted


def _each(text: str) -> list[str]:
    """Celery takes several broker URLs with ``;`` between them, to fail over."""
    return re.split(r";(?=[a-z+]+://)", text)


def _redacted(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "***"
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    user = f"{parts.username}:***@" if parts.password else f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"


def url(schemes: tuple[str, ...], example: str) -> Any:
    def parse(value: object) -> ServiceUrl:
        if isinstance(value, ServiceUrl):
            return value
        text = str(value)
        for one in _each(text):
            found = _fault(one, schemes)
            if found is not None:
                raise ValueError(f"found {found}; expected one like {example}")
        return ServiceUrl(text)

    return BeforeValidator(parse)


def _fault(text: str, schemes: tuple[str, ...]) -> str | None:
    """What is wrong with a URL, in words that cannot hold its password; None when nothing is."""
    scheme = text.partition("://")[0] if "://" in text else ""
    if not scheme:
        return "a value that is no URL"
    if scheme not in schemes:
        return f"a URL that begins with {scheme + '://'!r}"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return "a URL whose host and port cannot be read (are all special characters of the password percent-encoded?)"
    if "@" in parts.path + parts.fragment:
        # Half a password would be taken for the host and the other half printed with the path.
        return "a URL with an @ after its host (are all special characters of the password percent-encoded?)"
    return None


DatabaseUrl = Annotated[
    ServiceUrl,
    url(("postgresql", "postgres", "postgresql+psycopg"), "postgresql://pushq@localhost/pushq"),
]
RedisUrl = Annotated[ServiceUrl, url(("redis", "rediss", "unix"), "redis://localhost:6379/0")]
BrokerUrl = Annotated[
    ServiceUrl,
    url(
        ("amqp", "amqps", "pyamqp", "redis", "rediss"),
        "amqp://user@localhost:5672// or redis://localhost:6379/1",
    ),
]
ProxyUrl = Annotated[
    ServiceUrl,
    url(("http", "https"), "http://proxy.example:3128 or http://user:password@proxy.example:3128"),
]


ManagementUrl = Annotated[
    ServiceUrl,
    url(("http", "https"), "https://rabbitmq.example:15671 or http://user:password@localhost:15672"),
]
