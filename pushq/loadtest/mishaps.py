"""Everything that can go wrong at a provider and is not our own mistake, in small doses: the fault table of the soak. Pure.

Left out is what must end a send or hold it (a refused message, topic, project or key): nothing would flow after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Fault = dict[str, Any]

#: A fault that ends a connection, or tells a whole project to wait, concerns everybody on it: one in so many requests, of each kind.
RARELY: Final = 100_000
#: A request to HMS names so many devices, and each of them draws.
HMS_DEVICES: Final = 1000
#: Requests to HMS are few: so many times the share is struck.
HMS_OFTENER: Final = 15
#: Of the requests for an access token.
OAUTH_SHARE: Final = 0.2

_REQUEST: Final[Sequence[Fault]] = (
    {"delay_ms": 1500},
    {"stall": True},
    {"stall": True, "processed": True},
    {"rst": "REFUSED_STREAM"},
    {"rst": "INTERNAL_ERROR", "processed": False},
    {"rst": "CANCEL", "processed": True},
)
_CONNECTION: Final[Sequence[Fault]] = (
    {"goaway": {"last_stream_offset": 0, "close": "drained"}},
    {"goaway": {"last_stream_offset": -20, "close": "drained"}},
    {"goaway": {"code": 2, "debug": "internal", "close": "now"}},
    {"cut": "now", "processed": False},
    {"cut": "now", "processed": True},
    {"cut": "mid_frame"},
    {"limit": 20},
)
_ANSWERS: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "apns": (
        {"status": 500, "reason": "InternalServerError"},
        {"status": 503, "reason": "ServiceUnavailable"},
        {"status": 503, "reason": "ServiceUnavailable", "retry_after": 3},
        {"status": 429, "reason": "TooManyRequests", "retry_after": 2},
        {"status": 410, "reason": "Unregistered"},
        {"status": 400, "reason": "BadDeviceToken"},
        {"status": 502, "body": "<html>Bad Gateway</html>"},
    ),
    "fcm": (
        {"status": 500, "shape": "j"},
        {"status": 502, "shape": "k"},
        {"status": 503, "reason": "UNAVAILABLE"},
        {"status": 503, "reason": "UNAVAILABLE", "retry_after": 12},
        {"status": 429, "shape": "m"},
        {"status": 404, "shape": "f"},
        {"status": 403, "shape": "h"},
    ),
}
#: Answers that speak of a connection or of everybody.
_WIDE: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "apns": ({"status": 503, "reason": "Shutdown"},),
    "fcm": ({"status": 429, "reason": "QUOTA_EXCEEDED", "retry_after": 2},),
}
_STREAMS: Final = {"apns": 1000, "fcm": 100}
_HMS: Final[Sequence[Fault]] = (
    {"answer": {"status": 500}},
    {"answer": {"status": 502, "body": "<html>Bad Gateway</html>"}},
    {"answer": {"status": 503}},
    {"answer": {"status": 429, "retry_after": 3}},
    {"answer": {"status": 500, "reason": "81000001"}},
    {"delay_ms": 1500},
    {"stall": True},
    {"rst": "REFUSED_STREAM"},
    {"rst": "CANCEL", "processed": True},
    {"goaway": {"close": "drained"}},
    {"cut": "now", "processed": True},
    {"cut": "mid_frame"},
)


def mishaps(share: float, platforms: Sequence[str]) -> list[Fault]:
    """A fault table in which every kind strikes now and then.

    Args:
        share: of the requests, of all kinds together that concern one request.
    """
    table: list[Fault] = []
    for platform in platforms:
        table += _hms(share) if platform == "hms" else _streamed(platform, share)
    table += [
        {"platform": name, "probability": OAUTH_SHARE, "answer": {"status": 503}}
        for platform, name in (("fcm", "oauth"), ("hms", "hms_oauth"))
        if platform in platforms
    ]
    return table


def _streamed(platform: str, share: float) -> list[Fault]:
    alone = [*({"answer": answer} for answer in _ANSWERS[platform]), *_REQUEST]
    # A shrunk limit stays until the next word about it.
    wide = [*({"answer": answer} for answer in _WIDE[platform]), *_CONNECTION, {"limit": _STREAMS[platform]}]
    rows: list[Fault] = [
        {"platform": platform, "idle_close": {"after_ms": 20_000, "reason": "idle"}},
        {"platform": platform, "late_window": {"delay_ms": 20, "piece": 30_000}},
    ]
    rows += [{"platform": platform, "probability": 1 / RARELY, **fault} for fault in wide]
    rows += [{"platform": platform, "probability": share / len(alone), **fault} for fault in alone]
    return rows


def _hms(share: float) -> list[Fault]:
    each = share * HMS_OFTENER / HMS_DEVICES / len(_HMS)
    rows: list[Fault] = [{"platform": "hms", "probability": each, **fault} for fault in _HMS]
    partial = {"status": 200, "reason": "80100000"}
    return [*rows, {"platform": "hms", "probability": share / 4, "answer": partial}]
