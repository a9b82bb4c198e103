"""Faults of whole connections: how the table reads them. What they do is in test_mock_engines."""

from __future__ import annotations

from typing import Any

import pytest

from pushq.errors import InvalidRequest
from pushq.mock.connection_faults import ConnectionFaults, IdleClose, LateWindow
from pushq.mock.faults import FaultTable
from tests.unit.mock_provider import NOW


def test_faults_of_connections_are_kept_by_platform_until_replaced() -> None:
    table = FaultTable(
        [
            {
                "platform": "apns",
                "idle_close": {"after_ms": 500, "code": "ENHANCE_YOUR_CALM", "reason": "Idle"},
            },
            {"platform": "apns", "late_window": {"delay_ms": 20}},
            {"platform": "fcm", "late_window": {"delay_ms": 0, "piece": 1}},
        ]
    )
    assert table.connection("apns") == ConnectionFaults(
        IdleClose(0.5, code=11, debug=b'{"reason":"Idle"}'), LateWindow(0.02, 65_535)
    )
    assert table.connection("fcm") == ConnectionFaults(late_window=LateWindow(0.0, 1))
    assert table.strike("apns", b"t", 1, NOW) is None
    assert table.prefixes("apns") == ()
    table.replace([])
    assert table.connection("apns") == ConnectionFaults()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"idle_close": {"after_ms": 5}, "token": "ab"}, "token"),
        ({"idle_close": {"after_ms": 5}, "stall": True}, "stall"),
        ({"idle_close": {}}, "after_ms"),
        ({"idle_close": {"after_ms": -1}}, "after_ms"),
        ({"idle_close": {"after_ms": 1, "seconds": 2}}, "seconds"),
        ({"late_window": {"delay_ms": 5, "piece": 0}}, "piece"),
        ({"late_window": {"delay_ms": "5"}}, "delay_ms"),
        ({"late_window": 5}, "late_window"),
        ({"platform": "oauth", "idle_close": {"after_ms": 5}}, "platform"),
    ],
)
def test_a_malformed_fault_of_connections_is_named(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"fault\[0\].*{message}"):
        FaultTable([{"platform": "apns"} | fault])
