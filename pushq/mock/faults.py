"""The fault table: which requests go wrong, and how. Plain data in, verdicts out.

A fault is a mapping (one ``[[fault]]`` of a TOML file, one element of the list that the control API takes)::

    platform = "apns"                # apns, fcm, hms, oauth or hms_oauth
    # which requests: all conditions given must hold
    token = "exact token"
    token_prefix = "beef"
    every = 10                       # every tenth of the requests that meet the other conditions
    first = 100                      # the first hundred of the platform's requests
    nth_on_connection = 5            # the fifth request of each connection
    probability = 0.1                # with the table's seed
    over_per_minute = 600000         # what exceeds this many in a minute
    times = 1                        # how often it strikes ...
    per = "token"                    # ... for each token (the default) or in "total"
    # what happens: exactly one
    answer = { status = 503, reason = "ServiceUnavailable", retry_after = 5 }
    delay_ms = 500
    stall = true                     # never answered
    rst = "REFUSED_STREAM"           # or a number
    goaway = { code = 0, reason = "Shutdown", last_stream_offset = 0, close = "drained" }
    cut = "now"                      # or "mid_frame"
    limit = 1                        # MAX_CONCURRENT_STREAMS from now on; the request is answered as usual
    # or, without any condition, for every connection that is opened from now on:
    idle_close = { after_ms = 500, code = 0, reason = "idle", silent = false }
    late_window = { delay_ms = 200, piece = 1000 }
    # for stall, rst and cut: was the request processed (and counted as accepted) although its answer is lost?
    processed = false

The first fault that strikes decides. Faults see only requests whose path, credential and topic were found good.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from h2.errors import ErrorCodes

from pushq.errors import InvalidRequest
from pushq.mock import frames
from pushq.mock.connection_faults import ConnectionFaults, IdleClose, LateWindow
from pushq.mock.exchange import AnswerSpec, Cut, Effect, GoAway, Limit, Reset

PLATFORMS = ("apns", "fcm", "hms", "oauth", "hms_oauth", "channels", "topics")
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Strike:
    """What a fault does to the request it struck.

    ``answer`` replaces the provider's; ``answered`` False means that none is ever sent; ``processed`` tells whether the
    provider did its work all the same.
    """

    answer: AnswerSpec | None = None
    answered: bool = True
    processed: bool = True
    delay_s: float = 0.0
    effect: Effect | None = None


@dataclass(slots=True)
class Fault:
    """One row of the table with its own counters."""

    strike: Strike
    token: bytes | None = None
    token_prefix: bytes | None = None
    every: int | None = None
    first: int | None = None
    nth_on_connection: int | None = None
    probability: float | None = None
    over_per_minute: int | None = None
    times: int | None = None
    per_token: bool = True
    _met: int = 0
    _struck: dict[bytes, int] = field(default_factory=dict)
    _minute_began: float = float("-inf")
    _in_minute: int = 0

    def strikes(
        self, token: bytes, nth: int, nth_on_connection: int, now: float, chance: Callable[[], float]
    ) -> bool:
        """Whether this request is hit; counts it either way. ``nth``: of the platform, both from 1."""
        if self.token is not None and token != self.token:
            return False
        if self.token_prefix is not None and not token.startswith(self.token_prefix):
            return False
        if self.first is not None and nth > self.first:
            return False
        if self.nth_on_connection is not None and nth_on_connection != self.nth_on_connection:
            return False
        self._met += 1
        if self.every is not None and self._met % self.every:
            return False
        if self.over_per_minute is not None and not self._exceeds(self.over_per_minute, now):
            return False
        if self.probability is not None and chance() >= self.probability:
            return False
        if self.times is not None:
            key = token if self.per_token else b""
            struck = self._struck.get(key, 0)
            if struck >= self.times:
                return False
            self._struck[key] = struck + 1
        return True

    def _exceeds(self, quota: int, now: float) -> bool:
        # The quota refills fully each minute, and the minutes are not the clock's (FCM's throttling page).
        if now - self._minute_began >= MINUTE_S:
            self._minute_began, self._in_minute = now, 0
        self._in_minute += 1
        return self._in_minute > quota


class FaultTable:
    """The faults in force. Replaced as a whole; ``generation`` changes with it.

    Raises:
        InvalidRequest: a fault is malformed; names its place, what was found and what is allowed.
    """

    def __init__(self, faults: Sequence[Mapping[str, Any]] = (), seed: int = 0) -> None:
        self.generation = 0
        self._rows: dict[str, list[Fault]] = {}
        self._seen: dict[str, int] = {}
        self._connections: dict[str, ConnectionFaults] = {}
        self._chance = random.Random(seed).random
        self.replace(faults, seed)

    def replace(self, faults: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        rows: dict[str, list[Fault]] = {platform: [] for platform in PLATFORMS}
        connections = dict.fromkeys(PLATFORMS, ConnectionFaults())
        for position, raw in enumerate(faults):
            place = f"fault[{position}]"
            if _concerns_connections(raw):
                platform, changes = parse_connection_fault(raw, place)
                connections[platform] = replace(connections[platform], **changes)
            else:
                platform, fault = parse_fault(raw, place)
                rows[platform].append(fault)
        self._rows, self._seen, self._connections = rows, dict.fromkeys(PLATFORMS, 0), connections
        self._chance = random.Random(seed).random
        self.generation += 1

    def strike(self, platform: str, token: bytes, nth_on_connection: int, now: float) -> Strike | None:
        """The fault that hits this request, if any."""
        rows = self._rows[platform]
        if not rows:
            return None
        self._seen[platform] += 1
        for fault in rows:
            if fault.strikes(token, self._seen[platform], nth_on_connection, now, self._chance):
                return fault.strike
        return None

    def connection(self, platform: str) -> ConnectionFaults:
        """For a connection that opens now."""
        return self._connections[platform]

    def prefixes(self, platform: str) -> tuple[bytes, ...]:
        """A token that starts with none of these cannot be hit; ``b""`` among them means that any token can."""
        return tuple(fault.token or fault.token_prefix or b"" for fault in self._rows[platform])


def load_faults(path: Path) -> list[Mapping[str, Any]]:
    """The faults of a TOML file (``[[fault]]`` tables).

    Raises:
        InvalidRequest: not TOML, or not of that form. ``OSError`` when the file cannot be read.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(str(path), str(error), "a TOML file with [[fault]] tables") from error
    faults = document.get("fault", [])
    if not isinstance(faults, list) or set(document) - {"fault"}:
        raise InvalidRequest(str(path), f"the keys {sorted(document)}", "[[fault]] tables only")
    return faults


