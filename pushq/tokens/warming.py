"""Fill the hot cache before a broadcast, in bulk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from pushq.database import Database
from pushq.platforms import PLATFORMS
from pushq.tokens.cache import MAX_READ_TO_FILL_S, RECENT, TokenCache
from pushq.tokens.entries import encode_entries
from pushq.tokens.partitions import partitions

logger = logging.getLogger("pushq.cache")

PAGE = 10_000

# WITH TIES: a page never ends between two devices of one user. Users without a recent device are left out here already.
_PAGE = """
SELECT user_id, id, app, environment, token, language, nullif(attributes, '{{}}') AS attributes,
       last_seen > now() - cast(:recent AS interval) AS recent, platform
  FROM {partition}
 WHERE is_active AND user_id > :after_user
 ORDER BY user_id FETCH FIRST :limit ROWS WITH TIES
"""


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
    """Add the entries of users seen within 30 days, of those with a device of ``app`` only if one is given.

    Args:
        progress: called with the number of devices looked at so far.

    Raises:
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    started = time.monotonic()
    devices = entries = 0
    for partition in partitions(database):
        statement = text(_PAGE.format(partition=partition))
        after = -(2**63)
        while True:
            epoch, read_at = cache.epoch(), time.monotonic()
            if epoch is None:
                return WarmReport(devices, entries, time.monotonic() - started, complete=False)
            with database.begin() as connection:
                rows = connection.execute(
                    statement, {"recent": RECENT, "after_user": after, "limit": page}
                ).fetchall()
            for platform in platforms:
                chosen = [row[:8] for row in rows if row[8] == platform]
                if app is not None:
                    of_app = {row[0] for row in chosen if row[2] == app}
                    chosen = [row for row in chosen if row[0] in of_app]
                if chosen and time.monotonic() - read_at < MAX_READ_TO_FILL_S:
                    entries += cache.fill(encode_entries(platform, chosen), epoch)
            devices += len(rows)
            progress(devices)
            if len(rows) < page:
                break
            after = rows[-1].user_id
    report = WarmReport(devices, entries, time.monotonic() - started, complete=True)
    logger.info(
        "cache_warmed", extra={"devices": devices, "entries": entries, "seconds": round(report.seconds, 3)}
    )
    return report
