"""A checked call on its way to the worker: what is not looked at twice, and what makes it the same call."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pushq.errors import InvalidRequest
from pushq.submission import Submission, parse_submission, submit


def call() -> Submission:
    return submit(
        "transactional",
        notification={"title": "Hi"},
        audience={"user_ids": [7]},
        guarantee="at_least_once",
        called_at=datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
    )


def test_what_this_version_has_checked_travels_with_the_call_and_what_another_has_is_checked_again() -> None:
    document = call().as_json()
    # Too long for APNs: a caller of this version would not have published it.
    document["notification"] = {"title": "Hi", "body": "x" * 5000}
    assert parse_submission(document).notification.body == "x" * 5000
    for version in ("0.0.1", None):
        with pytest.raises(InvalidRequest, match="notification"):
            parse_submission(document | {"checked": version})
    del document["checked"]
    with pytest.raises(InvalidRequest, match="notification"):
        parse_submission(document)


def test_who_checked_a_call_does_not_make_it_another_one() -> None:
    one = call()
    document = one.as_json()
    assert one.fingerprint(document | {"checked": "0.0.1"}) == one.fingerprint() == one.fingerprint(document)
    assert one.fingerprint(document | {"rate": 7}) != one.fingerprint()
