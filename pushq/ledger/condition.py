"""How sends stand, for those who work on them at the moment: one small question, often asked."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from pushq.database import Database

_RUNNING: Final = ("planning", "sending")


@dataclass(frozen=True)
class Condition:
    """``held``: nothing more is to be sent for now, or for ever. ``rate``: requests per second for the whole fleet, None: any."""

    held: bool
    rate: int | None


#: Of a send that is no longer there.
GONE: Final = Condition(held=True, rate=None)


def conditions(database: Database, send_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Condition]:
    """The condition of each of these sends.

    Raises:
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    with database.begin() as connection:
        rows = connection.execute(
            text("SELECT id, state, rate FROM sends WHERE id = ANY(CAST(:ids AS uuid[]))"),
            {"ids": list(send_ids)},
        ).all()
    found = {row.id: Condition(row.state not in _RUNNING, row.rate) for row in rows}
    return {send_id: found.get(send_id, GONE) for send_id in send_ids}
