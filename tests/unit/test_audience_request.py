"""Audiences and filters as callers write them: what is accepted, and what an error says."""

from __future__ import annotations

from typing import Any

import pytest

from pushq.audience.request import Audience, as_json, parse_audience, parse_filter
from pushq.errors import InvalidRequest


def refused(value: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_audience(value)
    return caught.value


def test_everything_at_once_and_back() -> None:
    document = {
        "segments": ["vips", "active-30d", "vips"],
        "exclude_segments": ["opted-out"],
        "user_ids": [3, 1, 3],
        "exclude_user_ids": [7],
        "platforms": ["fcm", "apns"],
        "filter": {"language": "pt_BR"},
    }
    audience = parse_audience(document)
    assert audience == Audience(
        segments=("vips", "active-30d"),
        exclude_segments=("opted-out",),
        user_ids=(3, 1),
        exclude_user_ids=(7,),
        platforms=("apns", "fcm"),
        filter={"language": ["pt-br"]},
    )
    assert parse_audience(as_json(audience)) == audience == parse_audience(audience)


def test_what_is_not_given_is_not_written() -> None:
    """The ledger asks whether the document has ``user_ids``."""
    assert as_json(parse_audience({"segments": ["all"]})) == {"segments": ["all"]}


@pytest.mark.parametrize(
    ("value", "field", "said"),
    [
        (None, "audience", "a mapping"),
        ("all", "audience", "a mapping"),
        ({}, "audience", 'segments=["all"]'),
        ({"platforms": ["apns"]}, "audience", 'segments=["all"]'),
        ({"segments": []}, "audience", 'segments=["all"]'),
        ({"segment": ["all"]}, "audience.segment", "did you mean segments?"),
        ({"segments": "all"}, "audience.segments", "a list of segment names"),
        ({"segments": ["a b"]}, "audience.segments", "letters"),
        ({"segments": [7]}, "audience.segments", "letters"),
        ({"segments": [f"s{n}" for n in range(101)]}, "audience.segments", "at most 100"),
        ({"segments": ["all"], "exclude_segments": ["all"]}, "audience.exclude_segments", "leave somebody"),
        ({"segments": ["all"], "platforms": ["ios"]}, "audience.platforms", "apns, fcm, hms"),
        ({"segments": ["all"], "platforms": "apns"}, "audience.platforms", "a list"),
        ({"segments": ["all"], "platforms": [["apns"]]}, "audience.platforms", "apns, fcm, hms"),
        ({"user_ids": []}, "audience.user_ids", "at least one"),
        ({"user_ids": ["1"]}, "audience.user_ids", "whole numbers"),
        ({"user_ids": [True]}, "audience.user_ids", "whole numbers"),
        ({"user_ids": [0]}, "audience.user_ids", "whole numbers"),
        ({"user_ids": [2**63]}, "audience.user_ids", "whole numbers"),
        ({"user_ids": "12"}, "audience.user_ids", "a list"),
        ({"user_ids": list(range(1, 10_002))}, "audience.user_ids", "make a segment"),
        ({"filter": {}}, "audience.filter", "at least one of"),
        ({"filter": []}, "audience.filter", "a mapping"),
        ({"filter": {"lang": "de"}}, "audience.filter.lang", "did you mean language?"),
        ({"filter": {"language": "german"}}, "audience.filter.language", "language tag"),
        ({"filter": {"language": []}}, "audience.filter.language", "language tag"),
        ({"filter": {"language": ["de"] * 101}}, "audience.filter.language", "at most 100"),
        ({"filter": {"country": "DEU"}}, "audience.filter.country", "two letters"),
        ({"filter": {"country": 49}}, "audience.filter.country", "two letters"),
        ({"filter": {"platform": "ios"}}, "audience.filter.platform", "apns"),
        ({"filter": {"app_version": "4.2"}}, "audience.filter.app_version", "min, max"),
        ({"filter": {"app_version": {}}}, "audience.filter.app_version", "min, max"),
        ({"filter": {"app_version": {"min": 4.2}}}, "audience.filter.app_version.min", "as text"),
        ({"filter": {"app_version": {"max": "4.x"}}}, "audience.filter.app_version.max", "as text"),
        ({"filter": {"app_version": {"min": "4.10", "max": "4.9"}}}, "audience.filter.app_version", "min up to max"),
        ({"filter": {"tags": ["vip"]}}, "audience.filter.tags", "any, all, none"),
        ({"filter": {"tags": {"some": ["vip"]}}}, "audience.filter.tags.some", "any, all, none"),
        ({"filter": {"tags": {"any": []}}}, "audience.filter.tags.any", "printable"),
        ({"filter": {"tags": {"any": [1]}}}, "audience.filter.tags.any", "printable"),
        ({"filter": {"last_seen": {"within_days": 0}}}, "audience.filter.last_seen.within_days", "whole number"),
        ({"filter": {"last_seen": {"within_days": "30"}}}, "audience.filter.last_seen.within_days", "whole number"),
        ({"filter": {"last_seen": {"within_days": 1.5}}}, "audience.filter.last_seen.within_days", "whole number"),
        ({"filter": {"last_seen": {"within_days": 5, "before_days": 5}}}, "audience.filter.last_seen", "above"),
        ({1: 2}, "audience.1", "some of"),
    ],
)  # fmt: skip
def test_wrong_audiences_name_their_field(value: Any, field: str, said: str) -> None:
    error = refused(value)
    assert error.field == field
    assert said in str(error)


def test_an_error_is_short_whatever_was_passed() -> None:
    assert len(str(refused({"segments": ["x" * 100_000]}))) < 300
    assert len(str(refused({"x" * 100_000: 1}))) < 300


def test_filters_come_back_in_their_normal_form_and_may_be_read_again() -> None:
    value = {
        "platform": "apns",
        "language": ["de", "pt_BR"],
        "country": "de",
        "app_version": {"min": "4.9", "max": "4.10"},
        "tags": {"any": "vip", "none": ["a", "b", "a"]},
        "last_seen": {"within_days": 30, "before_days": 7},
    }
    parsed = parse_filter(value)
    assert parsed == {
        "platform": ["apns"],
        "language": ["de", "pt-br"],
        "country": ["DE"],
        "app_version": {"min": "4.9", "max": "4.10"},
        "tags": {"any": ["vip"], "none": ["a", "b"]},
        "last_seen": {"within_days": 30, "before_days": 7},
    }
    assert parse_filter(parsed) == parsed
