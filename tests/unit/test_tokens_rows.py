"""Records to COPY lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pushq.errors import InvalidRequest
from pushq.tokens.identity import token_hash
from pushq.tokens.rows import COLUMNS, COPY_COLUMNS, NO_ATTRIBUTES, NO_TAGS, NULL, RowEncoder

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FCM = "x" * 40


def encode(**values: Any) -> dict[str, str]:
    given = {"user_id": 1, "app": "shop", "platform": "fcm", "token": FCM, **values}
    identity, line = RowEncoder(NOW).encode([given.get(name) for name in COLUMNS])
    assert line.endswith("\n")
    row = dict(zip(COPY_COLUMNS.replace(",", " ").split(), line[:-1].split("\t"), strict=True))
    assert row["token_hash"] == identity
    return row


def test_what_is_not_given_stays_open() -> None:
    row = encode()
    assert (row["environment"], row["language"], row["country"]) == ("production", NULL, NULL)
    assert (row["tags"], row["attributes"]) == (NO_TAGS, NO_ATTRIBUTES)
    assert row["registered_at"] == row["last_seen"] == NOW.isoformat()
    assert row["token_hash"] == token_hash("shop", "fcm", "production", FCM).hex


def test_json_is_escaped_for_copy() -> None:
    assert encode(attributes='{"a": "b\\\\c\\n"}')["attributes"] == r'{"a":"b\\\\c\\n"}'
    assert encode(tags=["a\\b"])["tags"] == r'["a\\\\b"]'


def test_tags_come_as_list_json_or_with_bars() -> None:
    for value in (["a", "b"], '["a", "b"]', "a|b"):
        assert encode(tags=value)["tags"] == '["a","b"]'
    assert encode(tags=[])["tags"] == "[]"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tags", "["), ("tags", "a||b"), ("tags", {"a": 1}), ("tags", 7),
        ("attributes", "{"), ("attributes", "[]"), ("attributes", "null"), ("attributes", []), ("attributes", 0), ("attributes", False),
        ("app", ["shop"]), ("language", {"a": 1}), ("platform", []), ("environment", ["production"]),
        ("registered_at", 0), ("last_seen", ["2026-11-01"]), ("last_seen", "2026-11-01\n"),
        ("user_id", [1]), ("token", ["x" * 40]),
    ],
)  # fmt: skip
def test_wrong_values_name_their_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode(**{field: value})
    assert caught.value.field.split(".")[0] == field


def test_a_value_is_checked_again_after_it_was_refused() -> None:
    encoder = RowEncoder(NOW)
    values: list[Any] = [1, "shop", "fcm", "", FCM, "german", *[""] * 7]
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            encoder.encode(values)
    values[5] = "de"
    assert encoder.encode(values) == encoder.encode(values)
