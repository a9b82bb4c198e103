"""Why a request has no answer: a closed set, fit for metric labels."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """One word per cause. Members are strings and compare equal to their values."""

    # Why no connection could be made. Requests that waited for it are NOT_SENT.
    DNS = "dns"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_FAILED = "connect_failed"
    TLS_VERIFY_FAILED = "tls_verify_failed"
    TLS_FAILED = "tls_failed"
    NO_ALPN_H2 = "no_alpn_h2"
    NO_SETTINGS = "no_settings"
    PROXY_UNREACHABLE = "proxy_unreachable"
    PROXY_TIMEOUT = "proxy_timeout"
    PROXY_TLS_FAILED = "proxy_tls_failed"
    PROXY_AUTH = "proxy_auth"
    PROXY_FORBIDDEN = "proxy_forbidden"
    PROXY_BAD_GATEWAY = "proxy_bad_gateway"
    PROXY_REFUSED = "proxy_refused"
    PROXY_PROTOCOL = "proxy_protocol"

    # Why a connection ended, or takes no new requests.
    CONNECTION_LOST = "connection_lost"
    PROTOCOL_VIOLATION = "protocol_violation"
    PING_TIMEOUT = "ping_timeout"
    WRITE_STALLED = "write_stalled"
    GOAWAY = "goaway"
    RETIRED_BY_ANSWER = "retired_by_answer"
    WEDGED = "wedged"
    STREAMS_EXHAUSTED = "streams_exhausted"
    IDLE_CLOSED = (
        "idle_closed"  # by the peer, with nothing in flight and after a while of silence: no fault of anybody
    )
    SURPLUS = "surplus"  # by us: more connections than the work needs
    INTERNAL_ERROR = "internal_error"

    # Why a single request ended without an answer.
    REFUSED_STREAM = "refused_stream"
    STREAM_RESET = "stream_reset"
    MALFORMED_ANSWER = "malformed_answer"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    POOL_CLOSED = "pool_closed"
    CANCELLED = "cancelled"


#: No connection could be made: nothing was written, and the provider, or the way to it, is as good as down.
NO_CONNECTION: Final = frozenset(
    {
        Reason.DNS,
        Reason.CONNECT_REFUSED,
        Reason.CONNECT_TIMEOUT,
        Reason.CONNECT_FAILED,
        Reason.TLS_VERIFY_FAILED,
        Reason.TLS_FAILED,
        Reason.NO_ALPN_H2,
        Reason.NO_SETTINGS,
        Reason.PROXY_UNREACHABLE,
        Reason.PROXY_TIMEOUT,
        Reason.PROXY_TLS_FAILED,
        Reason.PROXY_AUTH,
        Reason.PROXY_FORBIDDEN,
        Reason.PROXY_BAD_GATEWAY,
        Reason.PROXY_REFUSED,
        Reason.PROXY_PROTOCOL,
    }
)
