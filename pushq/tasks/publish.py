"""From a work order to a message: ids only, about 200 bytes."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kombu.exceptions import OperationalError

from pushq import tracing
from pushq.app import BROADCAST, DEAD_LETTER, PLATFORM_QUEUES, PUBLISH_TIMEOUTS, TRANSACTIONAL, app, to_queue
from pushq.ledger.orders import DeliverBatch, Order, PlanShard, ProcessDeadLetters

log = logging.getLogger("pushq.publish")

#: Batches in one message: what one greenlet delivers in one go, and what is lost for half a minute when its message is.
TOGETHER: Final = 50


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


def publish_together(orders: Iterable[DeliverBatch]) -> int:
    """As :func:`publish`, for small batches of transactional sends: one message for all of a platform, or some. Returns how many batches."""
    by_platform: dict[str, list[DeliverBatch]] = defaultdict(list)
    for order in orders:
        by_platform[order.platform].append(order)
    sent = 0
    try:
        for platform, batches in by_platform.items():
            for start in range(0, len(batches), TOGETHER):
                some = batches[start : start + TOGETHER]
                app.tasks[f"pushq.deliver_together.{platform}"].apply_async(
                    ([[str(order.send_id), order.batch_no] for order in some],),
                    **to_queue(PLATFORM_QUEUES[platform, "transactional"]),
                    **PUBLISH_TIMEOUTS,
                )
                sent += len(some)
    except (OperationalError, OSError) as exc:
        log.error("publish_failed", extra={"published": sent, "error": type(exc).__name__})
    return sent


def publish_dead_letters(
    send_id: uuid.UUID, batch_nos: Sequence[int], headers: Mapping[str, str] | None
) -> int:
    """As :func:`publish`, for the dead letters of some batches of a send: one message. Returns how many batches.

    Args:
        headers: the send's trace; see :func:`pushq.tracing.send_headers`.
    """
    try:
        _send("pushq.dead_letters", send_id, list(batch_nos), DEAD_LETTER, headers)
    except (OperationalError, OSError) as exc:
        log.error("publish_failed", extra={"published": 0, "error": type(exc).__name__})
        return 0
    return len(batch_nos)


def publish_later(order: DeliverBatch, countdown: int) -> None:
    """Publish an order for later. Where that fails, the sweeper does it a little after its time."""
    try:
        app.tasks[f"pushq.deliver_batch.{order.platform}"].apply_async(
            (str(order.send_id), order.batch_no),
            queue=PLATFORM_QUEUES[order.platform, "transactional" if order.transactional else "broadcast"],
            countdown=countdown,
            **PUBLISH_TIMEOUTS,
        )
    except (OperationalError, OSError) as exc:
        log.error("publish_failed", extra={"published": 0, "error": type(exc).__name__})


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
            _send("pushq.dead_letters", order.send_id, [order.batch_no], DEAD_LETTER)


def _send(
    task: str,
    send_id: uuid.UUID,
    number: int | list[int],
    queue: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    app.tasks[task].apply_async(
        (str(send_id), number),
        headers=headers or tracing.send_headers() or None,
        **to_queue(queue),
        **PUBLISH_TIMEOUTS,
    )
