"""No statement reads without a bound: every one that a send causes, from the call to the sweep, is caught and looked at.

Three ways, for each is blind where another sees: what a statement says (a LIMIT, an aggregate, keys), how PostgreSQL would
run it (through an index, never over a whole table), and what it gave to Python (no more rows for more devices).
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from sqlalchemy import event

from pushq import control
from pushq.app_settings import load_apps
from pushq.audience import segments
from pushq.ledger import brake, planner, sends, sweeper
from pushq.ledger.orders import ProcessDeadLetters
from pushq.ledger.progress import parked, reasons, recent, waiting_dead_letters
from pushq.mock import MockProcess
from pushq.tokens.buckets import SPAN, by_bucket
from pushq.tokens.invalidation import invalidate_from_dead_letters
from pushq.tokens.partitions import PARTITIONS
from tests.integration.ledger_world import APP, DEAD_PREFIX, World, open_worker, open_world

#: What grows with devices, sends or time.
LARGE = re.compile(
    r"\b(?:FROM|JOIN|UPDATE|INTO|USING)\s+(?:ONLY\s+)?(device_tokens\w*|send_batches|dead_letters\w*|segment_members|sends)\b",
    re.IGNORECASE,
)
BOUNDED = {
    "limit": re.compile(r"\bLIMIT\b", re.IGNORECASE),
    "aggregate": re.compile(r"^\s*SELECT\s+(?:platform,\s*)?(?:count|sum)\(", re.IGNORECASE),
    "one row by its key": re.compile(
        r"\b(?:id|batch_no|shard_no) = (?:%\(|due\.|next\.|held\.)", re.IGNORECASE
    ),
    "as many as are named": re.compile(r"\bANY\s*\(\s*CAST\(|\bunnest\(", re.IGNORECASE),
    "of one send and platform": re.compile(
        r"send_id = %\(\w+\)s(?:::\w+)? AND (?:platform|state)", re.IGNORECASE
    ),
    "only whether there is one": re.compile(r"EXISTS \(SELECT FROM", re.IGNORECASE),
}


class Statement(NamedTuple):
    text: str
    parameters: Any
    rows: int


@contextmanager
def watched(world: World, *, alone: bool = False) -> Iterator[list[Statement]]:
    """The statements about large tables that are executed within the block: those of transactions, or those that are one by themselves."""
    engine = world.database._each if alone else world.database.engine
    found: list[Statement] = []

    def note(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if LARGE.search(statement):
            found.append(Statement(statement, parameters, cursor.rowcount if cursor.description else 0))

    event.listen(engine, "after_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "after_cursor_execute", note)


def whole_tables(plan: Any) -> set[str]:
    """Large tables that a plan reads from end to end."""
    found = set()
    if isinstance(plan, dict):
        name = str(plan.get("Relation Name", ""))
        if plan.get("Node Type") == "Seq Scan" and LARGE.fullmatch(f"FROM {name}"):
            found.add(name)
        # An index that is read without a condition, and without a LIMIT above, is a whole table in another order.
        if plan.get("Node Type") in {"Index Scan", "Index Only Scan"} and not (
            plan.keys() & {"Index Cond", "Filter"} or "limited" in plan
        ):
            partial = str(plan.get("Index Name", ""))
            if not partial.startswith(("send_batches_", "sends_", "dead_letters_waiting")):
                found.add(name)
        for child in plan.get("Plans", ()):
            if plan.get("Node Type") == "Limit" or "limited" in plan:
                child["limited"] = True
            found |= whole_tables(child)
        found |= whole_tables(plan.get("Plan"))
    elif isinstance(plan, list):
        for each in plan:
            found |= whole_tables(each)
    return found


def cycle(world: World, redis_url: str, mock: MockProcess, devices: int) -> list[Statement]:
    """One send to a segment with faults on its way, all that is done for it, and all that is asked about it."""
    world.change("TRUNCATE device_tokens, sends CASCADE")
    world.change("TRUNCATE dead_letters")
    world.add_devices("apns", devices // 2)
    world.add_devices("fcm", devices // 2 - 40, first=devices // 4)
    world.add_devices("fcm", 40, first=10_000_001, prefix=DEAD_PREFIX)
    world.change("DELETE FROM segments")
    segments.create(world.database, APP, "everybody")
    everybody = [row.user_id for row in world.rows("SELECT DISTINCT user_id FROM device_tokens")]
    segments.add_members(world.database, APP, "everybody", [everybody])
    segments.create(world.database, APP, "phones", filter={"platform": ["apns", "fcm"]})
    mock.reset()
    answer = {"status": 503, "reason": "UNAVAILABLE"}
    mock.set_faults([{"platform": "fcm", "every": 200, "times": 1, "answer": answer}])
    with (
        # What the test itself does to the ledger is not looked at.
        open_world(world.database.url.reveal(), world.settings.apps[APP]) as aside,
        watched(world) as found,
        open_worker(world, redis_url) as worker,
    ):
        send_id = uuid.uuid4()
        call = world.submission(
            audience={"segments": ["everybody"], "exclude_user_ids": [1]}, guarantee="at_most_once"
        )
        orders, error = sends.accept(world.database, world.settings, send_id, call)
        assert error is None
        left = worker.run_orders(orders)
        for _ in range(20):
            aside.let_time_pass(send_id)
            left += worker.run_orders(sweeper.sweep(world.database, world.settings))
        for order in left:
            assert isinstance(order, ProcessDeadLetters)
            invalidate_from_dead_letters(world.database, order.send_id, order.batch_no)
        for change in (brake.pause, brake.resume):
            with world.database.begin() as connection:
                change(connection, send_id)
        urgent = world.accept(audience={"user_ids": [2, 3, 4]}, kind="transactional")
        planner.plan_page(world.database, world.settings, urgent, sends.EXPLICIT_SHARD)
        with world.database.begin() as connection:
            brake.stop(connection, urgent, state="cancelled", error=None)
        found_progress = world.progress(send_id)
        reasons(world.database, send_id)
        waiting_dead_letters(world.database, send_id)
        recent(world.database)
        parked(world.database, send_id)
        control.set_rate(urgent, 5, database=world.database)
        control.replay(urgent, ["cancelled"], platforms=["apns"], database=world.database)
        control.set_rate(urgent, 5, database=world.database)
        control.export(send_id, io.BytesIO(), database=world.database)
        control.export(send_id, io.BytesIO(), outcomes=["dead", "pending"], database=world.database)
    assert found_progress.state == "done"
    assert found_progress.total("dead") == 40
    assert found_progress.total("accepted") == devices - 41
    return found


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    with MockProcess() as mock:
        yield mock


@pytest.fixture
def world(database: str, mock: MockProcess) -> Iterator[World]:
    app = load_apps(mock.config_file)[APP]
    with open_world(database, app, batch_size=25, plan_page=200, release_window=4) as world:
        yield world


def test_no_statement_reads_without_a_bound(world: World, redis_url: str, mock: MockProcess) -> None:
    found = cycle(world, redis_url, mock, 1_000)
    texts = {statement.text: statement for statement in found}
    touched = {name.lower() for text in texts for name in LARGE.findall(text)}
    large = {"device_tokens", "device_tokens_p00", "send_batches", "dead_letters", "segment_members", "sends"}
    assert large <= touched
    assert len(texts) > 20

    unbounded = [
        text
        for text in texts
        if not text.lstrip().upper().startswith("INSERT")
        and not any(rule.search(text) for rule in BOUNDED.values())
    ]
    assert unbounded == []

    read_whole = {}
    with world.database.begin() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")
        for statement in texts.values():
            plan = connection.exec_driver_sql(
                f"EXPLAIN (FORMAT JSON) {statement.text}", statement.parameters
            ).scalar_one()
            whole = whole_tables(json.loads(plan) if isinstance(plan, str) else plan)
            if whole:
                read_whole[statement.text] = whole
    assert read_whole == {}


def test_what_transactional_calls_run_is_never_planned_as_a_scan(
    world: World, redis_url: str, mock: MockProcess
) -> None:
    """A session plans each such statement once and for good, maybe when the tables have just been made: as they are here."""
    world.add_devices("apns", 3)
    world.add_devices("fcm", 3)
    with watched(world, alone=True) as found, open_worker(world, redis_url) as worker:
        keys = [key for user in (1, 2, 3) for key in world.taken_in([user])]
        apns = [
            (row.send_id, row.batch_no)
            for row in world.rows("SELECT send_id, batch_no FROM send_batches WHERE platform = 'apns'")
        ]
        worker.run_together(*apns)
        worker.run_together(*(key for key in keys if key not in apns))
    assert {world.progress(send_id).state for send_id, _ in keys} == {"done"}
    texts = {statement.text: statement for statement in found}
    assert {"send_batches", "sends"} <= {name.lower() for text in texts for name in LARGE.findall(text)}
    assert len(texts) == 4, "taken in, taken up, settled, and finished with the later of two platforms"
    read_whole = {}
    with world.database.alone() as connection:
        for statement in texts.values():
            plan = connection.exec_driver_sql(
                f"EXPLAIN (FORMAT JSON) {statement.text}", statement.parameters
            ).scalar_one()
            if whole := whole_tables(plan):
                read_whole[statement.text] = whole
    assert read_whole == {}


def test_more_devices_bring_no_more_rows_to_python(world: World, redis_url: str, mock: MockProcess) -> None:
    most = {}
    for devices in (1_000, 4_000):
        found = cycle(world, redis_url, mock, devices)
        most[devices] = max(statement.rows for statement in found)
    # The tokens of one batch, with those of its first and its last user's neighbours; the planner, the sweeper and the questions stay
    # below that.
    crowd = max(len(users) for _, users in by_bucket(range(1, 4_001)))
    assert crowd < SPAN / PARTITIONS * 2
    for rows in most.values():
        assert world.settings.batch_size <= rows <= world.settings.batch_size + 2 * (crowd - 1)


def test_the_check_sees_what_it_is_for(world: World) -> None:
    """A statement without a bound is found by each of the two ways."""
    world.add_devices("apns", 100)
    with watched(world) as found:
        world.rows("SELECT token FROM device_tokens WHERE language IS NULL")
    (statement,) = found
    assert statement.rows == 100
    assert not any(rule.search(statement.text) for rule in BOUNDED.values())
    with world.database.begin() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")
        plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement.text}").scalar_one()
    assert whole_tables(plan)
