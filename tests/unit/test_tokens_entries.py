"""What stands in the hot cache, and how it is read: the short way to the tokens says what the long way says, or nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.tokens.buckets import SPAN, bucket_of, buckets_of, by_bucket, cache_key, first_user
from pushq.tokens.entries import Contents, encode, parse, sort_out, tokens_at_once
from pushq.tokens.partitions import PARTITIONS, partition_of

A, B = (3, 7), (3, 8)


def device(user: int, number: int, **fields: Any) -> list[Any]:
    found = {
        "app": "shop",
        "environment": "production",
        "token": f"t{number}",
        "language": None,
        "attributes": None,
    }
    return [user, number, *(found | fields).values()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, Contents(absent={A})),
        (b"", Contents()),
        (b"!0123abcd", Contents()),
        (b"!0123abcd~5", Contents()),
        (b"~5~-6", Contents()),
        (b"[]", Contents(lists={A: b"[]"})),
        (b"~5~-6[[1]]", Contents(lists={A: b"[[1]]"}, struck={5, -6})),
        (b'~5[["~7[\n"]]', Contents(lists={A: b'[["~7[\n"]]'}, struck={5})),
        (b"~5~[]", Contents()),
        (b"~99999999999999999999[]", Contents()),
        (b"null", Contents()),
        (b"\xff", Contents()),
    ],
)
def test_values_are_sorted_out(value: bytes | None, expected: Contents) -> None:
    assert sort_out([A], [value]) == expected


def test_lists_that_cannot_be_read_are_named() -> None:
    good = [device(1, 1), device(2, 2, attributes={"a": [1]})]
    lists = {A: orjson.dumps(good), B: b"[[1,2"}
    assert parse(lists) == ({1: good[0], 2: good[1]}, [B])
    # Two wrongs that look right together.
    assert parse({A: b"[],[]", B: b""}) == ({}, [A, B])
    assert parse({A: b"],["}) == ({}, [A])
    assert parse({}) == ({}, [])


_words = st.one_of(
    st.none(), st.sampled_from(["de", 'a"b', "[1,2,", ",null]", "\\", '",null],[1,2,"shop","production","x"'])
)
_devices = st.lists(
    st.tuples(
        st.integers(-3, 40),
        st.sampled_from(["shop", "shop", "shop", "news", "s.op"]),
        st.sampled_from(["production", "production", "production", "sandbox"]),
        _words,
        st.one_of(
            st.none(), st.just({"seat": [7, 1, "shop", "production", "x", None, None]}), st.just(["{", 1])
        ),
    ),
    max_size=8,
)


@given(plain=st.booleans(), found=_devices, order=st.randoms(use_true_random=False), split=st.integers(0, 8))
def test_the_short_way_says_what_the_long_way_says(
    plain: bool, found: list[Any], order: Any, split: int
) -> None:
    devices = [
        device(user, number, app=app, environment=environment)
        if plain
        else device(user, number, app=app, environment=environment, language=word, attributes=attributes)
        for number, (user, app, environment, word, attributes) in enumerate(found, 1)
    ]
    lists = {A: orjson.dumps(devices[:split]), B: orjson.dumps(devices[split:])}
    known, broken = parse(lists)
    assert not broken
    assert known.keys() == {entry[1] for entry in devices}
    wanted = [entry[1] for entry in devices if entry[2] == "shop" and entry[3] == "production"]
    for ids in (wanted, order.sample(wanted, len(wanted)), wanted[::2]):
        short = tokens_at_once(lists, ids, "shop")
        if ids and (plain or short is not None):
            assert short == [known[number][4].encode() for number in ids]
    assert tokens_at_once(lists, [*wanted, 99], "shop") is None
    for entry in devices:
        if entry[1] not in wanted:
            assert tokens_at_once(lists, [entry[1]], "shop") is None


@given(users=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50, unique=True))
def test_each_user_has_one_bucket(users: list[int]) -> None:
    for user in users:
        bucket = bucket_of(user)
        assert 0 <= bucket[0] < PARTITIONS
        assert -(2**63) <= first_user(bucket) <= user <= first_user(bucket) + SPAN - 1 <= 2**63 - 1
    assert sorted(user for _, of_bucket in by_bucket(users) for user in of_bucket) == sorted(users)
    assert [bucket for bucket, _ in by_bucket(users)] == buckets_of(users)
    for number in range(PARTITIONS):
        of_partition = [user for user in users if partition_of(user) == number]
        assert buckets_of(of_partition, number) == buckets_of(of_partition)


def test_who_was_not_seen_lately_is_left_out() -> None:
    near = next(user for user in range(2, SPAN) if bucket_of(user) == bucket_of(1))
    far = next(user for user in range(SPAN, 9 * SPAN) if partition_of(user) == partition_of(1))
    rows = [
        (*device(1, 10), False),
        (*device(1, 11), True),
        (*device(near, 20), False),
        (*device(far, 30, language="de"), True),
    ]
    assert encode("fcm", partition_of(1), rows) == [
        (cache_key("fcm", bucket_of(1)), orjson.dumps([device(1, 10), device(1, 11)])),
        (cache_key("fcm", bucket_of(far)), orjson.dumps([device(far, 30, language="de")])),
    ]
    assert encode("fcm", partition_of(1), rows[2:3]) == []
    # Whoever had to strike them out would look elsewhere.
    assert encode("fcm", (partition_of(1) + 1) % PARTITIONS, rows) == []
