"""The count of greenlets."""

from __future__ import annotations

import gevent
import gevent.event

from pushq.observe.greenlets import LiveGreenlets, alive


def test_a_greenlet_counts_from_its_start_to_its_end() -> None:
    before = alive()
    over = gevent.event.Event()
    started = [gevent.spawn(over.wait, 60) for _ in range(3)]
    gevent.sleep(0)
    assert alive() - before >= 3
    (family,) = LiveGreenlets().collect()
    assert family.samples[0].value >= 3
    over.set()
    gevent.joinall(started, timeout=60)
    assert alive() - before <= 1, "the loop itself may have begun with the first of them"
