"""Stop, replay, rate and export: what an operator does to a send, and that the ledger's bytes and counts agree after it."""

from __future__ import annotations

import csv
import io
import itertools
import os
import tracemalloc
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from pushq import metrics
from pushq.embedded.postgres import PostgresServer
from pushq.errors import InvalidRequest
from pushq.ledger import brake, sends, sweeper
from pushq.ledger.export import (
    FIELDS,
    FORMATS,
    ExportFailed,
    MissingLibrary,
    atomic_file,
    choose_format,
    export,
)
from pushq.ledger.orders import DeliverBatch
from pushq.ledger.outcomes import COLUMNS, Outcome, count
from pushq.ledger.recipients import recipients
from pushq.ledger.replay import REPLAYABLE, choose, preview, replay
from pushq.ledger.sends import UnknownSend, WrongState
from pushq.settings import RetrySettings
from tests.integration.ledger_world import World, bare_app, open_world

BATCH = 10
NOBODY = uuid.UUID("00000000-0000-4000-8000-000000000000")


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(
        ledger_url, bare_app(tmp_path), batch_size=BATCH, plan_page=100, release_window=3
    ) as world:
        world.empty()
        yield world


def planned(world: World, batches: int, platform: str = "apns", **call: Any) -> uuid.UUID:
    world.add_devices(platform, batches * BATCH)
    return world.send(audience={"user_ids": list(range(1, batches * BATCH + 1))}, **call)


def put(
    world: World,
    send_id: uuid.UUID,
    batch_no: int,
    outcomes: Sequence[int],
    *,
    state: str = "done",
    **columns: Any,
) -> None:
    """Write a batch as if it had been settled so, with a dead letter for every failure."""
    counts = {name: n for name, n in count(bytes(outcomes)).items() if name != "pending"}
    values = {"state": state, "outcomes": bytes(outcomes), **counts, **columns}
    world.change(
        f"UPDATE send_batches SET {', '.join(f'{name} = :{name}' for name in values)}, settled_at = '2030-01-01 00:00+00',"
        " due_at = NULL, lease_token = NULL WHERE send_id = :id AND batch_no = :no",
        id=send_id,
        no=batch_no,
        **values,
    )
    for position, outcome in enumerate(outcomes):
        if outcome in (Outcome.TOKEN_DEAD, Outcome.REJECTED, Outcome.EXHAUSTED, Outcome.EXPIRED):
            world.change(
                """
                INSERT INTO dead_letters (send_id, batch_no, position, user_id, device_id, app, platform, outcome, status, reason, attempt)
                SELECT send_id, batch_no, :p, user_ids[:p + 1], device_ids[:p + 1], 'shop', platform, :outcome, :status, :reason, 3
                FROM send_batches WHERE send_id = :id AND batch_no = :no
                """,
                id=send_id,
                no=batch_no,
                p=position,
                outcome=COLUMNS[Outcome(outcome)],
                status=503 if position % 2 else None,
                reason="ServiceUnavailable" if position % 2 else "no_answer_timeout",
            )


def numbers(world: World, send_id: uuid.UUID) -> list[int]:
    return [
        row.batch_no
        for row in world.rows("SELECT batch_no FROM send_batches WHERE send_id = :id ORDER BY 1", id=send_id)
    ]


def finish(world: World, send_id: uuid.UUID, state: str = "done") -> None:
    world.change(
        "UPDATE sends SET state = :state, finished_at = now() WHERE id = :id", id=send_id, state=state
    )


def bytes_agree(world: World, send_id: uuid.UUID) -> Counter[str]:
    """The outcomes of all recipients; fails where a batch's counts say something else than its bytes."""
    totals: Counter[str] = Counter()
    for row in world.rows("SELECT * FROM send_batches WHERE send_id = :id", id=send_id):
        counted = count(bytes(row.recipients) if row.outcomes is None else bytes(row.outcomes))
        assert {name: getattr(row, name) for name in COLUMNS.values()} == {
            name: counted[name] for name in COLUMNS.values()
        }
        totals.update({name: n for name, n in counted.items() if n})
    return totals


def stop(world: World, send_id: uuid.UUID) -> bool:
    with world.database.begin() as connection:
        return brake.stop(connection, send_id, state="cancelled", error=None)


