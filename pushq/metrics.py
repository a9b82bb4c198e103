"""Every metric of pushq: names and label sets in one place, labels from closed sets.

The parts count where something is decided; a worker serves what they counted on ``PUSHQ_METRICS_PORT``. No device, user, send or
text of a provider is ever a label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, start_http_server

from pushq.errors import SettingsError

_TARGET: Final = ("app", "platform")

mass_invalidation_held: Final = Gauge(
    "pushq_mass_invalidation_held",
    "1 while so many tokens are refused in a way that a wrong set-up causes that none is invalidated.",
    _TARGET,
)
mass_invalidation_holds: Final = Counter(
    "pushq_mass_invalidation_holds",
    "Batches whose refused tokens condemned the set-up.",
    _TARGET,
)
breaker_state: Final = Gauge(
    "pushq_breaker_state",
    "Circuit breaker as this process last saw it: 0 closed, 1 half open, 2 open.",
    _TARGET,
)
rate_limit_wait_seconds: Final = Counter(
    "pushq_rate_limit_wait_seconds",
    "Seconds that batches were told to wait; reason: rate, send_rate, retry_after, breaker_open.",
    (*_TARGET, "reason"),
)
rate_limit_local: Final = Counter(
    "pushq_rate_limit_local",
    "Grants by the local limit, because Redis could not be reached.",
    _TARGET,
)
guarded_unproven: Final = Counter(
    "pushq_guarded_unproven",
    "Rejections of tokens that were not believed: nothing proves that the set-up is right.",
    _TARGET,
)
batches_parked: Final = Counter(
    "pushq_batches_parked", "Batches that crashed their workers too often and were put aside."
)
sweeper: Final = Counter("pushq_sweeper", "What the sweeper did, in rows.", ("action",))
leases_lost: Final = Counter("pushq_leases_lost", "Leases that another holder took over or that ended.")
unknown: Final = Counter(
    "pushq_unknown", "Recipients of whom nobody knows whether they were reached.", (*_TARGET, "reason")
)


def serve(host: str, port: int) -> Callable[[], None]:
    """Serve the metrics over HTTP; returns what ends it.

    Raises:
        SettingsError: nobody can listen there.
    """
    try:
        server, thread = start_http_server(port, host)
    except OSError as exc:
        raise SettingsError(
            f"PUSHQ_METRICS_PORT: found {port} on {host}, where nobody can listen ({exc.strerror}); "
            "expected a port of its own for each worker of this machine"
        ) from exc

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5.0)

    return end
