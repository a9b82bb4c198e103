"""The nightly clean-up: old sends and months of dead letters go, partitions for the coming months are there."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from pushq.ledger import cleanup
from pushq.ledger.cleanup import clean, next_month
from tests.integration.ledger_world import World, bare_app, open_world

TODAY = date(2026, 11, 23)


@pytest.fixture
def world(database: str, tmp_path: Path) -> Iterator[World]:
    with open_world(database, bare_app(tmp_path), batch_size=10) as world:
        yield world


def bury(world: World, at: datetime, count: int = 1) -> None:
    world.change(
        """
        INSERT INTO dead_letters (created_at, send_id, batch_no, position, user_id, device_id, app, platform, outcome, reason, attempt)
        SELECT :at, gen_random_uuid(), 0, n, n, n, 'shop', 'apns', 'dead', 'Unregistered', 1 FROM generate_series(1, :count) n
        """,
        at=at,
        count=count,
    )


def letters(world: World) -> dict[str, int]:
    """How many dead letters are in which partition."""
    return dict(
        world.rows("SELECT tableoid::regclass::text, count(*) FROM dead_letters GROUP BY 1 ORDER BY 1")
    )


def partitions(world: World) -> set[str]:
    return {
        row.name
        for row in world.rows(
            "SELECT relid::text AS name FROM pg_partition_tree('dead_letters') WHERE isleaf"
        )
    }


def run(world: World, today: date = TODAY, ledger_days: int = 30, dead_letter_days: int = 90) -> object:
    return clean(world.database, today=today, ledger_days=ledger_days, dead_letter_days=dead_letter_days)


@pytest.mark.parametrize(
    ("day", "months", "expected"),
    [
        (date(2026, 1, 31), 1, date(2026, 2, 1)),
        (date(2026, 12, 1), 1, date(2027, 1, 1)),
        (date(2026, 11, 30), 2, date(2027, 1, 1)),
        (date(2026, 3, 15), 0, date(2026, 3, 1)),
    ],
)
def test_next_month(day: date, months: int, expected: date) -> None:
    assert next_month(day, months) == expected


def test_partitions_are_made_and_waiting_rows_move_into_them(world: World) -> None:
    bury(world, datetime(2026, 11, 1, tzinfo=UTC), 2)
    bury(world, datetime(2026, 11, 30, 23, 59, 59, 999999, tzinfo=UTC))
    bury(world, datetime(2026, 12, 1, tzinfo=UTC))
    bury(world, datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC))
    assert letters(world) == {"dead_letters_default": 5}
    made = ["dead_letters_2026_11", "dead_letters_2026_12", "dead_letters_2027_01"]
    assert run(world) == cleanup.LedgerCleanup(0, [], made)
    assert letters(world) == {
        "dead_letters_2026_11": 3,
        "dead_letters_2026_12": 1,
        "dead_letters_default": 1,
    }
    # Twice is harmless, and new rows go where they belong.
    assert run(world) == cleanup.LedgerCleanup(0, [], [])
    bury(world, datetime(2027, 1, 31, tzinfo=UTC))
    assert letters(world)["dead_letters_2027_01"] == 1
    indexes = {
        row.tablename: row.n
        for row in world.rows(
            "SELECT tablename, count(*) n FROM pg_indexes WHERE tablename LIKE 'dead_letters%' GROUP BY 1"
        )
    }
    assert len(set(indexes.values())) == 1  # a new partition has what the others have


def test_months_that_ended_long_ago_are_dropped_and_no_others(world: World) -> None:
    for months in range(6):
        run(world, today=next_month(date(2026, 3, 10), months), dead_letter_days=3650)
    assert partitions(world) == {
        "dead_letters_default",
        *(f"dead_letters_2026_{month:02d}" for month in range(3, 11)),
    }
    bury(world, datetime(2026, 4, 5, tzinfo=UTC))
    bury(world, datetime(2026, 5, 5, tzinfo=UTC))
    # April ended on 1 May: 90 days later is 30 July, which is still kept.
    kept = run(world, today=date(2026, 7, 30), dead_letter_days=90)
    assert kept == cleanup.LedgerCleanup(0, ["dead_letters_2026_03"], [])
    gone = run(world, today=date(2026, 7, 31), dead_letter_days=90)
    assert gone == cleanup.LedgerCleanup(0, ["dead_letters_2026_04"], [])
    assert letters(world) == {"dead_letters_2026_05": 1}


def test_old_rows_that_never_got_a_partition_go_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a month before the first clean-up, or of one in which none ran."""
    monkeypatch.setattr(cleanup, "LETTERS_PAGE", 100)
    bury(world, datetime(2026, 7, 1, tzinfo=UTC), 250)
    bury(world, datetime(2026, 10, 31, tzinfo=UTC), 3)
    run(world, dead_letter_days=90)
    assert letters(world) == {"dead_letters_default": 3}


