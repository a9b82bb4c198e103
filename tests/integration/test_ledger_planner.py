"""Planning: the batches of a send are its audience, each device once, whatever happens in between; and Python never holds it."""

from __future__ import annotations

import threading
import time
import tracemalloc
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from pushq.audience import segments
from pushq.embedded.postgres import PostgresServer
from pushq.errors import ServiceUnavailable
from pushq.ledger import brake, planner, sends, sweeper
from pushq.ledger.orders import DeliverBatch, PlanShard
from pushq.ledger.planner import MAX_SCAN, next_scan_limit
from pushq.ledger.release import top_up
from tests.integration.ledger_world import APP, World, bare_app, open_world

BATCH, PAGE = 40, 100
ALL_ACTIVE = "d.is_active AND d.app = 'shop'"
DEADLINE_S = 20.0


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(
        ledger_url, bare_app(tmp_path), batch_size=BATCH, plan_page=PAGE, release_window=3
    ) as world:
        world.empty()
        yield world


def assert_planned_exactly(world: World, send_id: uuid.UUID, condition: str) -> None:
    """Every device of the audience once, in batches that are what they say they are and keep together who is near each other."""
    assert sorted(world.planned_devices(send_id)) == sorted(world.devices_where(condition))
    wrong = world.value(
        """
        SELECT count(*) FROM send_batches b CROSS JOIN LATERAL unnest(b.user_ids, b.device_ids) AS r (user_id, device_id)
          LEFT JOIN device_tokens d ON d.user_id = r.user_id AND d.id = r.device_id AND d.platform = b.platform
         WHERE b.send_id = :id AND d.id IS NULL
        """,
        id=send_id,
    )
    assert wrong == 0
    sizes = [r.n for r in world.rows("SELECT recipients n FROM send_batches WHERE send_id = :id", id=send_id)]
    assert max(sizes) <= world.settings.batch_size
    last: dict[tuple[str, int], list[int]] = {}
    for batch in world.rows("SELECT * FROM send_batches WHERE send_id = :id ORDER BY batch_no", id=send_id):
        devices = [list(pair) for pair in zip(batch.user_ids, batch.device_ids, strict=True)]
        of_shard = batch.platform, batch.batch_no % sends.STRIDE
        assert devices == sorted(devices)
        assert devices[0] > last.get(of_shard, [])
        last[of_shard] = devices[-1]
    shards = world.rows("SELECT * FROM send_shards WHERE send_id = :id", id=send_id)
    assert all(shard.done for shard in shards)
    assert sum(shard.matched for shard in shards) == sum(sizes)


def test_the_batches_are_the_audience(world: World) -> None:
    world.add_devices("apns", 3000)
    world.add_devices("fcm", 2000, first=2001)  # a thousand users have one of each
    world.add_devices("apns", 300, first=10_001, app="other")
    world.change("UPDATE device_tokens SET is_active = false, deactivated_at = now() WHERE user_id % 7 = 0")
    send_id = world.send()
    assert_planned_exactly(world, send_id, ALL_ACTIVE)
    batches = world.rows("SELECT batch_no, platform FROM send_batches WHERE send_id = :id", id=send_id)
    assert len({batch.batch_no for batch in batches}) == len(batches)
    assert {batch.platform for batch in batches} == {"apns", "fcm"}
    planned = world.progress(send_id)
    assert (planned.state, planned.planned_at is not None) == ("sending", True)
    assert {platform: counts["devices"] for platform, counts in planned.platforms.items()} == {
        "apns": len(world.devices_where(f"{ALL_ACTIVE} AND platform = 'apns'")),
        "fcm": len(world.devices_where(f"{ALL_ACTIVE} AND platform = 'fcm'")),
    }


