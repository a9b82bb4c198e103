"""Where a pool connects to, and how it behaves."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from pushq.errors import SettingsError
from pushq.http2.frames import DEFAULT_HEADER_TABLE_SIZE


@dataclass(frozen=True, slots=True)
class Origin:
    """An HTTPS server.

    Attributes:
        ca_file: PEM with the authorities to trust instead of the system's.
        server_name: what the certificate must be for, if not ``host``.
        client_cert, client_key: for TLS client authentication: PEM, or a .p12 file and no key.
        client_password: file with the password of the .p12 file or of the key.
    """

    host: str
    port: int
    ca_file: Path | None = None
    server_name: str | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    client_password: Path | None = None

    @property
    def authority(self) -> bytes:
        """For ``:authority``. The default port is left out, as in every URL that the providers print."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == 443 else f"{host}:{self.port}").encode(
            "idna" if not host.isascii() else "ascii"
        )


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Times are seconds.

    Attributes:
        min_connections: opened at start and kept.
        max_connections: never more that take requests.
        stream_ceiling: share of the peer's MAX_CONCURRENT_STREAMS that is used.
        max_streams: our own cap per connection, also where the peer names none (FCM: 100).
        first_request_alone: a new connection writes one request and waits for its answer before it fans out.
        grow_wait_s: work that waits for a free stream opens a connection if it would wait longer than this.
        idle_close_s: connections above ``min_connections`` that were unused for so long are closed, one at a time.
        idle_after_s: a connection unused for so long is idle, and that its peer closes it is no failure.
        open_spacing_s: at least this between two connections to one host, whichever pools of the process they belong to.
        connect_timeout_s: name, TCP, TLS and the peer's SETTINGS together.
        request_timeout_s: from writing a request to the end of its answer.
        write_timeout_s: how long the peer may leave our bytes unread.
        queue_timeout_s: how long a burst may wait to be written.
        queue_limit: requests that may wait; ``submit`` blocks beyond.
        ping_after_s: an answer is overdue, and nothing at all came for so long: PING.
        ping_timeout_s: a PING not answered in this time ends the connection.
        idle_ping_s: PING on an idle connection.
        backoff_min_s, backoff_max_s: wait after failed attempts to connect, doubling, with jitter of half of it.
        grab: requests that a connection takes from the queue at a time while others could take some too.
        chunk: requests joined into one write at most.
        tick_s: how often time-outs are looked at, which is their precision.
        header_table_size: 0 asks the peer for answers that need no state; 4096 is HTTP/2's default.
    """

    min_connections: int = 1
    max_connections: int = 8
    stream_ceiling: float = 0.9
    max_streams: int = 1000
    first_request_alone: bool = True
    grow_wait_s: float = 0.25
    idle_close_s: float = 600.0
    idle_after_s: float = 1.0
    open_spacing_s: float = 0.1
    connect_timeout_s: float = 10.0
    request_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    queue_timeout_s: float = 30.0
    queue_limit: int = 20_000
    ping_after_s: float = 10.0
    ping_timeout_s: float = 10.0
    idle_ping_s: float = 3600.0
    backoff_min_s: float = 0.5
    backoff_max_s: float = 30.0
    grab: int = 250
    chunk: int = 500
    tick_s: float = 0.1
    header_table_size: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_s") and not value > 0:
                raise SettingsError(f"{field.name} is {value}; expected seconds above 0")
        for name in ("min_connections", "max_connections", "max_streams", "queue_limit", "grab", "chunk"):
            low = 0 if name == "min_connections" else 1
            if getattr(self, name) < low:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected {low} or more")
        if self.min_connections > self.max_connections:
            raise SettingsError(
                f"min_connections is {self.min_connections}; expected at most max_connections ({self.max_connections})"
            )
        if not 0 < self.stream_ceiling <= 1:
            raise SettingsError(f"stream_ceiling is {self.stream_ceiling}; expected above 0 and at most 1")
        if not 0 <= self.header_table_size <= DEFAULT_HEADER_TABLE_SIZE:
            raise SettingsError(
                f"header_table_size is {self.header_table_size}; expected 0 to {DEFAULT_HEADER_TABLE_SIZE}"
            )
