"""How many devices there are, and in which state: counted, or estimated from a sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text

from pushq.database import Database
from pushq.tokens.partitions import partition_names
from pushq.tokens.reading import RECENT

_COUNT = """
SELECT app, platform, environment, is_active, deactivation_reason, count(*) AS devices,
       count(*) FILTER (WHERE last_seen > now() - cast(:recent AS interval)) AS seen
  FROM {partition} GROUP BY 1, 2, 3, 4, 5
"""


@dataclass(slots=True)
class DeviceCount:
    """The devices of one app, platform and environment.

    Attributes:
        seen: active devices seen within 30 days.
        by_reason: inactive devices by the reason of their deactivation.
    """

    app: str
    platform: str
    environment: str
    active: int = 0
    inactive: int = 0
    seen: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def stats(database: Database, *, recent: timedelta = RECENT) -> list[DeviceCount]:
    """Count all devices; one statement per partition, which reads it once. Sorted by app, platform, environment.

    Raises:
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    counts: dict[tuple[str, str, str], DeviceCount] = {}
    for partition in partition_names():
        with database.begin() as connection:
            rows = connection.execute(text(_COUNT.format(partition=partition)), {"recent": recent}).all()
        for app, platform, environment, is_active, reason, devices, seen in rows:
            count = counts.setdefault((app, platform, environment), DeviceCount(app, platform, environment))
            if is_active:
                count.active += devices
                count.seen += seen
            else:
                count.inactive += devices
                name = reason or "unknown"
                count.by_reason[name] = count.by_reason.get(name, 0) + devices
    return [counts[key] for key in sorted(counts)]


#: Blocks of 8 KB that an estimate reads at most, of all partitions together: 64 MB, some hundred thousand devices.
SAMPLE_BLOCKS: Final = 8192

_BLOCKS = text("""
SELECT coalesce(sum(pg_relation_size(relid)), 0)::bigint / current_setting('block_size')::bigint + 1
  FROM pg_partition_tree('device_tokens') WHERE isleaf
""")
_SAMPLE = """
SELECT app, platform, count(*) AS devices FROM device_tokens {sample} WHERE is_active GROUP BY 1, 2 ORDER BY 1, 2
"""


def estimate_active(database: Database, *, blocks: int = SAMPLE_BLOCKS) -> dict[tuple[str, str], int]:
    """Active devices by app and platform: exact while the table has no more than ``blocks`` blocks, else from that many of them.

    Of a large table an app with few devices may be missing: whole blocks are chosen at random, and devices that were imported together
    lie together.

    Raises:
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    with database.begin() as connection:
        total = int(connection.execute(_BLOCKS).scalar_one())
        percent = min(100.0, 100.0 * blocks / total)
        sample = "" if percent >= 100.0 else "TABLESAMPLE SYSTEM (:percent)"
        rows = connection.execute(text(_SAMPLE.format(sample=sample)), {"percent": percent} if sample else {})
        return {(row.app, row.platform): round(row.devices * 100.0 / percent) for row in rows}