def test_a_page_that_ends_at_the_last_device_is_not_the_end_of_the_shard_before_an_empty_one(
    world: World,
) -> None:
    world.add_devices("apns", 3000)
    shard = world.rows(
        "SELECT count(*) AS n, (SELECT tableoid::regclass::text FROM device_tokens WHERE user_id = 1) AS name"
        " FROM device_tokens d WHERE tableoid = (SELECT tableoid FROM device_tokens WHERE user_id = 1)"
    )[0]
    send_id = world.accept()
    shard_no = int(shard.name[-2:])
    world.change(
        "UPDATE send_shards SET scan_limit = :n WHERE send_id = :id AND shard_no = :no",
        id=send_id,
        n=shard.n,
        no=shard_no,
    )
    first = planner.plan_page(world.database, world.settings, send_id, shard_no)
    assert (first.scanned, first.done) == (shard.n, False)
    second = planner.plan_page(world.database, world.settings, send_id, shard_no)
    assert (second.scanned, second.done, second.orders) == (0, True, [])
    world.plan(send_id)
    assert_planned_exactly(world, send_id, ALL_ACTIVE)


@pytest.mark.parametrize(
    ("audience", "condition"),
    [
        ({"segments": ["all"], "platforms": ["fcm"]}, "d.platform = 'fcm'"),
        ({"segments": ["german"]}, "d.language = 'de'"),
        ({"segments": ["chosen"]}, "d.user_id BETWEEN 500 AND 799"),
        ({"segments": ["chosen", "german"]}, "(d.user_id BETWEEN 500 AND 799 OR d.language = 'de')"),
        (
            {"segments": ["chosen"], "exclude_segments": ["german"], "exclude_user_ids": [501, 700]},
            "d.user_id BETWEEN 500 AND 799 AND coalesce(d.language, '') <> 'de' AND d.user_id NOT IN (501, 700)",
        ),
        ({"filter": {"tags": {"any": ["beta"]}}}, "d.tags ? 'beta'"),
        ({"user_ids": [1, 2, 600, 1700, 999_999]}, "d.user_id IN (1, 2, 600, 1700)"),
        ({"user_ids": list(range(1, 1501))}, "d.user_id <= 1500"),
        ({"user_ids": [600, 1700], "segments": ["chosen"]}, "d.user_id = 600"),
    ],
)
def test_segments_filters_exclusions_and_explicit_users(
    world: World, audience: dict[str, Any], condition: str
) -> None:
    world.add_devices("apns", 800, language="en")
    world.add_devices("apns", 200, first=801, language="de")
    world.add_devices("fcm", 1000, first=751, tags='["beta"]')
    world.add_devices("fcm", 500, first=1, app="other")
    segments.create(world.database, APP, "german", filter={"language": "de"})
    segments.create(world.database, APP, "chosen")
    segments.add_members(world.database, APP, "chosen", [list(range(500, 800)), [5_000_000]])
    send_id = world.send(audience=audience)
    assert_planned_exactly(world, send_id, f"{ALL_ACTIVE} AND {condition}")


def test_a_page_that_was_cut_off_is_neither_lost_nor_repeated(world: World, ledger_url: str) -> None:
    """PostgreSQL loses the planner's connection in mid-page, several times."""
    world.add_devices("apns", 4000)
    send_id = world.accept()
    failures = []

    def plan(shard_no: int) -> None:
        try:
            planner.plan_page(world.database, world.settings, send_id, shard_no)
        except ServiceUnavailable as error:
            failures.append(error)

    with psycopg.connect(ledger_url, connect_timeout=5, autocommit=True) as connection:
        for shard_no in (0, 0, 5):  # the first page of a shard, its second one, and another shard
            # Readers pass this lock, the insertion of a batch does not.
            with connection.transaction():
                connection.execute("LOCK TABLE send_batches IN EXCLUSIVE MODE")
                thread = threading.Thread(target=plan, args=(shard_no,))
                thread.start()
                deadline = time.monotonic() + DEADLINE_S
                while not world.rows(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                ):
                    assert time.monotonic() < deadline
                thread.join(DEADLINE_S)
            plan(shard_no)
    assert len(failures) == 3
    world.plan(send_id)
    assert_planned_exactly(world, send_id, ALL_ACTIVE)


