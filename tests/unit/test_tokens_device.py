"""The rules for each field of a device: what is accepted, in which normal form, and what an error says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

import pytest

from pushq.errors import InvalidRequest
from pushq.tokens.device import (
    Device,
    parse_app_version,
    parse_attributes,
    parse_country,
    parse_device,
    parse_language,
    parse_tags,
    parse_time,
    parse_token,
    parse_user_id,
)
from pushq.tokens.identity import short_hash, token_hash

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
APNS = "ab" * 32
FCM = "c0:APA91b" + "x" * 40
GOOD = {"user_id": 1, "app": "shop", "platform": "apns", "token": APNS}


def refused(field: str, **change: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_device({**GOOD, **change}, now=NOW)
    assert caught.value.field == field
    return caught.value


def test_a_minimal_device_leaves_the_rest_open() -> None:
    device = parse_device(GOOD, now=NOW)
    assert device == Device(1, "shop", "apns", APNS)
    assert (device.environment, device.tags, device.attributes, device.last_seen) == (
        "production",
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1), ("42", 42), (2**63 - 1, 2**63 - 1), ("9223372036854775807", 2**63 - 1), ("007", 7)],
)
def test_user_ids(value: object, number: int) -> None:
    assert parse_user_id(value) == number


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        2**63,
        "9223372036854775808",
        "",
        None,
        "1.0",
        "1_000",
        "٣",
        " 1",
        True,
        1.0,
        "x",
        [1],
        "1" * 5000,
    ],
)
def test_wrong_user_ids(value: object) -> None:
    error = refused("user_id", user_id=value)
    assert "9223372036854775807" in error.expected


@pytest.mark.parametrize(
    ("platform", "token", "normal"),
    [
        ("apns", "AB" * 32, "ab" * 32),
        ("apns", "ab" * 80, "ab" * 80),
        ("apns", "ab" * 200, "ab" * 200),
        ("fcm", FCM, FCM),
        ("fcm", "A_-:b" * 4, "A_-:b" * 4),
        ("hms", "IQAAAACy0+/=" * 3, "IQAAAACy0+/=" * 3),
    ],
)
def test_tokens(platform: str, token: str, normal: str) -> None:
    assert parse_token(platform, token) == normal


@pytest.mark.parametrize(
    ("platform", "token"),
    [
        ("apns", "ab" * 31),
        ("apns", "ab" * 32 + "a"),
        ("apns", "ab" * 201),
        ("apns", "zz" * 32),
        ("apns", "ab" * 32 + "\n"),
        ("fcm", "short"),
        ("fcm", "x" * 4097),
        ("fcm", "x" * 30 + " "),
        ("fcm", "x" * 30 + "\\"),
        ("fcm", "x" * 30 + "\0"),
        ("fcm", "x" * 30 + "\n"),
        ("fcm", ""),
        ("fcm", None),
        ("fcm", 7),
        ("hms", 'x"' * 20),
    ],
)
def test_wrong_tokens_are_refused_and_never_shown(platform: str, token: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_token(platform, token)
    assert caught.value.field == "token"
    if isinstance(token, str) and token:
        assert token.strip() not in str(caught.value)


def test_a_token_is_in_no_repr() -> None:
    assert APNS not in repr(parse_device(GOOD, now=NOW))


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("de", "de"), ("DE", "de"), ("pt_br", "pt-BR"), ("zh-hans-cn", "zh-Hans-CN"), ("sr-Latn", "sr-Latn"),
        ("es-419", "es-419"), ("en-u-co-phonebk", "en-u-co-phonebk"), ("", None), (None, None),
    ],
)  # fmt: skip
def test_languages(value: str | None, normal: str | None) -> None:
    assert parse_language(value) == normal


@pytest.mark.parametrize("value", ["d", "german", "de-", "de--AT", "de AT", 7, "de-" + "x" * 40, "de\n"])
def test_wrong_languages(value: object) -> None:
    refused("language", language=value)


def test_countries() -> None:
    assert (parse_country("de"), parse_country("US"), parse_country("")) == ("DE", "US", None)
    for value in ("DEU", "D", "1A", 49, "DE\n"):
        refused("country", country=value)


@pytest.mark.parametrize("value", ["1", "4.12.0", "10.0.1-beta.2", "2.0+build7", "3b"])
def test_versions_begin_with_numbers(value: str) -> None:
    assert parse_app_version(value) == value


@pytest.mark.parametrize("value", ["v1", "beta", ".1", "1..2", "1 .0", "1.0\t", 1.0, "1" * 65, "1.\\N"])
def test_wrong_versions(value: object) -> None:
    refused("app_version", app_version=value)


def test_tags_count_once_and_are_bounded() -> None:
    assert parse_tags(["b", "a", "b"]) == ("b", "a")
    assert parse_tags(["t" + str(n) for n in range(64)]) is not None
    assert parse_tags([]) == ()
    for value in (
        ["t" + str(n) for n in range(65)],
        ["x" * 65],
        [""],
        [7],
        "vip",
        ["a\0"],
        ["a\n"],
        {"a": 1},
    ):
        refused("tags", tags=value)


def test_attributes_are_flat_and_bounded() -> None:
    assert parse_attributes({"plan": "pro", "level": 3, "ratio": 0.5, "trial": False}) is not None
    refused("attributes.plan", attributes={"plan": {"a": 1}})
    refused("attributes.plan", attributes={"plan": None})
    refused("attributes.name", attributes={"name": "a\0b"})
    refused("attributes.name", attributes={"name": "\ud800"})
    refused("attributes.n", attributes={"n": float("nan")})
    refused("attributes.n", attributes={"n": 2**63})
    assert refused("attributes", attributes={"a": "x" * 4096}).found == "4,104 bytes of JSON"
    refused("attributes", attributes={"": "x"})
    refused("attributes", attributes=["a"])


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01T12:00:00Z", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01 12:00:00+02:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01T12:00", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T12:00:00.25Z", datetime(2026, 11, 1, 12, 0, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    assert parse_time("last_seen", text, NOW) == moment


@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        "2026-02-30",
        "2026-W01-1",
        "20261101",
        "1700000000",
        1700000000,
        "1969-12-31",
        "2026-11-01T25:00",
        "2026-11-25",
    ],
)
def test_wrong_times(value: object) -> None:
    refused("last_seen", last_seen=value)


def test_a_clock_that_is_hours_ahead_counts_as_now() -> None:
    assert parse_time("last_seen", (NOW + timedelta(hours=23)).isoformat(), NOW) == NOW


def test_unknown_and_missing_fields_are_named() -> None:
    assert "language" in refused("langauge", langauge="de").expected
    for name in GOOD:
        refused(name, **{name: None})
    refused("platform", platform="wns")
    refused("environment", environment="test")
    refused("app", app="My App")


def test_the_identity_of_a_token_is_the_one_the_schema_describes() -> None:
    digest = sha256(b"shop\0apns\0production\0" + APNS.encode()).digest()
    assert token_hash("shop", "apns", "production", APNS) == UUID(bytes=digest[:16])
    others = [
        token_hash(*parts)
        for parts in (("news", "apns", "production", APNS), ("shop", "apns", "sandbox", APNS))
    ]
    assert token_hash("shop", "apns", "production", APNS) not in others
    assert short_hash(APNS) == sha256(APNS.encode()).hexdigest()[:8] == short_hash(APNS.encode())
