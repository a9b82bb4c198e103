"""From a work order to a message: ids only, about 200 bytes."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable

from kombu.exceptions import OperationalError

from pushq import tracing
from pushq.app import BROADCAST, DEAD_LETTER, PLATFORM_QUEUES, PUBLISH_TIMEOUTS, TRANSACTIONAL, app
from pushq.ledger.orders import DeliverBatch, Order, PlanShard, ProcessDeadLetters

log = logging.getLogger("pushq.publish")


def publish(orders: Iterable[Order]) -> int:
    """Publish orders, after the transaction that led to them has been committed. Returns how many went out.

    What the broker does not take is not lost: the ledger knows it is due, and the sweeper publishes it again.
    """
    sent = 0
    try:
        for order in orders:
            _publish(order)
            sent += 1
    except (OperationalError, OSError) as exc:
        log.error("publish_failed", extra={"published": sent, "error": type(exc).__name__})
    return sent


def _publish(order: Order) -> None:
    match order:
        case DeliverBatch():
            lane = "transactional" if order.transactional else "broadcast"
            _send(
                f"pushq.deliver_batch.{order.platform}",
                order.send_id,
                order.batch_no,
                PLATFORM_QUEUES[order.platform, lane],
            )
        case PlanShard():
            _send(
                "pushq.plan_shard",
                order.send_id,
                order.shard_no,
                TRANSACTIONAL if order.transactional else BROADCAST,
            )
        case ProcessDeadLetters():
            _send("pushq.dead_letter", order.send_id, order.batch_no, DEAD_LETTER)


def _send(task: str, send_id: uuid.UUID, number: int, queue: str) -> None:
    app.tasks[task].apply_async(
        (str(send_id), number), queue=queue, headers=tracing.send_headers() or None, **PUBLISH_TIMEOUTS
    )