def test_a_page_that_fails_after_its_batches_were_inserted_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_devices("apns", 2000)
    send_id = world.accept()

    def fail(*_: object, **__: object) -> int:
        raise OSError("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(planner, "next_scan_limit", fail)
        with pytest.raises(OSError, match="the process is gone"):
            planner.plan_page(world.database, world.settings, send_id, 3)
    assert world.planned_devices(send_id) == []
    world.plan(send_id)
    assert_planned_exactly(world, send_id, ALL_ACTIVE)


def test_a_planner_that_dies_before_it_releases_leaves_that_to_the_sweeper(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_devices("apns", 2000)
    send_id = world.accept()

    def fail(*_: object, **__: object) -> list[int]:
        raise OSError("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(planner, "top_up", fail)
        with pytest.raises(OSError, match="the process is gone"):
            planner.plan_page(world.database, world.settings, send_id, 3)
    assert world.planned_devices(send_id) != []
    assert world.queued(send_id) == []
    sweeper.sweep(world.database, world.settings, lambda orders: len(list(orders)))
    assert world.queued(send_id) != []
    world.plan(send_id)
    assert_planned_exactly(world, send_id, ALL_ACTIVE)


def test_a_shard_with_more_pages_does_not_wait_for_who_releases(world: World) -> None:
    """Its last page does, or what it planned might wait for the sweeper."""
    world.add_devices("apns", 4000)
    send_id = world.accept()
    with world.database.begin() as connection:
        top_up(connection, send_id, "apns", world.settings.release_window)
        page = planner.plan_page(world.database, world.settings, send_id, 3)
        assert (page.done, page.orders) == (False, [])
    while not page.done:
        page = planner.plan_page(world.database, world.settings, send_id, 3)
    assert world.queued(send_id) != []


def test_two_planners_on_one_shard_do_the_work_of_one(world: World) -> None:
    world.add_devices("apns", 4000)
    send_id = world.accept()
    pages: Counter[str] = Counter()

    def plan() -> None:
        for _ in range(60):
            for shard_no in (1, 2):
                page = planner.plan_page(world.database, world.settings, send_id, shard_no)
                pages["worked" if page.scanned else "left"] += 1

    threads = [threading.Thread(target=plan) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert pages["worked"]
    world.plan(send_id)
    assert_planned_exactly(world, send_id, ALL_ACTIVE)


def test_who_finds_the_shard_locked_leaves_at_once(world: World) -> None:
    world.add_devices("apns", 100)
    send_id = world.accept()
    with world.database.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM send_shards FOR UPDATE")
        page = planner.plan_page(world.database, world.settings, send_id, 0)
    assert (page.orders, page.scanned, page.done) == ([], 0, True)


@pytest.mark.parametrize(
    "audience",
    [
        {"segments": ["all"]},
        {"segments": ["nobody"]},
        {"user_ids": [77]},
        {"segments": ["all"], "platforms": ["fcm"]},
    ],
)
def test_an_audience_of_nobody_fails_with_a_reason(world: World, audience: dict[str, Any]) -> None:
    if audience != {"segments": ["all"]}:
        world.add_devices("apns", 50)
    segments.create(world.database, APP, "nobody")
    send_id = world.send(audience=audience)
    ended = world.progress(send_id)
    assert (ended.state, ended.finished, ended.platforms) == ("failed", True, {})
    assert ended.error is not None
    assert ended.error.startswith("audience: found no active device; expected at least one.")


def test_a_send_whose_last_planner_died_before_it_could_say_so_still_finishes_planning(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shards are done, but nobody has looked whether that was the last one."""
    world.add_devices("apns", 200)
    full, empty = world.accept(), world.accept(audience={"user_ids": [77_777]})
    with monkeypatch.context() as patch:
        patch.setattr(planner, "finish_planning", lambda *_: None)
        world.plan(full)
        world.plan(empty)
    assert world.progress(full).planned_at is None
    sweeper.sweep(world.database, world.settings)
    assert (world.progress(full).state, world.progress(empty).state) == ("sending", "failed")
    assert world.progress(full).planned_at is not None


def test_a_lost_planning_order_is_issued_again(world: World) -> None:
    world.add_devices("apns", 500)
    send_id = world.accept()
    assert [o for o in sweeper.sweep(world.database, world.settings) if isinstance(o, PlanShard)] == []
    world.change("UPDATE send_shards SET updated_at = now() - interval '91 s'")
    orders = sweeper.sweep(world.database, world.settings)
    assert {order.shard_no for order in orders if isinstance(order, PlanShard)} == set(range(sends.SHARDS))
    # Issued, they count as fresh again.
    assert [o for o in sweeper.sweep(world.database, world.settings) if isinstance(o, PlanShard)] == []
    world.plan(send_id)
    assert_planned_exactly(world, send_id, ALL_ACTIVE)


def test_a_paused_send_is_not_planned_and_goes_on_where_it_stood(world: World) -> None:
    world.add_devices("apns", 3000)
    send_id = world.accept()
    planner.plan_page(world.database, world.settings, send_id, 0)
    with world.database.begin() as connection:
        assert brake.pause(connection, send_id)
    before = world.planned_devices(send_id)
    assert before
    assert world.plan(send_id) == []
    assert world.planned_devices(send_id) == before
    with world.database.begin() as connection:
        assert brake.resume(connection, send_id)
    # Its planning orders were dropped while it was paused; the sweeper issues them at once.
    issued = {o.shard_no for o in sweeper.sweep(world.database, world.settings) if isinstance(o, PlanShard)}
    assert issued == set(range(sends.SHARDS))
    world.plan(send_id)
    assert_planned_exactly(world, send_id, ALL_ACTIVE)


def test_a_stopped_send_is_not_planned_any_further(world: World) -> None:
    world.add_devices("apns", 3000)
    send_id = world.accept()
    planner.plan_page(world.database, world.settings, send_id, 0)
    with world.database.begin() as connection:
        assert brake.stop(connection, send_id, state="cancelled", error=None)
    assert world.plan(send_id) == []
    planned = len(world.planned_devices(send_id))
    assert world.totals(send_id) == {"devices": planned, "cancelled": planned}
    assert world.progress(send_id).finished


def test_a_send_in_the_future_waits_for_its_time(world: World) -> None:
    world.add_devices("apns", 100)
    send_id = world.accept(send_at="2100-01-01T00:00:00+00:00")
    assert sweeper.sweep(world.database, world.settings) == []
    assert world.progress(send_id).state == "scheduled"
    world.change("UPDATE sends SET send_at = now() - interval '1 s'")
    orders = sweeper.sweep(world.database, world.settings)
    assert len([order for order in orders if isinstance(order, PlanShard)]) == sends.SHARDS
    assert sweeper.sweep(world.database, world.settings) == []
    world.plan(send_id)
    assert_planned_exactly(world, send_id, ALL_ACTIVE)


def test_a_repeated_call_is_the_same_send(world: World) -> None:
    world.add_devices("apns", 100)
    call = world.submission(idempotency_key="promo")
    first, error = sends.accept(world.database, world.settings, call.send_id(), call)
    assert (len(first), error) == (sends.SHARDS, None)
    assert sends.accept(world.database, world.settings, call.send_id(), call) == ([], None)
    # The same key under another spelling of the app: another id, and still not a second send.
    spelt = world.submission(idempotency_key="promo", app=APP)
    assert spelt.send_id() != call.send_id()
    assert sends.accept(world.database, world.settings, spelt.send_id(), spelt) == ([], None)
    assert world.value("SELECT count(*) FROM sends") == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"audience": {"segments": ["germn"]}}, "audience.segments: found the segment 'germn'"),
        ({"app": "shpo"}, "app: found 'shpo'; expected one of the configured apps: shop"),
    ],
)
def test_a_call_that_only_the_worker_can_refuse_ends_as_failed(
    world: World, call: dict[str, Any], error: str
) -> None:
    send_id = uuid.uuid4()
    orders, said = sends.accept(world.database, world.settings, send_id, world.submission(**call))
    assert orders == []
    assert said is not None
    assert said.startswith(error)
    ended = world.progress(send_id)
    assert (ended.state, ended.error, ended.finished) == ("failed", said, True)


@pytest.mark.parametrize(
    ("limit", "scanned", "matched", "expected"),
    [
        (20_000, 0, 0, 20_000),  # nothing was there to learn from
        (20_000, 20_000, 20_000, 20_000),  # all match: four batches would need less than the floor
        (20_000, 20_000, 2_000, 40_000),  # not one full batch: look further
        (40_000, 40_000, 0, 80_000),
        (160_000, 160_000, 1, MAX_SCAN),  # and never further than that
        (20_000, 20_000, 5_000, 40_000),  # a quarter matches: four batches are in 40,000
        (200_000, 200_000, 200_000, 20_000),  # back down when all match again
        (10, 10, 0, 20_000),  # never below the floor
    ],
)
def test_the_next_page_reads_as_much_as_fills_batches(
    limit: int, scanned: int, matched: int, expected: int
) -> None:
    assert next_scan_limit(limit, scanned, matched, floor=20_000, batch_size=2_500) == expected


def test_a_thin_audience_is_planned_with_growing_pages(world: World) -> None:
    world.add_devices("apns", 16_000)
    send_id = world.accept(audience={"filter": {"tags": {"any": ["rare"]}}, "segments": ["all"]})
    world.change("UPDATE device_tokens SET tags = '[\"rare\"]' WHERE user_id % 100 = 0")
    limits = []
    done = False
    while not done:
        done = planner.plan_page(world.database, world.settings, send_id, 0).done
        limits.append(
            world.value("SELECT scan_limit FROM send_shards WHERE send_id = :id AND shard_no = 0", id=send_id)
        )
    assert limits[:3] == [200, 400, 800]
    world.plan(send_id)
    assert_planned_exactly(world, send_id, f"{ALL_ACTIVE} AND d.user_id % 100 = 0")


def test_the_planner_holds_no_audience(world: World, ledger_url: str, tmp_path: Path) -> None:
    """Ten times the devices, the same memory; and no statement gives Python more than a window of batch numbers."""
    peaks, most_rows = {}, []
    with open_world(ledger_url, bare_app(tmp_path), release_window=8) as wide:

        @event.listens_for(wide.database.engine, "after_cursor_execute")
        def count(_: Any, cursor: Any, statement: str, *__: Any) -> None:
            if "pg_catalog" not in statement:
                most_rows.append((cursor.rowcount if cursor.description else 0, statement))

        for size in (5_000, 50_000):
            wide.change("TRUNCATE device_tokens")
            wide.add_devices("apns", size)
            send_id = wide.accept()
            shards = list(range(sends.SHARDS))
            most_rows.clear()
            tracemalloc.start()
            for shard_no in shards:
                while not planner.plan_page(wide.database, wide.settings, send_id, shard_no).done:
                    pass
            peaks[size] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert max(most_rows)[0] <= wide.settings.release_window
            assert wide.totals(send_id)["devices"] == size
    assert peaks[50_000] < peaks[5_000] + 200_000  # the audience alone would be 800,000 bytes of pointers


def test_released_batches_are_ordered_for_their_lane(world: World) -> None:
    world.add_devices("apns", 90)
    broadcast = world.plan(world.accept())
    urgent = world.plan(world.accept(kind="transactional", audience={"user_ids": list(range(1, 91))}))
    assert broadcast
    assert urgent
    assert {order.transactional for order in broadcast if isinstance(order, DeliverBatch)} == {False}
    assert {order.transactional for order in urgent if isinstance(order, DeliverBatch)} == {True}
