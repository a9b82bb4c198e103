"""What an audience selects in PostgreSQL, against the same rules written down in Python."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from pushq.audience import segments
from pushq.audience.request import parse_audience
from pushq.audience.sql import count, select_devices
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.service_urls import ServiceUrl

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LANGUAGES = (None, "de", "de-AT", "den", "pt-BR", "pt", "zh-Hans-CN")
VERSIONS = (None, "3.9", "4", "4.0.0", "4.2", "4.2.0", "4.2.0.1", "4.10", "5.0-beta")
TAGS = ("vip", "news", "beta")


@pytest.fixture
def store(database: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(database), pool_size=2)
    yield opened
    opened.close()


def fill(store: Database) -> list[dict[str, Any]]:
    """200 users with devices of all kinds, and some that no audience may see."""
    rng = random.Random(3)
    devices = [
        {
            "user_id": 1 + number % 200,
            "app": "news" if number % 50 == 0 else "shop",
            "platform": rng.choice(["apns", "fcm", "hms"]),
            "token": f"t{number}",
            "language": rng.choice(LANGUAGES),
            "country": rng.choice([None, "DE", "BR"]),
            "app_version": rng.choice(VERSIONS),
            "tags": sorted(rng.sample(TAGS, rng.randrange(4))),
            "last_seen": NOW - timedelta(days=rng.randrange(60), hours=1),
            "is_active": number % 20 != 0,
        }
        for number in range(1, 401)
    ]
    with store.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO device_tokens (user_id, app, platform, token, token_hash, language, country, app_version, tags, last_seen,"
                " is_active, deactivated_at) VALUES (:user_id, :app, :platform, :token, md5(:token)::uuid, :language, :country,"
                " :app_version, cast(:tags AS jsonb), :last_seen, :is_active, CASE WHEN :is_active THEN NULL ELSE now() END)"
            ),
            [{**device, "tags": orjson.dumps(device["tags"]).decode()} for device in devices],
        )
    return [device for device in devices if device["is_active"] and device["app"] == "shop"]


def selected(store: Database, audience: object) -> set[str]:
    with store.begin() as connection:
        selection = select_devices(connection, "shop", parse_audience(audience), at=NOW)
        assert all(name.startswith("a_") for name in selection.params)
        statement = (
            f"SELECT d.token FROM device_tokens d WHERE d.is_active AND d.app = :app AND ({selection.where})"
        )
        return set(connection.execute(text(statement), {**selection.params, "app": "shop"}).scalars())


def numbers(version: str) -> list[int]:
    parts = [int(part) for part in version.split("-", maxsplit=1)[0].split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return parts


def passes(device: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """The filter's table of rules, once more."""
    for name, value in conditions.items():
        many = value if isinstance(value, list) else [value]
        match name:
            case "platform":
                ok = device["platform"] in many
            case "country":
                ok = device["country"] in many
            case "language":
                own = (device["language"] or "").lower()
                ok = bool(own) and any(
                    own == tag.lower() or own.startswith(tag.lower() + "-") for tag in many
                )
            case "app_version":
                own = device["app_version"]
                ok = own is not None and all(
                    numbers(own) >= numbers(bound) if side == "min" else numbers(own) <= numbers(bound)
                    for side, bound in value.items()
                )
            case "tags":
                own = set(device["tags"])
                ok = all(
                    {"any": bool(own & set(tags)), "all": own >= set(tags), "none": not own & set(tags)}[kind]
                    for kind, tags in value.items()
                )
            case "last_seen":
                days = (NOW - device["last_seen"]) / timedelta(days=1)
                ok = all(
                    days <= number if kind == "within_days" else days > number
                    for kind, number in value.items()
                )
            case _:
                raise AssertionError(name)
        if not ok:
            return False
    return True


FILTERS: list[dict[str, Any]] = [
    {"platform": "apns"},
    {"platform": ["apns", "hms"]},
    {"language": "de"},
    {"language": ["DE-at", "pt"]},
    {"language": "zh-Hans"},
    {"country": ["DE"]},
    *({"app_version": {"min": version}} for version in ("4", "4.0", "4.2", "4.2.0", "4.2.0.1", "4.9")),
    *({"app_version": {"max": version}} for version in ("4", "4.0", "4.2", "4.2.0", "4.2.0.1", "4.9")),
    {"app_version": {"min": "4.0.0", "max": "4.2"}},
    {"tags": {"any": ["vip", "news"]}},
    {"tags": {"all": ["vip", "news"]}},
    {"tags": {"none": ["vip"]}},
    {"tags": {"any": ["news"], "none": ["beta"]}},
    {"last_seen": {"within_days": 30}},
    {"last_seen": {"before_days": 30}},
    {"last_seen": {"within_days": 40, "before_days": 10}},
    {"platform": "fcm", "language": "de", "tags": {"none": ["beta"]}},
]


