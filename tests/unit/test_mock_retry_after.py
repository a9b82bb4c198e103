"""The mock counts requests that come before the end of the wait it asked for."""

from __future__ import annotations

import pytest

from pushq.mock.endpoint import Latency
from tests.unit.mock_provider import NOW, apns_request, apns_rules, endpoint


@pytest.mark.parametrize("retry_after", [5, "5", "Fri, 15 Jan 2027 08:00:05 GMT"])
def test_requests_before_their_retry_after_are_counted(retry_after: int | str) -> None:
    """As seconds, counted from the arrival of the answer, and as a date: NOW is 2027-01-15 08:00:00 GMT."""
    answer = {"status": 429, "reason": "TooManyRequests", "retry_after": retry_after}
    place = endpoint(apns_rules(), {"platform": "apns", "times": 1, "answer": answer})
    session = place.rules.open_session()
    for after in (0.0, 4.9, 5.0, 5.1):
        place.decide(apns_request(), session, NOW + after)
    assert place.tally.as_dict()["early"] == 1
    place.tally.reset()
    assert place.tally.as_dict()["early"] == 0


def test_the_wait_begins_when_the_answer_arrives() -> None:
    answer = {"status": 503, "reason": "ServiceUnavailable", "retry_after": 5}
    fault = {"platform": "apns", "times": 1, "answer": answer}
    place = endpoint(apns_rules(), fault, latency=Latency(0.2, 0.1))
    session = place.rules.open_session()
    for after in (0.0, 5.05, 5.11):
        place.decide(apns_request(), session, NOW + after)
    assert place.tally.early == 1
