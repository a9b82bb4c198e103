"""Which sends a process keeps: as many as fit, and large ones not by the hundred."""

from __future__ import annotations

import sys
import tracemalloc
import uuid
from datetime import UTC, datetime

import orjson

from pushq.delivery.kept import KeptSends
from pushq.ledger.sends import Send
from pushq.notification import Notification

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING: dict[int, dict[str, str]] = {}


def send(
    values: dict[int, dict[str, str]] = NOTHING, version: int = 0, send_id: uuid.UUID | None = None
) -> Send:
    return Send(
        send_id or uuid.uuid4(),
        "transactional",
        "shop",
        "at_most_once",
        Notification(title="x"),
        NOW,
        NOW,
        version=version,
        values=values,
    )


def test_the_version_that_was_read_and_no_other() -> None:
    kept, first = KeptSends(), send()
    kept.keep(first)
    assert kept.get(first.id, 0) is first
    assert kept.get(first.id, 1) is None
    second = send(version=1, send_id=first.id)
    kept.keep(second)
    assert kept.get(first.id, 1) is second
    assert len(kept) == 1


def test_no_more_than_so_many() -> None:
    kept, all_of_them = KeptSends(most=2), [send() for _ in range(3)]
    for each in all_of_them:
        kept.keep(each)
    assert [kept.get(each.id, 0) for each in all_of_them] == [None, *all_of_them[1:]]


def test_large_ones_make_room_for_each_other_and_small_ones_stay() -> None:
    kept, large = KeptSends(value_bytes=50_000), {1: {"name": "x" * 30_000}}
    ones = [send(large), *(send() for _ in range(20)), send(large)]
    for each in ones:
        kept.keep(each)
    assert [kept.get(each.id, 0) for each in ones] == [None, *ones[1:]]
    # One that is larger than what there is room for is used all the same.
    huge = send({1: {"name": "x" * 60_000}})
    kept.keep(huge)
    assert (kept.get(huge.id, 0), len(kept)) == (huge, 1)
    kept.keep(send(version=1, send_id=huge.id))
    kept.keep(send())
    assert len(kept) == 2


def test_as_much_memory_as_a_worker_can_spare() -> None:
    """With the bounds of a worker, for the largest calls: many short values, which take most of all beside their texts."""
    people = {str(user): {"first_name": f"Somebody {user}", "order": f"A-{user}"} for user in range(10_000)}
    document = orjson.dumps(people)
    kept = KeptSends()
    tracemalloc.start()
    for _ in range(12):
        kept.keep(send({int(user): values for user, values in orjson.loads(document).items()}))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sys.getsizeof(document) > 400_000
    assert taken < 40 << 20
    assert len(kept) > 1