class TestStop:
    def test_the_bytes_tell_who_was_cancelled(self, world: World) -> None:
        """Every pair of neighbouring outcomes: the rewriting in hex never mistakes half of one and half of the next for a third."""
        send_id = planned(world, 1)
        (batch_no,) = numbers(world, send_id)
        final = [o for o in Outcome if o > Outcome.CLAIMED]
        pairs = [value for pair in itertools.product(Outcome, repeat=2) for value in pair]
        devices = list(range(len(pairs)))
        world.change(
            "UPDATE send_batches SET recipients = :n, user_ids = :devices, device_ids = :devices, state = 'retry'",
            n=len(pairs),
            devices=devices,
        )
        put(world, send_id, batch_no, pairs, state="retry")
        assert stop(world, send_id)
        after = bytes(world.value("SELECT outcomes FROM send_batches"))
        assert after == bytes(o if o in final else Outcome.CANCELLED for o in pairs)
        assert bytes_agree(world, send_id)["cancelled"] == pairs.count(Outcome.CANCELLED) + sum(
            o not in final for o in pairs
        )

    def test_batches_that_never_ran_are_written_too(self, world: World) -> None:
        send_id = planned(world, 5)
        assert stop(world, send_id)
        assert bytes_agree(world, send_id) == {"cancelled": 5 * BATCH}
        assert world.states(send_id) == {"done": 5}

    def test_who_vanished_with_a_batch_leaves_unknown_bytes(self, world: World) -> None:
        send_id = planned(world, 1)
        (batch_no,) = numbers(world, send_id)
        world.acquire(send_id, batch_no)
        world.let_leases_end(send_id)
        assert sweeper.sweep(world.database, world.settings)
        assert stop(world, send_id)
        assert bytes_agree(world, send_id) == {"unknown": BATCH}

    @pytest.mark.parametrize("swept", [True, False])
    def test_who_is_unknown_has_a_reason(self, world: World, swept: bool) -> None:
        """Also in a batch that the sweeper ends, because its lease was over only after the stop."""
        send_id = planned(world, 3)
        fresh, partly, _ = numbers(world, send_id)
        mixed = [Outcome.ACCEPTED, Outcome.PENDING, Outcome.CANCELLED, Outcome.CLAIMED] + [
            Outcome.EXPIRED
        ] * 6
        world.change(
            "UPDATE send_batches SET outcomes = :o, attempts = :a, accepted = 1, cancelled = 1, expired = 6 WHERE batch_no = :no",
            o=bytes(mixed),
            a=bytes([1, 2, 0, 3] + [0] * 6),
            no=partly,
        )
        for number in (fresh, partly):
            world.acquire(send_id, number)
        if swept:
            world.let_leases_end(send_id)
            sweeper.sweep(world.database, world.settings)
        counter = metrics.unknown.labels("shop", "apns", brake.SEND_STOPPED)
        before = counter._value.get()
        assert stop(world, send_id)
        world.let_leases_end(send_id)
        sweeper.sweep(world.database, world.settings)
        assert bytes_agree(world, send_id) == {
            "unknown": BATCH + 2,
            "cancelled": BATCH + 1,
            "accepted": 1,
            "expired": 6,
        }
        letters = world.rows("SELECT * FROM dead_letters ORDER BY batch_no, position")
        assert [(row.batch_no, row.position, row.attempt) for row in letters] == [
            *((fresh, position, 0) for position in range(BATCH)),
            (partly, 1, 2),
            (partly, 3, 3),
        ]
        assert {(row.app, row.platform, row.outcome, row.reason) for row in letters} == {
            ("shop", "apns", "unknown", "no_answer_send_stopped")
        }
        batch = world.rows("SELECT * FROM send_batches WHERE batch_no = :no", no=partly)[0]
        assert (letters[-1].user_id, letters[-1].device_id) == (batch.user_ids[3], batch.device_ids[3])
        assert counter._value.get() - before == BATCH + 2
        # Nobody's letter is left when they are sent again.
        assert (
            replay(world.database, send_id, choose(["unknown"], may_duplicate=True)).recipients == BATCH + 2
        )
        assert world.value("SELECT count(*) FROM dead_letters") == 0

    def test_a_parked_batch_stays_what_it_is(self, world: World) -> None:
        send_id = planned(world, 2)
        parked, _ = numbers(world, send_id)
        put(
            world,
            send_id,
            parked,
            [Outcome.EXHAUSTED] * BATCH,
            state="parked",
            error="killed its worker 3 times",
        )
        assert stop(world, send_id)
        assert world.states(send_id) == {"parked": 1, "done": 1}
        assert bytes_agree(world, send_id) == {"exhausted": BATCH, "cancelled": BATCH}
        assert world.progress(send_id).finished

    def test_a_parked_batch_does_not_keep_a_send_from_ending(self, world: World) -> None:
        send_id = planned(world, 1)
        put(world, send_id, numbers(world, send_id)[0], [Outcome.UNKNOWN] * BATCH, state="parked")
        sweeper.sweep(world.database, world.settings)
        assert world.progress(send_id).state == "done"


