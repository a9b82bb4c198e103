"""Leases, settlements, the release window and the sweeper: who may write what, and that nothing stays behind."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pushq import metrics
from pushq.embedded.postgres import PostgresServer
from pushq.errors import ServiceUnavailable
from pushq.ledger import batches, brake, release, sends, sweeper
from pushq.ledger.batches import DeadLetter, Fenced, Lease
from pushq.ledger.orders import DeliverBatch, Order, ProcessDeadLetters
from pushq.ledger.outcomes import Outcome
from pushq.ledger.progress import reasons, recent, waiting_dead_letters
from tests.integration.ledger_world import World, bare_app, open_world

WINDOW, BATCH = 3, 10
DEADLINE_S = 20.0


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(
        ledger_url, bare_app(tmp_path), batch_size=BATCH, plan_page=100, release_window=WINDOW
    ) as world:
        world.empty()
        yield world


def explicit(count: int) -> dict[str, Any]:
    """An audience of the first users: planned as one shard, so that batches have a known size and order."""
    return {"user_ids": list(range(1, count + 1))}


@pytest.fixture
def one(world: World) -> tuple[uuid.UUID, int]:
    """A send of one queued batch of ten."""
    world.add_devices("apns", BATCH)
    send_id = world.send(audience=explicit(BATCH))
    (batch_no,) = world.queued(send_id)
    return send_id, batch_no


def settle(
    world: World,
    lease: Lease,
    outcome: Outcome = Outcome.ACCEPTED,
    *,
    retry_in: float | None = None,
    dead: list[DeadLetter] | None = None,
) -> batches.Settled:
    return batches.settle(
        world.database,
        lease,
        bytes([outcome]) * len(lease.device_ids),
        attempts=bytes(n + 1 for n in lease.attempts),
        window=world.settings.release_window,
        retry_in=retry_in,
        dead=dead or [],
    )


def row(world: World, send_id: uuid.UUID, batch_no: int) -> Any:
    return world.rows(
        "SELECT * FROM send_batches WHERE send_id = :id AND batch_no = :no", id=send_id, no=batch_no
    )[0]


def try_to_acquire(world: World, send_id: uuid.UUID, batch_no: int) -> Lease | None:
    return batches.acquire(world.database, send_id, batch_no, world.settings.lease_seconds)


def in_threads(*steps: Callable[[], object], wait_s: float = DEADLINE_S) -> list[object]:
    """Run the steps at once; returns what they returned or raised, in their order."""
    found: list[object] = [None] * len(steps)
    start = threading.Barrier(len(steps))

    def run(position: int) -> None:
        start.wait(DEADLINE_S)
        try:
            found[position] = steps[position]()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found[position] = error

    threads = [threading.Thread(target=run, args=(position,)) for position in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(wait_s)
    return found


def await_lock_waiters(world: World, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (
        world.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        < count
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestLease:
    def test_a_second_holder_is_refused(self, world: World, one: tuple[uuid.UUID, int]) -> None:
        lease = world.acquire(*one)
        assert (lease.platform, lease.attempts, lease.runs, lease.interrupted) == (
            "apns",
            bytes(BATCH),
            1,
            False,
        )
        assert lease.user_ids == list(range(1, BATCH + 1))
        assert lease.outcomes == bytes(BATCH)
        assert try_to_acquire(world, *one) is None

    def test_of_many_at_once_one_gets_it(self, world: World, one: tuple[uuid.UUID, int]) -> None:
        found = in_threads(*[lambda: try_to_acquire(world, *one)] * 6)
        assert len([lease for lease in found if isinstance(lease, Lease)]) == 1
        assert [lease for lease in found if not isinstance(lease, Lease)] == [None] * 5

    def test_an_ended_lease_goes_to_the_next_who_learns_of_it(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        first = world.acquire(*one)
        world.let_leases_end(one[0])
        second = world.acquire(*one)
        assert (second.interrupted, second.runs) == (True, 2)
        assert second.token != first.token

    def test_a_sleeper_is_fenced_and_writes_nothing(self, world: World, one: tuple[uuid.UUID, int]) -> None:
        sleeper = world.acquire(*one)
        world.let_leases_end(one[0])
        holder = world.acquire(*one)
        letter = DeadLetter(0, Outcome.TOKEN_DEAD, 410, "Unregistered", datetime.now(UTC))
        before = row(world, *one)
        with pytest.raises(Fenced):
            settle(world, sleeper, dead=[letter])
        assert not batches.hand_back(world.database, sleeper, delay=0)
        assert row(world, *one) == before
        assert world.value("SELECT count(*) FROM dead_letters") == 0
        settle(world, holder)
        assert world.totals(one[0]) == {"devices": BATCH, "accepted": BATCH}

    def test_a_sleeper_is_fenced_as_soon_as_the_batch_is_published_again(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        sleeper = world.acquire(*one)
        world.let_leases_end(one[0])
        assert [o for o in sweeper.sweep(world.database, world.settings) if isinstance(o, DeliverBatch)]
        with pytest.raises(Fenced):
            settle(world, sleeper)
        batches.extend(world.database, [sleeper], 60)
        assert sleeper.lost
        assert world.acquire(*one).interrupted

    def test_who_overslept_and_found_nobody_in_its_place_may_go_on(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        lease = world.acquire(*one)
        world.let_leases_end(one[0])
        batches.extend(world.database, [lease], 60)
        assert not lease.lost
        assert try_to_acquire(world, *one) is None
        assert settle(world, lease).done

    def test_extending_tells_the_lost_from_the_held(self, world: World) -> None:
        world.add_devices("apns", 3 * BATCH)
        send_id = world.send(audience=explicit(3 * BATCH))
        held, lost, settled = (world.acquire(send_id, no) for no in world.queued(send_id))
        settle(world, settled)
        world.change(
            "UPDATE send_batches SET due_at = now() - interval '1 s' WHERE batch_no = :no", no=lost.batch_no
        )
        world.acquire(send_id, lost.batch_no)
        before = row(world, send_id, held.batch_no).due_at
        batches.extend(world.database, [held, lost, settled], 600)
        assert (held.lost, lost.lost, settled.lost) == (False, True, True)
        assert (row(world, send_id, held.batch_no).due_at - before).total_seconds() > 500

    def test_only_a_lease_that_ran_out_counts_as_lost_work(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        found = metrics.sweeper.labels("leases_run_out")
        before = found._value.get()
        batches.hand_back(world.database, world.acquire(*one), delay=0)
        world.let_time_pass(one[0], 1)
        assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(*one, "apns")]
        assert found._value.get() == before
        world.acquire(*one)
        world.let_leases_end(one[0])
        assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(*one, "apns")]
        assert found._value.get() == before + 1

    def test_a_batch_handed_back_comes_again_after_its_delay(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        lease = world.acquire(*one)
        assert batches.hand_back(world.database, lease, delay=30, error="no Redis")
        after = row(world, *one)
        assert (after.state, after.lease_token, after.error) == ("queued", None, "no Redis")
        assert sweeper.sweep(world.database, world.settings) == []
        world.let_time_pass(one[0], 31)
        assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(*one, "apns")]
        assert not world.acquire(*one).interrupted

    def test_what_is_handed_back_before_its_journal_was_read_stays_interrupted(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        world.acquire(*one)
        world.let_leases_end(one[0])
        second = world.acquire(*one)
        assert batches.hand_back(world.database, second, delay=0, interrupted=True)
        assert world.acquire(*one).interrupted

    @pytest.mark.parametrize("state", ["paused", "cancelled", "failed"])
    def test_nothing_of_a_send_that_is_not_running_is_taken_up(
        self, world: World, one: tuple[uuid.UUID, int], state: str
    ) -> None:
        world.change("UPDATE sends SET state = :state", state=state)
        assert try_to_acquire(world, *one) is None
        assert row(world, *one).state == "queued"

    def test_a_message_that_is_lost_after_others_came_is_missed_as_soon_as_the_first(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        for _ in range(5):
            batches.hand_back(world.database, world.acquire(*one), delay=0)
            world.let_time_pass(one[0], 1)
            assert sweeper.sweep(world.database, world.settings)
        for wait in (30, 60):
            world.let_time_pass(one[0], wait - 2)
            assert sweeper.sweep(world.database, world.settings) == []
            world.let_time_pass(one[0], 3)
            assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(*one, "apns")]

    def test_an_unknown_batch_and_an_unknown_send_are_nothing_to_do(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        assert try_to_acquire(world, one[0], 4711) is None
        assert try_to_acquire(world, uuid.uuid4(), one[1]) is None


class TestRetry:
    def test_not_before_its_time(self, world: World, one: tuple[uuid.UUID, int]) -> None:
        settled = settle(world, world.acquire(*one), Outcome.PENDING, retry_in=20)
        assert not settled.done
        assert row(world, *one).state == "retry"
        assert try_to_acquire(world, *one) is None
        world.let_time_pass(one[0], 18)
        assert try_to_acquire(world, *one) is None
        world.let_time_pass(one[0], 2)
        lease = world.acquire(*one)
        assert (lease.attempts, lease.runs, lease.interrupted) == (bytes([1]) * BATCH, 2, False)

    def test_the_sweeper_waits_for_the_message_of_a_short_retry_and_issues_a_long_one_itself(
        self, world: World
    ) -> None:
        world.add_devices("apns", 2 * BATCH)
        send_id = world.send(audience=explicit(2 * BATCH))
        short, long = world.queued(send_id)
        settle(world, world.acquire(send_id, short), Outcome.PENDING, retry_in=batches.MAX_COUNTDOWN_S)
        settle(world, world.acquire(send_id, long), Outcome.PENDING, retry_in=batches.MAX_COUNTDOWN_S + 1)
        world.let_time_pass(send_id, batches.MAX_COUNTDOWN_S + 2)
        assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(send_id, long, "apns")]
        world.let_time_pass(send_id, batches.RETRY_GRACE_S)
        assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(send_id, short, "apns")]

    def test_resuming_does_not_shorten_a_wait_that_the_provider_asked_for(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        settle(world, world.acquire(*one), Outcome.PENDING, retry_in=600)
        with world.database.begin() as connection:
            assert brake.pause(connection, one[0])
        with world.database.begin() as connection:
            assert brake.resume(connection, one[0])
        assert sweeper.sweep(world.database, world.settings) == []
        assert try_to_acquire(world, *one) is None
        world.let_time_pass(one[0], 601)
        assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(*one, "apns")]
        world.acquire(*one)

    def test_a_retry_that_came_due_while_paused_goes_on_at_once(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        settle(world, world.acquire(*one), Outcome.PENDING, retry_in=600)
        with world.database.begin() as connection:
            brake.pause(connection, one[0])
        world.let_time_pass(one[0], 700)
        assert sweeper.sweep(world.database, world.settings) == []
        with world.database.begin() as connection:
            brake.resume(connection, one[0])
        assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(*one, "apns")]


class TestSettlement:
    def test_counts_and_dead_letters_are_written_together(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        since = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        outcomes = [
            Outcome.ACCEPTED,
            Outcome.ACCEPTED,
            Outcome.TOKEN_DEAD,
            Outcome.REJECTED,
            Outcome.EXHAUSTED,
            Outcome.EXPIRED,
            Outcome.SUPPRESSED,
            Outcome.CANCELLED,
            Outcome.UNKNOWN,
            Outcome.PENDING,
        ]
        letters = [
            DeadLetter(2, Outcome.TOKEN_DEAD, 410, "Unregistered", since),
            DeadLetter(4, Outcome.EXHAUSTED, None, "no_answer_timeout", None),
        ]
        lease = world.acquire(*one)
        settled = batches.settle(
            world.database,
            lease,
            bytes(outcomes),
            attempts=bytes([1, 1, 1, 1, 3, 1, 0, 0, 1, 0]),
            window=WINDOW,
            retry_in=5,
            dead=letters,
            error="slow",
        )
        assert (settled.done, settled.dead_letters) == (False, True)
        assert world.totals(one[0]) == {
            "devices": 10,
            "accepted": 2,
            "dead": 1,
            "rejected": 1,
            "exhausted": 1,
            "expired": 1,
            "suppressed": 1,
            "cancelled": 1,
            "unknown": 1,
            "pending": 1,
        }
        assert row(world, *one).error == "slow"
        written = world.rows("SELECT * FROM dead_letters ORDER BY position")
        assert [
            (d.send_id, d.batch_no, d.position, d.user_id, d.device_id, d.app, d.platform, d.outcome)
            for d in written
        ] == [
            (*one, 2, lease.user_ids[2], lease.device_ids[2], "shop", "apns", "dead"),
            (*one, 4, lease.user_ids[4], lease.device_ids[4], "shop", "apns", "exhausted"),
        ]
        assert [(d.status, d.reason, d.attempt, d.invalid_since, d.processed_at) for d in written] == [
            (410, "Unregistered", 1, since, None),
            (None, "no_answer_timeout", 3, None, None),
        ]
        assert waiting_dead_letters(world.database, one[0]) == 2
        assert [(r["reason"], r["recipients"]) for r in reasons(world.database, one[0])] == [
            ("Unregistered", 1),
            ("no_answer_timeout", 1),
        ]
        # A second settlement replaces the counts, whatever the first one said.
        world.let_time_pass(one[0])
        settle(world, world.acquire(*one))
        assert world.totals(one[0]) == {"devices": 10, "accepted": 10}

    def test_dead_letters_that_cannot_be_written_leave_the_batch_as_it_was(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        lease = world.acquire(*one)
        before = row(world, *one)
        broken = DeadLetter(0, Outcome.REJECTED, 400, None, None)  # type: ignore[arg-type]
        with pytest.raises(Exception, match="null value"):
            settle(world, lease, dead=[broken])
        assert row(world, *one) == before
        assert world.value("SELECT count(*) FROM dead_letters") == 0

    @pytest.mark.parametrize(("outcome", "retry_in"), [(Outcome.PENDING, None), (Outcome.ACCEPTED, 5.0)])
    def test_pending_and_retry_must_agree(
        self, world: World, one: tuple[uuid.UUID, int], outcome: Outcome, retry_in: float | None
    ) -> None:
        lease = world.acquire(*one)
        with pytest.raises(ValueError, match="pending"):
            settle(world, lease, outcome, retry_in=retry_in)
        assert row(world, *one).state == "running"

    def test_the_last_settlement_ends_the_send(self, world: World) -> None:
        world.add_devices("apns", 2 * BATCH)
        send_id = world.send(audience=explicit(2 * BATCH))
        for batch_no in world.queued(send_id):
            assert not sends.finish_if_complete(world.database, send_id)
            assert not world.progress(send_id).finished
            settle(world, world.acquire(send_id, batch_no))
        assert sends.finish_if_complete(world.database, send_id)
        ended = world.progress(send_id)
        assert (ended.state, ended.finished, ended.total("accepted")) == ("done", True, 2 * BATCH)
        assert ended.finished_at is not None
        assert not sends.finish_if_complete(world.database, send_id)

    def test_a_send_is_not_done_while_it_is_planned(self, world: World) -> None:
        world.add_devices("apns", 1600)
        send_id = world.accept()
        world.plan(send_id)
        world.change("UPDATE sends SET planned_at = NULL, state = 'planning'")
        world.change("UPDATE send_batches SET state = 'done'")
        assert not sends.finish_if_complete(world.database, send_id)

    def test_of_the_last_two_settlements_at_once_one_ends_the_send(self, world: World) -> None:
        world.add_devices("apns", 2 * BATCH)
        for _ in range(5):
            send_id = world.send(audience=explicit(2 * BATCH))
            leases = [world.acquire(send_id, no) for no in world.queued(send_id)]

            def finish(lease: Lease, send_id: uuid.UUID = send_id) -> bool:
                settle(world, lease)
                return sends.finish_if_complete(world.database, send_id)

            found = in_threads(*[lambda lease=lease, finish=finish: finish(lease) for lease in leases])
            assert sorted(found, key=bool) == [False, True]
            assert world.progress(send_id).state == "done"


class TestStopping:
    def test_what_is_open_is_cancelled_and_what_is_in_flight_settles(self, world: World) -> None:
        world.add_devices("apns", 5 * BATCH)
        send_id = world.send(audience=explicit(5 * BATCH))
        done, retrying, running = world.queued(send_id)
        settle(world, world.acquire(send_id, done))
        settle(world, world.acquire(send_id, retrying), Outcome.PENDING, retry_in=30)
        lease = world.acquire(send_id, running)
        with world.database.begin() as connection:
            assert brake.stop(connection, send_id, state="cancelled", error=None)
        assert world.states(send_id) == {"done": 4, "running": 1}
        assert not world.progress(send_id).finished
        mixed = bytes([Outcome.ACCEPTED] * 4 + [Outcome.CLAIMED] * 2 + [Outcome.PENDING] * 4)
        settled = batches.settle(
            world.database, lease, mixed, attempts=lease.attempts, window=WINDOW, retry_in=5
        )
        assert (settled.done, settled.released) == (True, [])
        assert world.totals(send_id) == {"devices": 50, "accepted": 14, "cancelled": 36}
        ended = world.progress(send_id)
        assert (ended.state, ended.finished) == ("cancelled", True)
        with world.database.begin() as connection:
            assert not brake.stop(connection, send_id, state="failed", error="too late")
            assert not brake.pause(connection, send_id)
            assert not brake.resume(connection, send_id)
        assert world.progress(send_id).state == "cancelled"

    def test_a_settlement_at_the_same_time_leaves_nothing_open(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        """The settlement has seen the send running; before it writes its retry, the send is stopped."""
        lease = world.acquire(*one)
        with world.database.begin() as connection:
            # Hold the settlement where it is about to write.
            connection.execute(
                text("SELECT FROM send_batches WHERE send_id = :id FOR UPDATE"), {"id": one[0]}
            )
            found: list[object] = []

            def settle_for_retry() -> None:
                found.append(settle(world, lease, Outcome.PENDING, retry_in=5))

            def stop() -> None:
                with world.database.begin() as other:
                    found.append(brake.stop(other, one[0], state="cancelled", error=None))

            settling, stopping = threading.Thread(target=settle_for_retry), threading.Thread(target=stop)
            settling.start()
            await_lock_waiters(world, 1)
            stopping.start()
            # It ends at once, or waits for the settlement: both must come out right.
            stopping.join(0.5)
        settling.join(DEADLINE_S)
        stopping.join(DEADLINE_S)
        assert len(found) == 2
        assert world.states(one[0]) == {"done": 1}
        assert world.totals(one[0]) == {"devices": BATCH, "cancelled": BATCH}
        assert world.progress(one[0]).finished

    def test_a_settlement_holds_up_no_pause_and_no_rate(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        lease = world.acquire(*one)
        with world.database.begin() as connection:
            # Hold the settlement where it is about to write.
            connection.execute(
                text("SELECT FROM send_batches WHERE send_id = :id FOR UPDATE"), {"id": one[0]}
            )
            settling = threading.Thread(target=settle, args=(world, lease))
            settling.start()
            await_lock_waiters(world, 1)
            with world.database.begin() as other:
                other.execute(text("SET LOCAL lock_timeout = '2s'"))
                assert brake.set_rate(other, one[0], 100)
                assert brake.pause(other, one[0])
        settling.join(DEADLINE_S)
        assert world.states(one[0]) == {"done": 1}
        assert world.progress(one[0]).state == "paused"

    def test_a_stop_waits_for_those_who_settle_and_not_for_those_who_come_after_it(
        self, world: World
    ) -> None:
        world.add_devices("apns", 2 * BATCH)
        send_id = world.send(audience=explicit(2 * BATCH))
        first, second = (world.acquire(send_id, no) for no in world.queued(send_id))

        def stop() -> None:
            with world.database.begin() as other:
                brake.stop(other, send_id, state="cancelled", error=None)

        threads = [
            threading.Thread(target=settle, args=(world, first, Outcome.PENDING), kwargs={"retry_in": 5}),
            threading.Thread(target=stop),
            threading.Thread(target=settle, args=(world, second, Outcome.PENDING), kwargs={"retry_in": 5}),
        ]
        with world.database.begin() as connection:
            connection.execute(
                text("SELECT FROM send_batches WHERE send_id = :id AND batch_no = :no FOR UPDATE"),
                {"id": send_id, "no": first.batch_no},
            )
            for waiting, thread in enumerate(threads, start=1):
                thread.start()
                await_lock_waiters(world, waiting)
        for thread in threads:
            thread.join(DEADLINE_S)
        assert world.states(send_id) == {"done": 2}
        assert world.totals(send_id) == {"devices": 2 * BATCH, "cancelled": 2 * BATCH}

    @pytest.mark.parametrize("swept", [False, True])
    def test_a_worker_that_dies_with_a_stopped_send_leaves_its_recipients_unknown(
        self, world: World, one: tuple[uuid.UUID, int], swept: bool
    ) -> None:
        """They are not cancelled: the worker may have reached them."""
        settle(world, world.acquire(*one), Outcome.PENDING, retry_in=0)
        world.let_time_pass(one[0])
        world.acquire(*one)
        if swept:  # the lease ended before the stop, and the batch waits to be taken up again
            world.let_leases_end(one[0])
            sweeper.sweep(world.database, world.settings)
        with world.database.begin() as connection:
            brake.stop(connection, one[0], state="cancelled", error=None)
        sweeper.sweep(world.database, world.settings)
        if not swept:
            assert world.states(one[0]) == {"running": 1}
        world.let_leases_end(one[0])
        assert sweeper.sweep(world.database, world.settings) == []
        assert world.totals(one[0]) == {"devices": BATCH, "unknown": BATCH}
        assert world.progress(one[0]).finished

    def test_a_batch_handed_back_after_the_stop_is_cancelled(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        lease = world.acquire(*one)
        with world.database.begin() as connection:
            brake.stop(connection, one[0], state="failed", error="the message is refused")
        batches.hand_back(world.database, lease, delay=5)
        world.let_time_pass(one[0], 6)
        assert sweeper.sweep(world.database, world.settings) == []
        assert world.totals(one[0]) == {"devices": BATCH, "cancelled": BATCH}
        assert world.progress(one[0]).finished


class TestWindow:
    def in_flight(self, world: World, send_id: uuid.UUID) -> int:
        states = world.states(send_id)
        return states.get("queued", 0) + states.get("running", 0)

    def test_each_finished_batch_releases_the_next(self, world: World) -> None:
        world.add_devices("apns", 10 * BATCH)
        world.add_devices("fcm", 4 * BATCH, first=1)
        send_id = world.send(audience=explicit(10 * BATCH))
        platforms = world.rows(
            "SELECT platform, count(*) FILTER (WHERE state = 'queued'), count(*) FROM send_batches GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(p) for p in platforms] == [("apns", WINDOW, 10), ("fcm", WINDOW, 4)]
        world.change("DELETE FROM send_batches WHERE platform = 'fcm'")
        order = world.queued(send_id)
        taken = []
        while order:
            batch_no = order.pop(0)
            taken.append(batch_no)
            order += settle(world, world.acquire(send_id, batch_no)).released
            assert self.in_flight(world, send_id) <= WINDOW
            assert world.queued(send_id) == order
        assert len(taken) == len(set(taken)) == 10
        assert taken == sorted(taken)
        assert world.totals(send_id) == {"devices": 100, "accepted": 100}

    def test_retries_do_not_widen_the_window(self, world: World) -> None:
        """A batch that is tried again has given its place away: when it ends, it must not give away a second one."""
        world.add_devices("apns", 60 * BATCH)
        send_id = world.send(audience=explicit(60 * BATCH))
        for batch_no in world.queued(send_id) * 4:
            lease = try_to_acquire(world, send_id, batch_no)
            if lease is not None:
                settle(world, lease, Outcome.PENDING, retry_in=0.001)
        world.let_time_pass(send_id)
        retried = [r.batch_no for r in world.rows("SELECT batch_no FROM send_batches WHERE state = 'retry'")]
        assert retried
        for batch_no in retried:
            settle(world, world.acquire(send_id, batch_no))
        assert self.in_flight(world, send_id) == WINDOW

    def test_an_outage_does_not_pull_the_whole_audience_into_retries(self, world: World) -> None:
        world.add_devices("apns", 60 * BATCH)
        send_id = world.send(audience=explicit(60 * BATCH))
        for _ in range(60):
            for batch_no in world.queued(send_id):
                settle(world, world.acquire(send_id, batch_no), Outcome.PENDING, retry_in=600)
        sweeper.sweep(world.database, world.settings)
        states = world.states(send_id)
        assert states == {
            "retry": release.OPEN_WINDOWS * WINDOW,
            "planned": 60 - release.OPEN_WINDOWS * WINDOW,
        }
        # When the outage is over, the window fills again as the retries end.
        world.let_time_pass(send_id)
        for _ in range(60):
            for order in sweeper.sweep(world.database, world.settings):
                assert isinstance(order, DeliverBatch)
                settle(world, world.acquire(send_id, order.batch_no))
            for batch_no in world.queued(send_id):
                settle(world, world.acquire(send_id, batch_no))
        assert world.totals(send_id) == {"devices": 600, "accepted": 600}

    def test_two_settlements_at_once_release_two_batches(self, world: World) -> None:
        world.add_devices("apns", 20 * BATCH)
        send_id = world.send(audience=explicit(20 * BATCH))
        while queued := world.queued(send_id):
            leases = [world.acquire(send_id, no) for no in queued]
            found = in_threads(*[lambda lease=lease: settle(world, lease) for lease in leases])
            released = [no for s in found if isinstance(s, batches.Settled) for no in s.released]
            assert sorted(released) == world.queued(send_id)
            assert len(released) <= WINDOW
        assert world.totals(send_id) == {"devices": 200, "accepted": 200}

    def test_two_planners_at_once_do_not_fill_the_same_room(self, world: World) -> None:
        world.add_devices("apns", 20 * BATCH)
        send_id = world.send(audience=explicit(20 * BATCH))
        world.change("UPDATE send_batches SET state = 'planned', publishes = 0")

        def top_up() -> list[int]:
            with world.database.begin() as connection:
                return release.top_up(connection, send_id, "apns", WINDOW)

        found = in_threads(*[top_up] * 5)
        assert sorted(len(released) for released in found if isinstance(released, list)) == [
            0,
            0,
            0,
            0,
            WINDOW,
        ]
        assert self.in_flight(world, send_id) == WINDOW

    def test_a_paused_send_releases_nothing_and_a_resumed_one_fills_its_window(self, world: World) -> None:
        world.add_devices("apns", 10 * BATCH)
        send_id = world.send(audience=explicit(10 * BATCH))
        leases = [world.acquire(send_id, no) for no in world.queued(send_id)]
        with world.database.begin() as connection:
            assert brake.pause(connection, send_id, "the key is wrong")
        assert world.progress(send_id).error == "the key is wrong"
        assert [settle(world, lease).released for lease in leases] == [[], [], []]
        assert sweeper.sweep(world.database, world.settings) == []
        with world.database.begin() as connection:
            assert brake.resume(connection, send_id)
        assert world.progress(send_id).error is None
        assert len(sweeper.sweep(world.database, world.settings)) == WINDOW
        assert self.in_flight(world, send_id) == WINDOW

    def test_the_sweeper_makes_up_for_lost_releases(self, world: World) -> None:
        world.add_devices("apns", 10 * BATCH)
        send_id = world.send(audience=explicit(10 * BATCH))
        world.change("UPDATE send_batches SET state = 'planned' WHERE state = 'queued' AND batch_no > 30")
        lost = WINDOW - self.in_flight(world, send_id)
        assert lost > 0
        orders = sweeper.sweep(world.database, world.settings)
        assert len(orders) == lost
        assert self.in_flight(world, send_id) == WINDOW
        assert sweeper.sweep(world.database, world.settings) == []

    def test_a_step_of_the_sweep_that_fails_keeps_nothing_from_being_published(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a step found counts as published once it is committed; the steps after the failing one have their turn."""
        world.add_devices("apns", 10 * BATCH)
        send_id = world.send(audience=explicit(10 * BATCH))
        queued = world.queued(send_id)
        world.let_time_pass(send_id)
        world.change("UPDATE send_batches SET state = 'planned' WHERE batch_no = :no", no=queued[2])

        def fail(*_: object) -> int:
            raise ZeroDivisionError

        monkeypatch.setattr("pushq.ledger.due.end_abandoned", fail)
        published: list[Order] = []
        with pytest.raises(ZeroDivisionError):
            sweeper.sweep(world.database, world.settings, published.extend)
        assert sorted(order.batch_no for order in published if isinstance(order, DeliverBatch)) == queued

    def test_what_was_found_before_postgresql_went_away_is_published(
        self, world: World, one: tuple[uuid.UUID, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(*_: object) -> int:
            raise ServiceUnavailable("PostgreSQL", "PUSHQ_DATABASE_URL", "gone")

        monkeypatch.setattr("pushq.ledger.due.end_abandoned", gone)
        world.let_time_pass(one[0])
        published: list[Order] = []
        with pytest.raises(ServiceUnavailable):
            sweeper.sweep(world.database, world.settings, published.extend)
        assert published == [DeliverBatch(*one, "apns")]

    def test_workers_planners_sweepers_and_an_operator_at_once(self, world: World) -> None:
        """Nobody waits for anybody in a circle, the window holds at every moment, and every recipient ends once."""
        world.add_devices("apns", 600)
        world.add_devices("fcm", 400)
        send_id = world.accept()
        over = threading.Event()
        widest = [0]

        def work() -> None:
            while not over.is_set():
                for batch_no in world.queued(send_id) + [
                    r.batch_no for r in world.rows(_RETRIES, id=send_id)
                ]:
                    lease = try_to_acquire(world, send_id, batch_no)
                    if lease is None:
                        continue
                    again = batch_no % 3 == 0 and not any(lease.attempts)
                    if again:
                        settle(world, lease, Outcome.PENDING, retry_in=0.001)
                    elif settle(world, lease).done and sends.finish_if_complete(world.database, send_id):
                        return
                time.sleep(0.005)

        def plan() -> None:
            world.plan(send_id)
            world.plan(send_id)

        def sweep() -> None:
            while not over.is_set():
                sweeper.sweep(world.database, world.settings)
                time.sleep(0.01)

        def operate() -> None:
            while not over.is_set():
                for change in (brake.pause, brake.resume):
                    with world.database.begin() as connection:
                        change(connection, send_id)
                time.sleep(0.05)
                world.change("UPDATE send_shards SET updated_at = now() WHERE send_id = :id", id=send_id)
                plan()

        def watch() -> None:
            deadline = time.monotonic() + 60
            while not world.progress(send_id).finished and time.monotonic() < deadline:
                for row in world.rows(_RELEASED, id=send_id):
                    widest[0] = max(widest[0], row.queued)
            over.set()

        found = in_threads(work, work, work, plan, sweep, operate, watch, wait_s=90)
        assert found == [None] * 7
        assert world.totals(send_id) == {"devices": 1000, "accepted": 1000}
        assert world.progress(send_id).state == "done"
        assert 0 < widest[0] <= WINDOW


_RETRIES = "SELECT batch_no FROM send_batches WHERE send_id = :id AND state = 'retry'"
_RELEASED = """
SELECT platform, count(*) AS queued FROM send_batches WHERE send_id = :id AND state = 'queued' GROUP BY platform
"""


class TestSweeper:
    def test_what_nobody_took_up_is_issued_again_ever_more_rarely(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        waits = []
        for _ in range(8):
            assert sweeper.sweep(world.database, world.settings) == []
            waits.append(
                world.value("SELECT round(extract(epoch FROM due_at - now()) / 30) FROM send_batches")
            )
            world.change("UPDATE send_batches SET due_at = now() - interval '1 s'")
            assert sweeper.sweep(world.database, world.settings) == [DeliverBatch(*one, "apns")]
        assert [int(wait) for wait in waits] == [1, 2, 4, 8, 16, 32, 32, 32]

    def test_two_sweepers_at_once_share_the_work(self, world: World) -> None:
        with open_world(str(world.database.url.reveal()), world.settings.apps["shop"], batch_size=1) as wide:
            wide.add_devices("apns", 200)
            send_id = wide.send(audience=explicit(200))
            wide.change("UPDATE send_batches SET due_at = now() - interval '1 s' WHERE state = 'queued'")
            due = wide.queued(send_id)
            found = in_threads(*[lambda: sweeper.sweep(wide.database, wide.settings)] * 3)
            issued = [o.batch_no for orders in found if isinstance(orders, list) for o in orders]
            assert sorted(issued) == due

    def test_the_orders_of_one_round_are_bounded(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sweeper, "LIMIT", 2)
        world.add_devices("apns", 3 * BATCH)
        send_id = world.send(audience=explicit(3 * BATCH))
        world.change("UPDATE send_batches SET due_at = now() - interval '1 s'")
        rounds = [sweeper.sweep(world.database, world.settings) for _ in range(3)]
        assert [len(orders) for orders in rounds] == [2, 1, 0]
        assert {o.batch_no for orders in rounds for o in orders if isinstance(o, DeliverBatch)} == set(
            world.queued(send_id)
        )

    def test_a_send_whose_last_worker_died_before_it_could_say_so_is_done(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        settle(world, world.acquire(*one))
        assert world.progress(one[0]).state == "sending"
        sweeper.sweep(world.database, world.settings)
        assert world.progress(one[0]).state == "done"

    def test_a_send_that_was_paused_at_its_last_settlement_is_done_once_it_is_resumed(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        lease = world.acquire(*one)
        with world.database.begin() as connection:
            brake.pause(connection, one[0])
        settle(world, lease)
        assert not sends.finish_if_complete(world.database, one[0])
        sweeper.sweep(world.database, world.settings)
        assert world.progress(one[0]).state == "paused"
        with world.database.begin() as connection:
            brake.resume(connection, one[0])
        sweeper.sweep(world.database, world.settings)
        assert world.progress(one[0]).state == "done"

    def test_dead_letters_that_nobody_looked_at_are_ordered_again(
        self, world: World, one: tuple[uuid.UUID, int]
    ) -> None:
        letters = [DeadLetter(n, Outcome.REJECTED, 400, "BadMessageId", None) for n in range(3)]
        settle(world, world.acquire(*one), dead=letters)
        assert sweeper.sweep(world.database, world.settings) == []
        for waited in (31, sweeper.DEAD_LETTER_AGAIN_S + 1):
            world.change(f"UPDATE dead_letters SET due_at = due_at - interval '{waited} s'")
            assert sweeper.sweep(world.database, world.settings) == [ProcessDeadLetters(*one)]
            # Once, not at every sweep: a dead-letter worker that is away for long finds no flood.
            assert sweeper.sweep(world.database, world.settings) == []
        world.change("UPDATE dead_letters SET processed_at = now()")
        assert sweeper.sweep(world.database, world.settings) == []


def test_progress_is_a_sum_over_batches_by_platform(world: World) -> None:
    world.add_devices("apns", 3 * BATCH)
    world.add_devices("fcm", 2 * BATCH, first=1)
    send_id = world.send(audience=explicit(3 * BATCH))
    apns = world.rows("SELECT batch_no FROM send_batches WHERE platform = 'apns' ORDER BY 1 LIMIT 2")
    settle(world, world.acquire(send_id, apns[0].batch_no))
    settle(world, world.acquire(send_id, apns[1].batch_no), Outcome.TOKEN_DEAD)
    found = world.progress(send_id)
    rest = dict.fromkeys(("rejected", "exhausted", "expired", "suppressed", "cancelled", "unknown"), 0)
    assert found.platforms == {
        "apns": {"devices": 30, "batches": 3, "accepted": 10, "dead": 10, "pending": 10, **rest},
        "fcm": {"devices": 20, "batches": 2, "accepted": 0, "dead": 0, "pending": 20, **rest},
    }
    assert (found.total("devices"), found.total("pending"), found.finished) == (50, 30, False)
    assert found.seconds >= 0
    with pytest.raises(sends.UnknownSend, match="No send has the id"):
        world.progress(uuid.uuid4())
    assert [(send["id"], send["title"]) for send in recent(world.database)] == [(send_id, "Sale")]
