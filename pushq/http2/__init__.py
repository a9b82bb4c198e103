"""HTTP/2 for many alike requests: bursts in, one octet of outcome per request out.

Greenlets wait, so a process that uses a :class:`Pool` runs its other work in greenlets too.
"""

from pushq.http2.burst import Answer, Burst, Code
from pushq.http2.client_certificate import ClientCertificate, read_client_certificate
from pushq.http2.errors import BurstMisused, Http2Error, PoolClosed, PoolSaturated
from pushq.http2.events import GoAwayReceived
from pushq.http2.figures import ConnectionState, ConnectionStats, PoolObserver, PoolStats
from pushq.http2.pool import Pool, never
from pushq.http2.proxy import Proxy
from pushq.http2.reasons import NO_CONNECTION, Reason
from pushq.http2.settings import Origin, PoolSettings
from pushq.http2.templates import HeaderTemplate

__all__ = [
    "NO_CONNECTION",
    "Answer",
    "Burst",
    "BurstMisused",
    "ClientCertificate",
    "Code",
    "ConnectionState",
    "ConnectionStats",
    "GoAwayReceived",
    "HeaderTemplate",
    "Http2Error",
    "Origin",
    "Pool",
    "PoolClosed",
    "PoolObserver",
    "PoolSaturated",
    "PoolSettings",
    "PoolStats",
    "Proxy",
    "Reason",
    "never",
    "read_client_certificate",
]