MIXED = [
    Outcome.ACCEPTED,
    Outcome.EXHAUSTED,
    Outcome.EXHAUSTED,
    Outcome.TOKEN_DEAD,
    Outcome.REJECTED,
    Outcome.EXPIRED,
    Outcome.SUPPRESSED,
    Outcome.CANCELLED,
    Outcome.UNKNOWN,
    Outcome.ACCEPTED,
]


class TestReplay:
    @pytest.fixture
    def ended(self, world: World) -> uuid.UUID:
        """Three batches of the same ten outcomes; positions 1 and 2 are exhausted for different reasons."""
        send_id = planned(world, 3, called_at=datetime(2026, 1, 1, tzinfo=UTC))
        for number in numbers(world, send_id):
            put(world, send_id, number, MIXED, attempts=bytes(range(10)))
        finish(world, send_id)
        return send_id

    def test_the_chosen_are_pending_again_and_nothing_else_is_touched(
        self, world: World, ended: uuid.UUID
    ) -> None:
        before = bytes_agree(world, ended)
        choice = choose(["exhausted"])
        said = preview(world.database, ended, choice)
        assert bytes_agree(world, ended) == before
        assert world.progress(ended).state == "done"
        done = replay(world.database, ended, choice)
        assert said == done
        assert (done.recipients, done.batches, done.platforms, done.unplanned) == (
            6,
            3,
            {"apns": {"exhausted": 6}},
            False,
        )
        assert bytes_agree(world, ended) == before - Counter(exhausted=6) + Counter(pending=6)
        for row in world.rows("SELECT * FROM send_batches"):
            assert bytes(row.outcomes) == bytes([2, 0, 0, *MIXED[3:]])
            assert bytes(row.attempts) == bytes([0, 0, 0, 3, 4, 5, 6, 7, 8, 9])
            assert (row.state, row.attempt, row.crashes, row.error) == ("planned", 0, 0, None)
        letters = Counter(row.outcome for row in world.rows("SELECT outcome FROM dead_letters"))
        assert letters == {"dead": 3, "rejected": 3, "expired": 3}

    def test_the_send_runs_again_with_a_new_expiry(self, world: World, ended: uuid.UUID) -> None:
        world.change("UPDATE sends SET error = 'refused', state = 'failed'")
        replay(world.database, ended, choose(["exhausted"]))
        (send,) = world.rows("SELECT *, expires_at - now() AS life FROM sends")
        assert (send.state, send.error, send.finished_at, send.version) == ("sending", None, None, 1)
        assert 86_000 < send.life.total_seconds() <= 86_400
        assert not world.progress(ended).finished
        orders = sweeper.sweep(world.database, world.settings)
        assert {order.batch_no for order in orders if isinstance(order, DeliverBatch)} == set(
            numbers(world, ended)
        )
        lease = world.acquire(ended, numbers(world, ended)[0])
        assert not lease.interrupted
        assert lease.outcomes.count(Outcome.PENDING) == 2

    def test_by_reason_and_platform(self, world: World) -> None:
        world.add_devices("fcm", BATCH)
        send_id = planned(world, 1)
        for number in numbers(world, send_id):
            put(
                world,
                send_id,
                number,
                [Outcome.EXHAUSTED] * 4 + [Outcome.REJECTED] * 4 + [Outcome.ACCEPTED] * 2,
            )
        finish(world, send_id)
        choice = choose(["exhausted", "rejected"], reasons=["ServiceUnavailable"], platforms=["fcm"])
        done = replay(world.database, send_id, choice)
        assert (done.recipients, done.platforms) == (4, {"fcm": {"exhausted": 2, "rejected": 2}})
        (fcm,) = world.rows("SELECT outcomes FROM send_batches WHERE platform = 'fcm'")
        assert bytes(fcm.outcomes) == bytes([5, 0, 5, 0, 4, 0, 4, 0, 2, 2])
        assert bytes_agree(world, send_id) == {"exhausted": 6, "rejected": 6, "accepted": 4, "pending": 4}
        assert world.value("SELECT count(*) FROM dead_letters") == 12
        assert world.states(send_id) == {"done": 1, "planned": 1}

    def test_nobody_chosen_changes_nothing(self, world: World, ended: uuid.UUID) -> None:
        done = replay(world.database, ended, choose(["exhausted"], reasons=["no such reason"]))
        assert (done.recipients, done.batches) == (0, 0)
        assert world.progress(ended).state == "done"
        assert world.value("SELECT version FROM sends") == 0

    def test_every_outcome_is_replayable_or_never(self, world: World, ended: uuid.UUID) -> None:
        never = {"accepted", "dead"}
        assert {name for name in COLUMNS.values() if name not in REPLAYABLE} == never
        done = replay(world.database, ended, choose(list(REPLAYABLE), may_duplicate=True))
        assert done.recipients == 21
        assert bytes_agree(world, ended) == {"accepted": 6, "dead": 3, "pending": 21}

    def test_a_parked_batch_can_be_taken_up_again(self, world: World) -> None:
        send_id = planned(world, 1)
        put(
            world,
            send_id,
            numbers(world, send_id)[0],
            [Outcome.EXHAUSTED] * BATCH,
            state="parked",
            crashes=3,
            error="poison",
        )
        finish(world, send_id)
        assert replay(world.database, send_id, choose(["exhausted"])).recipients == BATCH
        (row,) = world.rows("SELECT * FROM send_batches")
        assert (row.state, row.crashes, row.error) == ("planned", 0, None)

    def test_a_send_that_was_cancelled_while_planned_can_still_end(self, world: World) -> None:
        send_id = planned(world, 2)
        world.change("UPDATE sends SET planned_at = NULL, state = 'planning'")
        stop(world, send_id)
        done = replay(world.database, send_id, choose(["cancelled"]))
        assert (done.recipients, done.unplanned) == (2 * BATCH, True)
        for number in numbers(world, send_id):
            put(world, send_id, number, [Outcome.ACCEPTED] * BATCH)
        assert sends.finish_if_complete(world.database, send_id)

    @pytest.mark.parametrize("state", ["scheduled", "planning", "sending", "paused"])
    def test_a_running_send_is_refused(self, world: World, ended: uuid.UUID, state: str) -> None:
        world.change("UPDATE sends SET state = :state", state=state)
        with pytest.raises(
            WrongState, match=f"cannot be replayed: it is {state}; expected one that has ended"
        ):
            replay(world.database, ended, choose(["exhausted"]))

    def test_a_send_with_a_batch_in_flight_is_refused(self, world: World) -> None:
        send_id = planned(world, 2)
        world.acquire(send_id, numbers(world, send_id)[0])
        stop(world, send_id)
        with pytest.raises(WrongState, match="1 of its batches"):
            replay(world.database, send_id, choose(["cancelled"]))
        assert bytes_agree(world, send_id)["cancelled"] == BATCH

    def test_an_unknown_send_is_said(self, world: World) -> None:
        with pytest.raises(UnknownSend, match=str(NOBODY)):
            preview(world.database, NOBODY, choose(["exhausted"]))

    @pytest.mark.parametrize(
        ("call", "field", "says"),
        [
            ({"outcomes": []}, "outcome", "none"),
            ({"outcomes": ["accepted"]}, "outcome", "accepted"),
            ({"outcomes": ["dead"]}, "outcome", "dead"),
            ({"outcomes": ["pending"]}, "outcome", "pending"),
            ({"outcomes": ["unknown"]}, "outcome", "may_duplicate"),
            ({"outcomes": ["expired"], "platforms": ["sms"]}, "platform", "sms"),
        ],
    )
    def test_a_wrong_choice_is_refused(self, call: dict[str, Any], field: str, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says) as refused:
            choose(**call)
        assert refused.value.field == field


