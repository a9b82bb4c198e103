"""The decisions of the pool as plain functions: how many connections, in which order addresses, how long to wait."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.http2.gate import Admission, BackOff, HostGate
from pushq.http2.racing import Address, arrange
from pushq.http2.reasons import Reason
from pushq.http2.settings import PoolSettings
from pushq.http2.sizing import Idle, Latency, Load, Need, need, surplus

SETTINGS = PoolSettings(min_connections=2, max_connections=8)
#: Two connections of 900 streams, all in use, and more waits: at 80 ms, for 0.4 s.
BUSY = Load(
    taking=2, draining=0, owed=0, dormant=False, queued=9000, all_full=True, streams=1800, latency_s=0.08
)


@pytest.mark.parametrize(
    ("load", "verdict"),
    [
        (BUSY, Need.CONNECTION),
        (replace(BUSY, all_full=False), Need.NOTHING),
        (replace(BUSY, queued=0), Need.NOTHING),
        # What waits now has a stream before a new connection would be open.
        (replace(BUSY, queued=2000), Need.NOTHING),
        # A provider that has become slow: the same queue waits longer.
        (replace(BUSY, queued=2000, latency_s=5.0), Need.CONNECTION),
        # Nothing is known of the latency yet.
        (replace(BUSY, queued=1, latency_s=None), Need.CONNECTION),
        (replace(BUSY, taking=8), Need.MORE_THAN_ALLOWED),
        (replace(BUSY, taking=0, streams=0), Need.CONNECTION),
        # The minimum is kept, unless nobody wants anything.
        (replace(BUSY, taking=1, queued=0), Need.CONNECTION),
        (replace(BUSY, taking=1, queued=0, dormant=True), Need.NOTHING),
        (replace(BUSY, taking=0, dormant=True, streams=0), Need.CONNECTION),
        # A successor for what drains, whether work waits or not.
        (replace(BUSY, queued=0, owed=1), Need.CONNECTION),
        (replace(BUSY, queued=0, owed=1, taking=8), Need.NOTHING),
        (replace(BUSY, draining=16), Need.NOTHING),
    ],
)
def test_when_a_connection_is_needed(load: Load, verdict: Need) -> None:
    assert need(load, SETTINGS) is verdict


def test_which_connection_is_surplus() -> None:
    settings = replace(SETTINGS, idle_close_s=100.0)
    idle = [Idle(1, 50.0), Idle(2, 10.0), Idle(3, 20.0)]
    assert surplus(3, idle, settings, now=111.0, last_closed_at=-1e9) == 2, "least recently used"
    assert surplus(3, idle, settings, now=109.0, last_closed_at=-1e9) is None, "not unused for long enough"
    assert surplus(2, idle, settings, now=999.0, last_closed_at=-1e9) is None, "the minimum"
    assert surplus(3, idle, settings, now=999.0, last_closed_at=990.0) is None, "one at a time"
    assert surplus(3, idle, settings, now=1000.0, last_closed_at=990.0) == 2
    assert surplus(9, [], settings, now=999.0, last_closed_at=-1e9) is None, "all are at work"


def test_latency_from_counts() -> None:
    latency = Latency()
    latency.sample(0.0, 0, 0)
    assert latency.at_least(5.0) is None, "nothing has been answered"
    for tick in range(1, 50):
        latency.sample(tick * 0.1, tick * 1000, 800)  # 10,000/s with 800 in flight
    assert latency.seconds == pytest.approx(0.08)
    latency.sample(5.0, 49_000, 800)  # no answer came
    assert latency.seconds == pytest.approx(0.08)
    assert latency.at_least(3.0) == 3.0, "the oldest request has been waiting for longer"


@given(st.integers(0, 40), st.floats(0, 1, exclude_max=True))
def test_back_off_stays_between_half_and_whole(failures: int, chance: float) -> None:
    back_off = BackOff()
    for _ in range(failures + 1):
        back_off.failed(Reason.DNS, 100.0, 100.0, 0.5, 30.0, lambda: chance)
    ceiling = min(30.0, 0.5 * 2.0**failures)
    assert ceiling / 2 <= back_off.open_after - 100.0 <= ceiling


def test_connections_that_end_together_are_one_failure() -> None:
    back_off = BackOff()
    for opened_at in (90.0, 91.0, 92.0):
        back_off.failed(Reason.WEDGED, opened_at, 100.0 + opened_at / 1000, 1.0, 30.0, lambda: 1.0)
    assert back_off.failures == 1
    assert back_off.open_after == pytest.approx(101.09)
    back_off.failed(Reason.WEDGED, 102.0, 103.0, 1.0, 30.0, lambda: 1.0)
    assert (back_off.failures, back_off.open_after) == (2, 105.0)


def test_who_waits_for_whose_failure() -> None:
    gate = HostGate()
    one, same, other = Admission(gate, "a"), Admission(gate, "a"), Admission(gate, "b")
    one.failed(Reason.TLS_FAILED, 100.0, 100.0, 1.0, 30.0, lambda: 1.0)
    assert (one.wait_s(100.0), same.wait_s(100.0)) == (1.0, 1.0)
    assert other.wait_s(100.0) <= 0
    assert (same.reason, other.reason) == (Reason.TLS_FAILED, None)
    other.failed(Reason.CONNECT_REFUSED, 100.0, 100.0, 4.0, 30.0, lambda: 1.0)
    assert [each.wait_s(100.0) for each in (one, same, other)] == [4.0] * 3
    # Letting us in is not enough: the host is fine again, the route only when a connection has proven itself.
    one.opened(200.0, 0.1)
    assert one.wait_s(200.0) == pytest.approx(0.1)
    assert (one.failures, one.reason, other.reason) == (1, None, None)
    same.proven()
    assert one.failures == 0


V4 = [Address(socket.AF_INET, (f"192.0.2.{number}", 443)) for number in range(4)]
V6 = [Address(socket.AF_INET6, (f"2001:db8::{number}", 443, 0, 0)) for number in range(2)]


def test_families_take_turns() -> None:
    assert arrange([*V6, *V4], 0) == [V6[0], V4[0], V6[1], V4[1], V4[2], V4[3]]
    assert arrange([*V4, *V6], 1) == [V4[1], V6[1], V4[2], V6[0], V4[3], V4[0]]
    assert arrange([], 5) == []


@given(st.permutations([*V4, *V6]), st.integers(0, 2**16))
def test_no_address_is_lost_and_every_one_comes_first(addresses: list[Address], turn: int) -> None:
    assert sorted(arrange(addresses, turn)) == sorted(addresses)
    firsts = {arrange(addresses, turn + step)[0] for step in range(len(addresses))}
    assert firsts == {each for each in addresses if each.family == addresses[0].family}
