"""Ends that come in the middle: a client closed while pools start, a measurement whose server dies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from pushq.bench.wire import WireLoad, _Measurement
from pushq.http2 import Burst, Origin, Pool, Reason
from pushq.http2.greenlets import Signal
from pushq.providers.apns.client import ApnsClient
from pushq.providers.credential_metrics import CredentialMetrics
from tests.unit.http2_referee import burst_of


def test_a_pool_that_is_asked_for_while_the_client_closes_is_not_started() -> None:
    client = ApnsClient.__new__(ApnsClient)
    started: list[str] = []

    def pool(name: str) -> Pool:
        # What runs while a pool waits for its connections' ends.
        closes = SimpleNamespace(
            name=f"apns/closing/{name}",
            start=lambda: started.append(name),
            close=lambda _: client.pool("sandbox"),
        )
        return cast("Pool", closes)

    client._pools = {name: pool(name) for name in ("production", "sandbox")}
    client._started, client._closed, client._certificate = set(), False, None
    client._ends = CredentialMetrics("closing", "apns")
    client.start()
    client.close(1.0)
    assert started == ["production"]


def test_no_request_is_left_out_when_the_server_dies() -> None:
    def submit(burst: Burst, timeout: float) -> None:
        burst.attach(Signal(), lambda _: None)
        burst.cancel(Reason.CONNECT_REFUSED)

    pool = SimpleNamespace(submit=submit, close=lambda _: None, stats=lambda: SimpleNamespace(last_error=""))
    load = WireLoad(Origin("localhost", 443), "/3/device/", (), requests=7)
    measurement = _Measurement(cast("Pool", pool), load, None)
    measurement._answered_at = float("-inf")
    measurement._submit(burst_of(7), 1)
    measurement._finish_oldest()
    result = measurement._result
    assert (result.requests, result.resent, result.unanswered) == (7, 0, {"connect_refused": 7})
    assert result.stopped is not None
