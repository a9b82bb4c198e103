"""The storm of benchmarks/storm.py in small: FCM fails in every way at once, APNs beside it works."""

from __future__ import annotations

import pytest

from benchmarks.ground import ground
from benchmarks.storm import problems, storm

pytestmark = pytest.mark.timeout(240)


def test_a_storm_ends_with_the_exhausted_as_dead_letters() -> None:
    """No request before its Retry-After, never more attempts than two, and ledger, dead letters and provider agree."""
    settings = {"PUSHQ_REQUEST_TIMEOUT": "4", "PUSHQ_RETRY_MAX_ATTEMPTS": "2", "PUSHQ_SWEEP_SECONDS": "1"}
    with ground(mock={"latency_ms": 50.0}, settings=settings) as place:
        place.add_devices("apns", 2000, first=1)
        place.add_devices("fcm", 2000, first=2001)
        found = storm(place, 4000, "fcm", retry_after=2, stalls=0.002, timeout_s=180)
    assert problems(found) == []
    assert found["exhausted"] > 0
    assert 1 < found["requests_per_recipient"] <= 2