def parse_fault(raw: Any, place: str) -> tuple[str, Fault]:
    """One fault and its platform. ``place`` is its name in error messages."""
    fields = _Fields(raw, place)
    platform = fields.one_of("platform", PLATFORMS)
    token, prefix = fields.text("token"), fields.text("token_prefix")
    fault = Fault(
        strike=_parse_strike(fields),
        token=None if token is None else token.encode(),
        token_prefix=None if prefix is None else prefix.encode(),
        every=fields.count("every"),
        first=fields.count("first"),
        nth_on_connection=fields.count("nth_on_connection"),
        probability=fields.share("probability"),
        over_per_minute=fields.count("over_per_minute", least=0),
        times=fields.count("times"),
        per_token=fields.one_of("per", ("token", "total"), "token") == "token",
    )
    fields.finish()
    return platform, fault


ACTIONS = ("answer", "delay_ms", "stall", "rst", "goaway", "cut", "limit")
CONNECTION_ACTIONS = ("idle_close", "late_window")


def _concerns_connections(raw: Any) -> bool:
    return isinstance(raw, Mapping) and any(action in raw for action in CONNECTION_ACTIONS)


def parse_connection_fault(raw: Any, place: str) -> tuple[str, dict[str, Any]]:
    """The platform and what changes in its :class:`ConnectionFaults`. Conditions on requests are unknown keys here."""
    fields = _Fields(raw, place)
    platform = fields.one_of("platform", PLATFORMS[:3])
    changes: dict[str, Any] = {}
    if "idle_close" in raw:
        changes["idle_close"] = _parse_idle_close(fields.table("idle_close"))
    if "late_window" in raw:
        changes["late_window"] = _parse_late_window(fields.table("late_window"))
    fields.finish()
    return platform, changes


def _parse_idle_close(fields: _Fields) -> IdleClose:
    after_ms = fields.number("after_ms")
    if after_ms < 0:
        raise fields.wrong("after_ms", after_ms, "milliseconds, 0 or more")
    reason = fields.text("reason")
    idle = IdleClose(
        after_s=after_ms / 1000,
        code=fields.error_code("code", 0),
        debug=b"" if reason is None else orjson.dumps({"reason": reason}),
        silent=fields.flag("silent", default=False),
    )
    fields.finish()
    return idle


def _parse_late_window(fields: _Fields) -> LateWindow:
    delay_ms, piece = fields.number("delay_ms"), fields.count("piece")
    if delay_ms < 0:
        raise fields.wrong("delay_ms", delay_ms, "milliseconds, 0 or more")
    late = LateWindow(delay_ms / 1000, frames.DEFAULT_WINDOW if piece is None else piece)
    fields.finish()
    return late


