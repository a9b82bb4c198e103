"""From a work order to a message: ids only, about 200 bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from kombu.exceptions import OperationalError

from pushq.app import BROADCAST, PLATFORM_QUEUES, TRANSACTIONAL, app
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
            app.tasks[f"pushq.deliver_batch.{order.platform}"].apply_async(
                (str(order.send_id), order.batch_no), queue=PLATFORM_QUEUES[order.platform, lane]
            )
        case PlanShard():
            app.tasks["pushq.plan_shard"].apply_async(
                (str(order.send_id), order.shard_no),
                queue=TRANSACTIONAL if order.transactional else BROADCAST,
            )
        case ProcessDeadLetters():
            app.tasks["pushq.dead_letter"].apply_async((str(order.send_id), order.batch_no))