class TestRateAndRetry:
    def test_they_are_kept_with_the_send(self, world: World) -> None:
        send_id = world.accept(rate=500, retry={"max_attempts": 7, "max_delay": 90.5})
        with world.database.begin() as connection:
            send = sends.load(connection, send_id)
        assert (send.rate, send.trust_rejections) == (500, False)
        assert send.policy(RetrySettings(max_attempts=3, initial_delay=2.0, max_delay=30.0)) == RetrySettings(
            max_attempts=7, initial_delay=2.0, max_delay=90.5
        )

    def test_without_any_the_configured_policy_stands(self, world: World) -> None:
        with world.database.begin() as connection:
            send = sends.load(connection, world.accept())
        policy = RetrySettings(max_attempts=0)
        assert send.policy(policy) is policy
        assert send.rate is None

    def test_the_rate_changes_until_the_end(self, world: World) -> None:
        send_id = planned(world, 1)
        for rate in (100, 7, None):
            with world.database.begin() as connection:
                assert brake.set_rate(connection, send_id, rate)
            assert world.value("SELECT rate FROM sends") == rate
        stop(world, send_id)
        with world.database.begin() as connection:
            assert not brake.set_rate(connection, send_id, 5)

    @pytest.mark.parametrize("trust", [False, True])
    def test_resuming_with_trust_reaches_workers_that_kept_the_send(self, world: World, trust: bool) -> None:
        send_id = planned(world, 1, retry={"max_attempts": 2})
        with world.database.begin() as connection:
            brake.pause(connection, send_id, "many tokens failed")
        with world.database.begin() as connection:
            assert brake.resume(connection, send_id, trust_rejections=trust)
            send = sends.load(connection, send_id)
        assert (send.trust_rejections, send.version, dict(send.retry)) == (
            trust,
            int(trust),
            {"max_attempts": 2},
        )


