"""Work orders: what a step of the domain wants published, after its transaction has been committed.

An order is only ids. Losing one costs a delay (the sweeper issues it again), repeating one costs nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PlanShard:
    send_id: uuid.UUID
    shard_no: int
    transactional: bool = False


@dataclass(frozen=True)
class DeliverBatch:
    send_id: uuid.UUID
    batch_no: int
    platform: str
    transactional: bool = False


@dataclass(frozen=True)
class ProcessDeadLetters:
    """``letters``: how many there are, where that is known."""

    send_id: uuid.UUID
    batch_no: int
    letters: int = field(default=1, compare=False)


Order = PlanShard | DeliverBatch | ProcessDeadLetters
