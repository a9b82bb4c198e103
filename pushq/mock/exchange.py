"""One request and what becomes of it: the values that provider rules and engines exchange.

Nothing here does I/O. Header names are lower-case; names and values are ``str`` decoded as latin-1, so that every byte a
client sends survives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request: pseudo headers apart, regular headers in the order of arrival.

    ``body`` holds at most ``MAX_BODY_BYTES``; ``size`` is what really came.
    """

    method: str
    path: str
    headers: Headers
    body: bytes
    size: int

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next((value for key, value in self.headers if key == name), None)


# Above every provider's limit, so that a body cut here is refused for its size anyway.
MAX_BODY_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's answer. ``reason`` is what it is counted under; ``rings`` means that a phone would ring."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    reason: str | None = None
    rings: bool = False


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """A TLS client certificate that the handshake found good.

    Attributes:
        user_id: the UID of its subject (Apple: the bundle id).
        expires_at: UNIX seconds.
    """

    user_id: str
    expires_at: float


@dataclass(slots=True)
class Session:
    """What a provider remembers about one connection.

    ``generation`` changes whenever something happened that may change the answer to a request which was good before, so that
    an engine that remembers good requests forgets them. ``good_until`` is the time (UNIX seconds) at which the credential
    accepted last stops being valid. ``certificate`` is what the client showed in the TLS handshake.
    """

    requests: int = 0
    credential_accepted: bool = False
    good_until: float = 0.0
    generation: int = 0
    certificate: ClientIdentity | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """Answer with RST_STREAM."""

    code: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """Send GOAWAY once this request was decided.

    ``last_stream_offset`` counts requests relative to this one: 0 makes it the last one processed, -1 leaves it and everything
    after it unprocessed (and uncounted). ``close``: ``"drained"`` closes when everything up to the last stream was answered,
    ``"now"`` closes at once, ``"never"`` leaves the connection open.
    """

    code: int
    debug: bytes
    last_stream_offset: int
    close: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the TCP connection without any farewell; ``mid_frame`` first writes half a frame."""

    mid_frame: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """Advertise another MAX_CONCURRENT_STREAMS, then answer as usual."""

    streams: int


Effect = Reset | GoAway | Cut | Limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an engine does with a request: answer it (None: never), later by ``delay_s``, and the effect on the connection.

    ``rang`` is the token that was counted as accepted: a GOAWAY that declares the request unprocessed takes it back.
    """

    answer: Answer | None
    delay_s: float = 0.0
    effect: Effect | None = None
    rang: bytes | None = None


@dataclass(frozen=True, slots=True)
class StreamRule:
    """How many streams a provider allows, and how it punishes the one too many.

    ``initial`` holds until the first accepted credential, ``granted`` from then on.
    """

    initial: int
    granted: int
    violation_code: int
    violation_debug: bytes


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """An answer as a fault describes it; each provider's rules put it into the provider's words.

    Attributes:
        reason: the provider's own word (APNs ``reason``, FCM ``errorCode``); None leaves it out.
        retry_after: seconds, or the header's text as it is (an HTTP date).
        timestamp_offset_s: APNs 410 only, seconds added to now.
        body: sent as it is instead of the provider's body.
        shape: letter of a known body (``fcm_errors.SHAPES``), FCM only.
    """

    status: int
    reason: str | None = None
    retry_after: int | str | None = None
    timestamp_offset_s: float = 0.0
    body: bytes | None = None
    shape: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def wait_until(self, answered_at: float) -> float | None:
        """The end of the wait that ``retry_after`` asks for (UNIX seconds), or None without one that can be read."""
        if self.retry_after is None:
            return None
        text = str(self.retry_after)
        if text.isascii() and text.isdigit():
            return answered_at + float(text)
        try:
            return parsedate_to_datetime(text).timestamp()
        except ValueError:
            return None

    def extra_headers(self) -> Headers:
        retry: Headers = () if self.retry_after is None else (("retry-after", str(self.retry_after)),)
        return (*retry, *((name.lower(), value) for name, value in self.headers.items()))


class Rules(Protocol):
    """What one provider accepts and what it says. Pure: the time comes in as UNIX seconds."""

    @property
    def platform(self) -> str:
        """``apns``, ``fcm``, ``hms``, ``oauth`` or ``hms_oauth``: the name in faults and in the counts."""

    @property
    def streams(self) -> StreamRule: ...

    def open_session(self) -> Session: ...

    def admit(self, request: Request, session: Any, now: float) -> Answer | None:
        """Everything that comes before the recipient is looked at: path, method, credential, topic. None lets it pass."""

    def target(self, request: Request) -> bytes:
        """The device token, or ``b""``. Called for admitted requests only; never raises."""

    def consider(self, request: Request, now: float) -> Answer:
        """The answer to an admitted request."""

    def word(self, spec: AnswerSpec, request: Request, now: float) -> Answer:
        """The answer that a fault asks for."""

    def expire_credentials(self, now: float) -> None:
        """Every credential issued until now is expired from now on."""


Clock = Callable[[], float]