class TestExport:
    @pytest.fixture
    def ended(self, world: World) -> uuid.UUID:
        world.add_devices("fcm", BATCH)
        send_id = planned(world, 2)
        for number in numbers(world, send_id)[:2]:
            put(world, send_id, number, MIXED, attempts=bytes([1, 3, 3, 1, 1, 2, 0, 0, 1, 1]))
        return send_id

    def rows(self, world: World, send_id: uuid.UUID, format_: str, *outcomes: str) -> list[dict[str, Any]]:
        stream = io.BytesIO()
        written = export(world.database, send_id, stream, format_, outcomes=outcomes)
        if format_ == "csv":
            found: list[dict[str, Any]] = list(
                csv.DictReader(io.StringIO(stream.getvalue().decode(), newline=""))
            )
        elif format_ == "jsonl":
            found = [orjson.loads(line) for line in stream.getvalue().splitlines()]
        else:
            from pyarrow import parquet  # noqa: PLC0415

            found = parquet.read_table(io.BytesIO(stream.getvalue())).to_pylist()
        assert written == len(found)
        return found

    def test_a_row_for_every_recipient(self, world: World, ended: uuid.UUID) -> None:
        found = self.rows(world, ended, "jsonl")
        assert len(found) == 3 * BATCH
        assert all(tuple(row) == FIELDS for row in found)
        assert [(row["batch_no"], row["position"]) for row in found] == sorted(
            (row["batch_no"], row["position"]) for row in found
        )
        assert sorted(row["device_id"] for row in found) == sorted(world.planned_devices(ended))
        assert Counter(row["outcome"] for row in found) == bytes_agree(world, ended)
        first = numbers(world, ended)[0]
        by_position = [row for row in found if row["batch_no"] == first]
        assert [row["attempt"] for row in by_position] == [1, 3, 3, 1, 1, 2, 0, 0, 1, 1]
        accepted, exhausted = by_position[0], by_position[1]
        assert (accepted["outcome"], accepted["reason"], accepted["status"]) == ("accepted", None, None)
        assert accepted["time"] == "2030-01-01T00:00:00+00:00"
        assert (exhausted["outcome"], exhausted["reason"], exhausted["status"]) == (
            "exhausted",
            "ServiceUnavailable",
            503,
        )
        assert datetime.fromisoformat(exhausted["time"]).year < 2030  # the letter's, not the settlement's
        pending = [row for row in found if row["outcome"] == "pending"]
        assert {(row["reason"], row["attempt"], row["time"]) for row in pending} == {(None, 0, None)}
        assert len(pending) == BATCH

    def test_all_formats_say_the_same(self, world: World, ended: uuid.UUID) -> None:
        lines = self.rows(world, ended, "jsonl")
        table = self.rows(world, ended, "parquet")
        assert [row | {"time": row["time"] and row["time"].isoformat()} for row in table] == [
            row | {"time": row["time"] and datetime.fromisoformat(row["time"]).isoformat()} for row in lines
        ]
        assert self.rows(world, ended, "csv") == [
            {name: "" if value is None else str(value) for name, value in row.items()} for row in lines
        ]

    @pytest.mark.parametrize(
        "outcomes", [("exhausted",), ("pending", "unknown"), ("accepted", "pending", "dead")]
    )
    def test_only_some_outcomes(self, world: World, ended: uuid.UUID, outcomes: tuple[str, ...]) -> None:
        wanted = [row for row in self.rows(world, ended, "jsonl") if row["outcome"] in outcomes]
        assert wanted
        assert self.rows(world, ended, "jsonl", *outcomes) == wanted

    @pytest.mark.parametrize("format_", FORMATS)
    def test_nobody_is_an_empty_file_of_its_format(
        self, world: World, ended: uuid.UUID, format_: str
    ) -> None:
        assert self.rows(world, ended, format_, "expired", "cancelled") != []
        world.change("DELETE FROM send_batches")
        assert self.rows(world, ended, format_) == []

    def test_many_pages_take_no_more_memory_than_few(self, world: World) -> None:
        peaks = {}
        for batches in (30, 240):
            world.empty()
            send_id = planned(world, batches)
            tracemalloc.start()
            rows = sum(len(block) for block in recipients(world.database, send_id))
            peaks[batches] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert rows == batches * BATCH
        assert peaks[240] < 1.5 * peaks[30]

    def test_an_unknown_outcome_is_refused(self, world: World) -> None:
        with pytest.raises(InvalidRequest, match="'eaten'"):
            list(recipients(world.database, NOBODY, ["eaten"]))