def test_every_condition_selects_what_its_rule_says(store: Database) -> None:
    devices = fill(store)
    for conditions in FILTERS:
        expected = {device["token"] for device in devices if passes(device, conditions)}
        assert selected(store, {"filter": conditions}) == expected, conditions
        assert 0 < len(expected) < len(devices), conditions


def test_segments_users_platforms_filters_and_exclusions_together(store: Database) -> None:
    devices = fill(store)
    rng = random.Random(5)
    groups = {name: set(rng.sample(range(1, 201), 80)) for name in ("red", "blue")}
    for name, members in groups.items():
        segments.create(store, "shop", name)
        segments.add_members(store, "shop", name, [list(members)])
    filters: dict[str, dict[str, Any]] = {"german": {"language": "de"}, "old": {"app_version": {"max": "4"}}}
    for name, rules in filters.items():
        segments.create(store, "shop", name, filter=rules)

    def member(device: Mapping[str, Any], name: str) -> bool:
        return device["user_id"] in groups[name] if name in groups else passes(device, filters[name])

    names = [*groups, *filters]
    users = list(range(1, 120))
    cases = 0
    groups_wanted: list[list[str]] = [[], ["red"], ["red", "blue"], ["german"], ["red", "old"], names]
    groups_unwanted: list[list[str]] = [[], ["blue"], ["german", "old"]]
    others: list[tuple[list[int] | None, list[str], dict[str, Any] | None]] = [
        (None, [], None),
        (users, ["fcm"], None),
        (None, ["apns", "fcm"], {"tags": {"any": ["vip"]}}),
    ]
    for wanted, unwanted in itertools.product(groups_wanted, groups_unwanted):
        for user_ids, platforms, conditions in others:
            audience = {
                "segments": wanted or ["all"], "exclude_segments": unwanted, "platforms": platforms, "exclude_user_ids": [1, 2, 3],
                **({"user_ids": user_ids} if user_ids else {}), **({"filter": conditions} if conditions else {}),
            }  # fmt: skip
            expected = {
                device["token"]
                for device in devices
                if (not wanted or any(member(device, name) for name in wanted))
                and not any(member(device, name) for name in unwanted)
                and (user_ids is None or device["user_id"] in user_ids)
                and (not platforms or device["platform"] in platforms)
                and (conditions is None or passes(device, conditions))
                and device["user_id"] not in (1, 2, 3)
            }
            assert selected(store, audience) == expected, audience
            cases += bool(expected)
    assert cases > 40


def test_counting(store: Database) -> None:
    devices = fill(store)
    with store.begin() as connection:
        found = count(connection, "shop", parse_audience({"segments": ["all"]}))
    assert found == {
        platform: sum(device["platform"] == platform for device in devices)
        for platform in ("apns", "fcm", "hms")
    }


def test_only_filters_read_columns_that_the_index_does_not_have(store: Database) -> None:
    """The planner walks an index; a look at the row itself for each device would cost several times as much."""
    segments.create(store, "shop", "vips")
    segments.create(store, "shop", "german", filter={"language": "de"})
    segments.create(store, "shop", "phones", filter={"platform": ["apns", "fcm"]})
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"segments": ["all"]}, False),
        ({"segments": ["vips"], "exclude_user_ids": [1], "platforms": ["apns"]}, False),
        ({"user_ids": [1, 2]}, False),
        ({"segments": ["phones"]}, False),
        ({"segments": ["german"]}, True),
        ({"segments": ["all"], "exclude_segments": ["german"]}, True),
        ({"filter": {"country": "DE"}}, True),
    ]
    with store.begin() as connection:
        for audience, needs_row in cases:
            where = select_devices(connection, "shop", parse_audience(audience)).where
            read = set(re.findall(r"\bd\.(\w+)", where))
            assert bool(read - {"user_id", "id", "app", "platform"}) is needs_row, (audience, where)


@pytest.mark.parametrize("field", ["segments", "exclude_segments"])
def test_an_unknown_segment_is_named_with_its_neighbours(store: Database, field: str) -> None:
    segments.create(store, "shop", "newsletter")
    segments.create(store, "news", "subscribers")
    for name, said in (
        ("newsleter", "did you mean newsletter?"),
        ("subscribers", "all, newsletter"),
        ("zzz", "all, newsletter"),
    ):
        with store.begin() as connection, pytest.raises(InvalidRequest) as caught:
            select_devices(connection, "shop", parse_audience({"segments": ["all"], field: [name]}))
        assert caught.value.field == f"audience.{field}"
        assert said in str(caught.value)


def test_values_are_parameters_not_sql(store: Database) -> None:
    hostile = "x'); DROP TABLE device_tokens; --"
    assert selected(store, {"filter": {"tags": {"any": [hostile, ":a_0", "%s", "%%"]}}}) == set()
    with store.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM device_tokens")).scalar_one() == 0
