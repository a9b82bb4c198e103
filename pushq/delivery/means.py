"""What a process delivers with: made once, used by every batch that runs in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pushq.database import Database
from pushq.delivery.drain import Drain
from pushq.delivery.gate import Gate
from pushq.ledger.journal import Journal
from pushq.ledger.orders import Order
from pushq.limits.token_guard import TokenGuard
from pushq.providers.client import ProviderClient
from pushq.settings import Settings
from pushq.tokens.cache import TokenCache


@dataclass(frozen=True)
class Means:
    """See :class:`pushq.delivery.run.Delivery`.

    Attributes:
        renewed: whether the configuration has another client for this app and platform by now; looks at the files.
    """

    database: Database
    journal: Journal
    cache: TokenCache
    clients: Mapping[tuple[str, str], ProviderClient]
    settings: Settings
    gate: Gate
    guard: TokenGuard
    drain: Drain
    clock: Callable[[], datetime]
    random: Callable[[], float]
    renewed: Callable[[tuple[str, str], ProviderClient], bool] = lambda key, client: False


@dataclass(frozen=True)
class Step:
    """What one run led to: orders to publish now, and when to run the batch again (None: not by this message)."""

    orders: list[Order] = field(default_factory=list)
    retry_in: float | None = None