def test_dead_letters_may_come_in_while_partitions_are_made(world: World) -> None:
    """Partitions of a busy month are made while settlements write into it: neither side may fail."""
    bury(world, datetime(2026, 11, 2, tzinfo=UTC), 5000)
    stop = threading.Event()
    failures: list[Exception] = []
    written = [0, 0]

    def write(position: int) -> None:
        try:
            while not stop.is_set():
                bury(world, datetime(2026, 11, 3, tzinfo=UTC), 5)
                written[position] += 5
        except Exception as error:  # noqa: BLE001 - the test looks at it
            failures.append(error)

    threads = [threading.Thread(target=write, args=(position,)) for position in range(2)]
    for thread in threads:
        thread.start()
    try:
        for months in range(4):
            run(world, today=next_month(date(2026, 8, 10), months), dead_letter_days=1)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert letters(world) == {"dead_letters_2026_11": 5000 + sum(written)}
    assert all(written)


def test_clean_ups_at_once_share_the_work(world: World) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(run(world))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3
    made = [
        name for each in found if isinstance(each, cleanup.LedgerCleanup) for name in each.partitions_created
    ]
    assert sorted(made) == ["dead_letters_2026_11", "dead_letters_2026_12", "dead_letters_2027_01"]


def ended(world: World, days_ago: float, state: str = "done") -> uuid.UUID:
    send_id = world.send(audience={"user_ids": list(range(1, 26))})
    world.change(
        "UPDATE sends SET state = :state, finished_at = :at WHERE id = :id",
        id=send_id,
        state=state,
        at=datetime.now(UTC) - timedelta(days=days_ago),
    )
    return send_id


def test_old_ended_sends_go_with_their_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "PAGE", 2)
    monkeypatch.setattr(cleanup, "BATCHES_PAGE", 4)
    world.add_devices("apns", 25)
    old = [ended(world, days, state) for days, state in ((31, "done"), (40, "failed"), (90, "cancelled"))]
    old += [ended(world, 31) for _ in range(2)]
    young = ended(world, 29)
    running = world.send(audience={"user_ids": [1]})
    world.change("UPDATE sends SET created_at = now() - interval '1 year' WHERE id = :id", id=running)
    found = run(world)
    assert isinstance(found, cleanup.LedgerCleanup)
    assert found.sends == len(old)
    assert {row.id for row in world.rows("SELECT id FROM sends")} == {young, running}
    for table in ("send_batches", "send_shards"):
        left = {row.send_id for row in world.rows(f"SELECT DISTINCT send_id FROM {table}")}
        assert left == {young, running}
    again = run(world)
    assert isinstance(again, cleanup.LedgerCleanup)
    assert again.sends == 0


def test_a_large_send_is_removed_in_small_transactions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in mid-way, the clean-up has got somewhere: the next one goes on from there."""
    monkeypatch.setattr(cleanup, "BATCHES_PAGE", 10)
    world.add_devices("apns", 1)
    send_id = ended(world, 31)
    world.change(
        "INSERT INTO send_batches (send_id, batch_no, platform, recipients, user_ids, device_ids, state)"
        " SELECT :id, n, 'apns', 1, '{1}', '{1}', 'done' FROM generate_series(1000, 1094) n",
        id=send_id,
    )
    world.change("CREATE TABLE removed (n bigint)")
    world.change(
        """
        CREATE FUNCTION note_removed() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO removed SELECT count(*) FROM gone; RETURN NULL; END $$
        """
    )
    world.change(
        "CREATE TRIGGER note_removed AFTER DELETE ON send_batches REFERENCING OLD TABLE AS gone"
        " FOR EACH STATEMENT EXECUTE FUNCTION note_removed()"
    )
    run(world)
    sizes = [row.n for row in world.rows("SELECT n FROM removed")]
    assert max(sizes) <= 10
    assert sum(sizes) == 96
    assert world.value("SELECT count(*) FROM sends") == 0