def _parse_strike(fields: _Fields) -> Strike:
    given = [action for action in ACTIONS if action in fields.raw]
    if len(given) != 1:
        raise InvalidRequest(fields.place, f"the actions {given}", f"exactly one of {', '.join(ACTIONS)}")
    action = given[0]
    processed = fields.flag("processed", default=False)
    if processed and action not in {"stall", "rst", "cut"}:
        raise fields.wrong("processed", True, "only with stall, rst or cut")
    match action:
        case "answer":
            return Strike(answer=_parse_answer(fields.table("answer")))
        case "delay_ms":
            return Strike(delay_s=fields.number("delay_ms") / 1000)
        case "stall":
            if not fields.flag("stall", default=True):
                raise fields.wrong("stall", False, "true")
            return Strike(answered=False, processed=processed)
        case "rst":
            code = fields.error_code("rst", None)
            if processed and code == ErrorCodes.REFUSED_STREAM:
                raise fields.wrong(
                    "processed", True, "false with REFUSED_STREAM, which promises the contrary"
                )
            return Strike(answered=False, processed=processed, effect=Reset(code))
        case "goaway":
            effect = _parse_goaway(fields.table("goaway"))
            kept = effect.last_stream_offset >= 0
            return Strike(answered=kept, processed=kept, effect=effect)
        case "cut":
            mid_frame = fields.one_of("cut", ("now", "mid_frame")) == "mid_frame"
            return Strike(answered=False, processed=processed, effect=Cut(mid_frame))
        case _:
            streams = fields.count("limit", least=0)
            assert streams is not None
            return Strike(effect=Limit(streams))


def _parse_answer(fields: _Fields) -> AnswerSpec:
    body = fields.text("body")
    headers = fields.raw.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise fields.wrong("headers", headers, "a table of texts")
    shape = fields.text("shape")
    if shape is not None and (len(shape) != 1 or shape not in "abcdefghijklmn"):
        raise fields.wrong("shape", shape, "a letter from a to n")
    status = fields.count("status", least=200) or (400 if shape else None)
    if status is None or status > 599:
        raise fields.wrong("status", status, "a status from 200 to 599")
    retry_after = fields.raw.get("retry_after")
    if retry_after is not None and (isinstance(retry_after, bool) or not isinstance(retry_after, int | str)):
        raise fields.wrong("retry_after", retry_after, "seconds, or the text of the header")
    spec = AnswerSpec(
        status=status,
        reason=fields.text("reason"),
        retry_after=retry_after,
        timestamp_offset_s=fields.number("timestamp_offset_s", default=0.0),
        body=None if body is None else body.encode(),
        shape=shape,
        headers=headers,
    )
    fields.finish({"headers", "retry_after"})
    return spec


def _parse_goaway(fields: _Fields) -> GoAway:
    reason, debug = fields.text("reason"), fields.text("debug")
    if reason is not None and debug is not None:
        raise fields.wrong("debug", debug, "reason or debug, not both")
    data = orjson.dumps({"reason": reason}) if reason is not None else (debug or "").encode()
    offset = fields.raw.get("last_stream_offset", 0)
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise fields.wrong("last_stream_offset", offset, "a whole number of requests")
    effect = GoAway(
        code=fields.error_code("code", 0),
        debug=data,
        last_stream_offset=offset,
        close=fields.one_of("close", ("drained", "now", "never"), "drained"),
    )
    fields.finish({"last_stream_offset"})
    return effect


class _Fields:
    """Typed access to one table of the input; remembers what was asked for, so that a misspelt key is an error."""

    def __init__(self, raw: Any, place: str) -> None:
        if not isinstance(raw, dict):
            raise InvalidRequest(place, type(raw).__name__, "a table")
        self.raw: dict[str, Any] = raw
        self.place = place
        self._known: set[str] = set()

    def wrong(self, name: str, found: object, expected: str) -> InvalidRequest:
        return InvalidRequest(f"{self.place}.{name}", repr(found), expected)

    def finish(self, also_known: set[str] | None = None) -> None:
        unknown = sorted(set(self.raw) - self._known - (also_known or set()))
        if unknown:
            raise InvalidRequest(
                f"{self.place}.{unknown[0]}", "an unknown key", f"one of {', '.join(sorted(self._known))}"
            )

    def text(self, name: str) -> str | None:
        value = self._take(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, value, "a text")
        return value

    def count(self, name: str, least: int = 1) -> int | None:
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(name, value, f"a whole number of at least {least}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._take(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, value, "a number")
        return float(value)

    def share(self, name: str) -> float | None:
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise self.wrong(name, value, "a number from 0 to 1")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def one_of(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(name, value, f"one of {', '.join(allowed)}")
        return value

    def error_code(self, name: str, default: int | None) -> int:
        """An HTTP/2 error code, by number or by name."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if isinstance(value, str) and value in ErrorCodes.__members__:
            return int(ErrorCodes[value])
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
            raise self.wrong(name, value, "an HTTP/2 error code: a number, or a name such as REFUSED_STREAM")
        return value

    def table(self, name: str) -> _Fields:
        return _Fields(self._take(name), f"{self.place}.{name}")

    def _take(self, name: str) -> Any:
        self._known.add(name)
        return self.raw.get(name)
