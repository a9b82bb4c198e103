"""A send's own rate and retry policy, checked at the call; and the speed that the picture of a running send shows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pushq.errors import InvalidRequest
from pushq.ledger.pace import POLL_S, RATE_OVER_S, Speed, duration
from pushq.submission import MAX_RATE, Submission, parse_submission, submit
from pushq.tasks.entry import send_broadcast, send_notification

NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


def call(**options: Any) -> Submission:
    return submit(
        "broadcast",
        notification={"title": "Sale"},
        audience={"segments": ["all"]},
        guarantee="at_most_once",
        called_at=NOW,
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": 1},
        {"rate": MAX_RATE, "retry": {"max_attempts": 0}},
        {"retry": {"max_attempts": 20, "initial_delay": 2, "max_delay": 2.5}},
    ],
)
def test_they_travel(options: dict[str, Any]) -> None:
    submission = call(**options)
    assert parse_submission(submission.as_json()) == submission
    assert (submission.rate, submission.retry) == (options.get("rate"), options.get("retry"))


def test_no_override_is_none() -> None:
    assert call(retry={}).as_json() == call().as_json()


def test_another_pace_is_another_call() -> None:
    assert (
        len({call(**options).fingerprint() for options in ({}, {"rate": 1}, {"retry": {"max_attempts": 1}})})
        == 3
    )


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"rate": 0}, "rate", "int 0"),
        ({"rate": -5}, "rate", "int -5"),
        ({"rate": 2.5}, "rate", "float 2.5"),
        ({"rate": True}, "rate", "bool"),
        ({"rate": "100"}, "rate", "str"),
        ({"rate": MAX_RATE + 1}, "rate", "1,000,000"),
        ({"retry": 3}, "retry", "max_attempts, initial_delay, max_delay"),
        ({"retry": {"attempts": 3}}, "retry.attempts", "max_attempts"),
        ({"retry": {"max_attempts": -1}}, "retry.max_attempts", "greater than or equal to 0"),
        ({"retry": {"max_attempts": 21}}, "retry.max_attempts", "20"),
        ({"retry": {"max_attempts": "3"}}, "retry.max_attempts", "integer"),
        ({"retry": {"max_attempts": 2.0}}, "retry.max_attempts", "integer"),
        ({"retry": {"initial_delay": 0}}, "retry.initial_delay", "greater than 0"),
        ({"retry": {"max_delay": float("nan")}}, "retry.max_delay", "finite"),
        ({"retry": {"max_delay": 90_000}}, "retry.max_delay", "86400"),
        ({"retry": {"initial_delay": 9, "max_delay": 3}}, "retry.max_delay", "at least initial_delay"),
    ],
)
def test_a_wrong_pace_names_its_field(options: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        call(**options)
    assert refused.value.field == field


def test_both_tasks_take_them() -> None:
    pace: dict[str, Any] = {"rate": 10, "retry": {"max_attempts": 2}}
    for task, audience in (
        (send_broadcast, {"audience": {"segments": ["all"]}}),
        (send_notification, {"user_ids": [1]}),
    ):
        submission = task.checked((), {"notification": {"title": "x"}, **audience, **pace})
        assert (submission.rate, submission.retry) == (10, {"max_attempts": 2})


class TestSpeed:
    def test_it_is_that_of_the_last_seconds(self) -> None:
        speed = Speed()
        assert speed.rate(0.0, 1000) is None
        assert {speed.rate(float(second), 1000 + 100 * second) for second in range(1, 20)} == {100}
        faster = [speed.rate(20.0 + second, 2900 + 1000 * second) for second in range(10)]
        assert faster[-1] == 1000

    def test_a_send_that_moves_in_steps_has_a_steady_rate(self) -> None:
        """A batch of 2,500 every ten seconds: not 0, and not 500, which is what five seconds alone would show."""
        speed = Speed()
        rates = [speed.rate(tick / 4, tick // 40 * 2500) for tick in range(1200)]
        later = [rate for rate in rates[240:] if rate is not None]
        assert min(later) > 150
        assert max(later) < 350

    def test_what_stands_still_comes_to_nothing(self) -> None:
        speed = Speed()
        for second in range(10):
            speed.rate(float(second), 100 * second)
        assert speed.rate(100.0, 900) == 0

    def test_the_first_look_tells_nothing_for_a_while(self) -> None:
        speed = Speed()
        assert speed.rate(0.0, 10) is None
        assert speed.rate(RATE_OVER_S - 0.1, 10) is None
        assert speed.rate(RATE_OVER_S, 10) == 0

    def test_few_steps_are_kept(self) -> None:
        speed = Speed()
        for tick in range(10_000):
            speed.rate(tick * POLL_S, tick)
        assert len(speed._steps) <= RATE_OVER_S / POLL_S + 2


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0 s"), (119, "119 s"), (720, "12 min"), (12_600, "3.5 h"), (1e6, "277.8 h")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
