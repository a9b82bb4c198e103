"""A batch waits long enough for the slowest rate that a send may have."""

from __future__ import annotations

from pushq.delivery.sending import LONGEST_WAIT_S, PATIENCE_SEND_RATE_S
from pushq.limits.bucket import WINDOW_S, Bucket, limit


def test_a_rate_of_one_is_waited_for() -> None:
    bucket = Bucket(limit(1 * WINDOW_S), at=0.0)
    _, wait = bucket.take(0.0, 1, transactional=True)
    assert 1.0 < wait < min(PATIENCE_SEND_RATE_S, LONGEST_WAIT_S)
