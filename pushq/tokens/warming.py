"""Fill the hot cache before a broadcast, in bulk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pushq.database import Database
from pushq.platforms import PLATFORMS
from pushq.tokens.buckets import SHIFT
from pushq.tokens.cache import MAX_READ_TO_FILL_S, TokenCache
from pushq.tokens.entries import encode
from pushq.tokens.partitions import partition_names
from pushq.tokens.reading import LAST_USER, page_of

logger = logging.getLogger("pushq.cache")

PAGE = 10_000


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What a warming did.

    Attributes:
        devices: looked at.
        entries: added to the cache; what was there already stays.
        complete: False if Redis went away.
    """

    devices: int
    entries: int
    seconds: float
    complete: bool


def warm(
    database: Database,
    cache: TokenCache,
    *,
    app: str | None = None,
    platforms: Sequence[str] = PLATFORMS,
    progress: Callable[[int], None] = lambda _: None,
    page: int = PAGE,
) -> WarmReport:
    """Add the entries of users seen within 30 days; only those with a device of ``app`` in them, if one is given.

    Args:
        progress: called with the number of devices looked at so far.

    Raises:
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    started = time.monotonic()
    devices = entries = 0
    for number, partition in enumerate(partition_names()):
        after = -(2**63)
        while after < LAST_USER:
            epoch, read_at = cache.epoch(), time.monotonic()
            if epoch is None:
                return WarmReport(devices, entries, time.monotonic() - started, complete=False)
            rows, after = page_of(database, partition, after, page)
            for platform in platforms:
                chosen = [row for row in rows if row.platform == platform]
                if app is not None:
                    of_app = {row.user_id >> SHIFT for row in chosen if row.app == app}
                    chosen = [row for row in chosen if row.user_id >> SHIFT in of_app]
                if chosen and time.monotonic() - read_at < MAX_READ_TO_FILL_S:
                    entries += cache.fill(encode(platform, number, chosen), epoch)
            devices += len(rows)
            progress(devices)
    report = WarmReport(devices, entries, time.monotonic() - started, complete=True)
    logger.info(
        "cache_warmed", extra={"devices": devices, "entries": entries, "seconds": round(report.seconds, 3)}
    )
    return report
