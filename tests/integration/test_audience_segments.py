"""Segments in PostgreSQL: created, filled, replaced, counted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from pushq.audience import segments
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.service_urls import ServiceUrl


@pytest.fixture
def store(database: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(database), pool_size=8)
    yield opened
    opened.close()


def members(store: Database) -> list[int]:
    with store.begin() as connection:
        return list(
            connection.execute(text("SELECT user_id FROM segment_members ORDER BY user_id")).scalars()
        )


def test_members_come_and_go_and_may_repeat(store: Database) -> None:
    segments.create(store, "shop", "vips")
    assert segments.add_members(store, "shop", "vips", [[1, 2, 2], [3]]) == 3
    assert segments.add_members(store, "shop", "vips", [[3, 4]]) == 1
    assert segments.remove_members(store, "shop", "vips", [[1, 1, 9]]) == 1
    assert members(store) == [2, 3, 4]
    assert segments.replace_members(store, "shop", "vips", [[7, 8], [8, 9]]) == 3
    assert members(store) == [7, 8, 9]
    assert segments.count_segment(store, "shop", "vips") == segments.SegmentCount(3, {})
    segments.delete(store, "shop", "vips")
    assert members(store) == []


def test_an_empty_replacement_is_taken_for_a_mistake(store: Database) -> None:
    segments.create(store, "shop", "vips")
    segments.add_members(store, "shop", "vips", [[1, 2]])
    with pytest.raises(InvalidRequest, match="no user id"):
        segments.replace_members(store, "shop", "vips", [])
    assert members(store) == [1, 2]


def test_a_replacement_that_fails_half_way_changes_nothing(store: Database) -> None:
    segments.create(store, "shop", "vips")
    segments.add_members(store, "shop", "vips", [[1, 2]])

    def chunks() -> Iterator[list[int]]:
        yield [5, 6]
        raise InvalidRequest("file", "the end of the world", "more")

    with pytest.raises(InvalidRequest, match="end of the world"):
        segments.replace_members(store, "shop", "vips", chunks())
    assert members(store) == [1, 2]


def test_changes_at_once_take_turns(store: Database) -> None:
    segments.create(store, "shop", "vips")
    users = list(range(1, 3001))

    def change(n: int) -> int:
        order = users[n * 100 :] + users[: n * 100]
        return segments.add_members(store, "shop", "vips", [order if n % 2 else order[::-1]])

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(change, range(6))) == len(users)
    assert members(store) == users


def test_names(store: Database) -> None:
    segments.create(store, "shop", "vips")
    segments.create(store, "news", "vips", filter={"country": "de"})
    for name, said in (("vips", "exists"), ("all", "built in"), ("a b", "letters")):
        with pytest.raises(InvalidRequest, match=said):
            segments.create(store, "shop", name)
    with pytest.raises(InvalidRequest, match="did you mean country"):
        segments.create(store, "shop", "x", filter={"contry": "DE"})
    found = segments.list_segments(store, limit=1)
    assert [(s.app, s.name, s.kind, s.filter) for s in found] == [
        ("news", "vips", "filter", {"country": ["DE"]}),
        ("shop", "vips", "static", None),
    ]
    assert [s.app for s in segments.list_segments(store, "shop")] == ["shop"]


def test_segments_that_are_not_there_or_have_no_members(store: Database) -> None:
    segments.create(store, "shop", "german", filter={"language": "de"})
    with pytest.raises(InvalidRequest, match="a static segment"):
        segments.add_members(store, "shop", "german", [[1]])
    for act in (segments.add_members, segments.remove_members, segments.replace_members):
        with pytest.raises(InvalidRequest, match="did you mean german"):
            act(store, "shop", "germans", [[1]])
    with pytest.raises(InvalidRequest, match="did you mean german"):
        segments.delete(store, "shop", "germans")
    with pytest.raises(InvalidRequest, match="did you mean german"):
        segments.count_segment(store, "shop", "germans")
    # Even if the file has nobody in it.
    with pytest.raises(InvalidRequest, match="did you mean german"):
        segments.add_members(store, "shop", "germans", [])