class TestFormat:
    def test_by_name_or_by_the_file(self, tmp_path: Path) -> None:
        assert choose_format(None, None) == "csv"
        assert choose_format(None, tmp_path / "x.JSONL") == "jsonl"
        assert choose_format("csv", tmp_path / "x.parquet") == "csv"
        for name, output, says in (
            (None, tmp_path / "x.xls", "x.xls"),
            ("xml", None, "'xml'"),
            ("parquet", None, "a file"),
        ):
            with pytest.raises(InvalidRequest, match=says):
                choose_format(name, output)

    def test_a_missing_library_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(MissingLibrary, match=r"pushq\[parquet\]"):
            FORMATS["parquet"](io.BytesIO())

    def test_a_file_appears_when_it_is_complete(self, tmp_path: Path) -> None:
        path = tmp_path / "out.csv"
        path.write_text("old")
        with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt
        assert path.read_text() == "old"
        with atomic_file(path) as file:
            file.write(b"new")
        assert path.read_text() == "new"
        assert list(tmp_path.iterdir()) == [path]
        with (
            pytest.raises(ExportFailed, match="No such file or directory"),
            atomic_file(tmp_path / "no" / "x.csv"),
        ):
            pass

    def test_a_link_stays_and_its_target_is_replaced(self, tmp_path: Path) -> None:
        target, link = tmp_path / "target.csv", tmp_path / "link.csv"
        link.symlink_to(target)
        for content in (b"first", b"second"):
            with atomic_file(link) as file:
                file.write(content)
            assert link.is_symlink()
            assert target.read_bytes() == content
        assert sorted(tmp_path.iterdir()) == [link, target]

    def test_what_is_no_file_stays_what_it_is(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with atomic_file(pipe) as file:
                file.write(b"rows")
            assert os.read(reader, 100) == b"rows"
        finally:
            os.close(reader)
        assert pipe.is_fifo()
        assert list(tmp_path.iterdir()) == [pipe]
        with pytest.raises(ExportFailed, match="Is a directory"), atomic_file(tmp_path):
            pass
