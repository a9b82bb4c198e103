"""The ledger as a whole, for who watches it: sends by state, batches that wait, and how far the newest open broadcasts are.

Every statement reads through a partial index of what is open, but for the sums of the open broadcasts: these read all of their batches.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from pushq.database import Database
from pushq.ledger.outcomes import COLUMNS
from pushq.ledger.release import REPUBLISH_AFTER_S
from pushq.ledger.sends import FINAL_STATES

STATES: Final = ("scheduled", "planning", "sending", "paused", *FINAL_STATES)
OPEN_BATCHES: Final = ("planned", "queued", "running", "retry")
#: Open broadcasts that are looked at one by one, the newest.
NEWEST: Final = 50
#: The rate of a send is that of so many seconds before now.
RATE_OVER_S: Final = 120
#: A look that takes longer than this is not worth its price.
STATEMENT_TIMEOUT_S: Final = 4

_STATES = """
    SELECT state, count(*) AS sends FROM sends
    WHERE state IN ('scheduled', 'planning', 'sending', 'paused') GROUP BY 1
    UNION ALL
    SELECT state, count(*) FROM sends
    WHERE state IN ('done', 'failed', 'cancelled') AND finished_at > now() - interval '1 day' GROUP BY 1
"""

# When a batch was published is not written down, but follows from when the sweeper looks at it next: each publication (n = 0, 1 ...) put
# that off by 30 s times 2 to the power of n, of 5 at most. The sum of the first p of them is below.
_FIRST_PUBLISHED = f"""
    b.due_at - make_interval(secs => {REPUBLISH_AFTER_S} * (power(2, least(b.publishes, 6)) - 1 + 32 * greatest(b.publishes - 6, 0)))
"""
_BATCHES = f"""
    SELECT b.platform, b.state, count(*) AS batches,
           max(extract(epoch FROM now() - CASE b.state WHEN 'queued' THEN {_FIRST_PUBLISHED}
                                                       WHEN 'retry' THEN b.retry_at
                                                       WHEN 'running' THEN b.due_at END))
               FILTER (WHERE s.state IN ('planning', 'sending')) AS waiting
    FROM send_batches b JOIN sends s ON s.id = b.send_id
    WHERE b.state NOT IN ('done', 'parked') GROUP BY 1, 2
"""  # noqa: S608

_BROADCASTS = """
    SELECT id, app, state,
           least(extract(epoch FROM now() - greatest(called_at, coalesce(send_at, called_at))), :over)::float AS running
    FROM sends WHERE state IN ('scheduled', 'planning', 'sending', 'paused') AND kind = 'broadcast'
    ORDER BY created_at DESC, id LIMIT :newest
"""
_ENDED = " + ".join(COLUMNS.values())
_RECIPIENTS = f"""
    SELECT send_id, platform, sum(recipients)::bigint AS recipients,
           {", ".join(f"sum({column})::bigint AS {column}" for column in COLUMNS.values())},
           coalesce(sum({_ENDED}) FILTER (WHERE settled_at > now() - make_interval(secs => :over)), 0)::bigint AS lately
    FROM send_batches WHERE send_id = ANY(CAST(:ids AS uuid[])) GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608


@dataclass(frozen=True)
class OpenBroadcast:
    """How far a broadcast is.

    Attributes:
        pending: by platform, recipients that are planned and have no final outcome.
        outcomes: by platform and column of the ledger, recipients.
        eta_s: seconds left at the rate of the last two minutes; None while it is being planned or held, or none was sent.
    """

    id: uuid.UUID
    app: str
    pending: Mapping[str, int]
    outcomes: Mapping[str, Mapping[str, int]]
    eta_s: float | None


@dataclass(frozen=True)
class Overview:
    """The ledger at a moment.

    Attributes:
        sends: by each of :data:`STATES`; those that have ended, within the last day.
        batches: by platform and state, of those that are not done.
        waiting_s: by platform, how long the batch that waits longest has been due without anybody taking it up. Batches of paused sends
            do not wait, and those behind the window of their send do not either.
    """

    sends: Mapping[str, int]
    batches: Mapping[tuple[str, str], int]
    waiting_s: Mapping[str, float]
    broadcasts: tuple[OpenBroadcast, ...]


def overview(database: Database) -> Overview:
    """Look at everything that is open.

    Raises:
        ServiceUnavailable: PostgreSQL cannot be reached.
        OperationalError: it took longer than four seconds a statement.
    """
    with database.begin() as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
        sends = dict.fromkeys(STATES, 0) | {
            row.state: int(row.sends) for row in connection.execute(text(_STATES)).all()
        }
        batches: dict[tuple[str, str], int] = {}
        waiting: dict[str, float] = {}
        for row in connection.execute(text(_BATCHES)).all():
            batches[row.platform, row.state] = int(row.batches)
            waiting[row.platform] = max(waiting.get(row.platform, 0.0), float(row.waiting or 0.0))
        return Overview(sends, batches, waiting, _broadcasts(connection))


def _broadcasts(connection: Connection) -> tuple[OpenBroadcast, ...]:
    sends = connection.execute(text(_BROADCASTS), {"newest": NEWEST, "over": RATE_OVER_S}).all()
    if not sends:
        return ()
    rows = connection.execute(
        text(_RECIPIENTS), {"ids": [send.id for send in sends], "over": RATE_OVER_S}
    ).all()
    found = []
    for send in sends:
        own = [row for row in rows if row.send_id == send.id]
        outcomes = {
            row.platform: {column: getattr(row, column) for column in COLUMNS.values()} for row in own
        }
        pending = {row.platform: row.recipients - sum(outcomes[row.platform].values()) for row in own}
        lately = sum(row.lately for row in own)
        eta = None
        if send.state == "sending" and lately and send.running > 0:
            eta = sum(pending.values()) * send.running / lately
        found.append(OpenBroadcast(send.id, send.app, pending, outcomes, eta))
    return tuple(found)
