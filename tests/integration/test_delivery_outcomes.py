"""Delivery to mock providers over real TLS and HTTP/2: what each answer does to a batch, a send and a token."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pushq.app_settings import load_apps
from pushq.embedded.postgres import PostgresServer
from pushq.ledger import brake, sweeper
from pushq.ledger.orders import ProcessDeadLetters
from pushq.ledger.replay import choose, replay
from pushq.mock import MockProcess
from pushq.notification import parsing
from pushq.providers.apns import request as apns_request
from pushq.tokens.invalidation import invalidate_from_dead_letters
from tests.integration.ledger_world import (
    APP,
    DEAD_PREFIX,
    Worker,
    World,
    open_worker,
    open_world,
    token,
)

BATCH = 30
SERVER_ERROR = {"status": 503, "reason": "ServiceUnavailable"}


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"batch_size": BATCH, "plan_page": 100, "request_timeout": 1.0, "retry_max_attempts": 3}


def users(count: int, first: int = 1) -> dict[str, Any]:
    return {"user_ids": list(range(first, first + count))}


def accepted_once(mock: MockProcess, platform: str, user_ids: range) -> bool:
    return mock.accepted(platform) == {token(platform, user): 1 for user in user_ids}


def dead_letters(world: World) -> set[tuple[str, str, int | None, int]]:
    """(outcome, reason, status, attempt) of those there are."""
    return {
        tuple(letter) for letter in world.rows("SELECT outcome, reason, status, attempt FROM dead_letters")
    }


class TestAccepted:
    @pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
    def test_everybody_once_and_the_send_is_done(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any
    ) -> None:
        world.add_devices("apns", 70)
        world.add_devices("fcm", 50, first=51)
        send_id = world.accept(guarantee=guarantee)
        left = worker.run_orders(world.plan(send_id))
        assert left == []
        assert world.totals(send_id) == {"devices": 120, "accepted": 120}
        assert world.progress(send_id).state == "done"
        assert accepted_once(mock, "apns", range(1, 71))
        assert accepted_once(mock, "fcm", range(51, 101))
        assert worker.redis.keys("pushq:journal:*") == []

    def test_a_batch_that_is_done_is_not_sent_again(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("apns", 20)
        send_id = world.send(audience=users(20))
        (batch_no,) = world.queued(send_id)
        first, second = worker.run(send_id, batch_no), worker.run(send_id, batch_no)
        assert (first.retry_in, second.retry_in, second.orders) == (None, None, [])
        assert accepted_once(mock, "apns", range(1, 21))

    def test_what_the_phones_get(self, world: World, worker: Worker, mock: MockProcess) -> None:
        world.add_devices("apns", 1)
        world.add_devices("fcm", 1)
        called_at = datetime.now(UTC)
        send_id = world.send(
            audience=users(1),
            called_at=called_at,
            notification={"title": "Hi", "body": "there", "data": {"k": "v"}, "ttl": 600},
        )
        worker.run_queued(send_id)
        (apple,), (google,) = mock.requests("apns"), mock.requests("fcm")
        headers = dict(apple["headers"])
        device = world.value("SELECT id FROM device_tokens WHERE platform = 'apns'")
        assert headers["apns-id"] == apns_request.apns_id(send_id, device).decode()
        assert (
            headers["apns-collapse-id"] == send_id.hex
        )  # at_least_once: a repetition replaces its first copy
        assert headers["apns-expiration"] == str(int((called_at + timedelta(seconds=600)).timestamp()))
        assert apple["path"] == f"/3/device/{token('apns', 1)}"
        assert '"alert":{"title":"Hi","body":"there"}' in apple["body"]
        assert f'"token":"{token("fcm", 1)}"' in google["body"]
        assert '"ttl":"600s"' in google["body"]

    def test_an_at_most_once_send_brings_no_collapse_id_of_its_own(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("apns", 1)
        worker.run_queued(world.send(audience=users(1), guarantee="at_most_once"))
        (request,) = mock.requests("apns")
        assert "apns-collapse-id" not in dict(request["headers"])


class TestDeadTokens:
    def test_they_are_buried_and_the_others_accepted(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("apns", 20)
        world.add_devices("apns", 3, first=21, prefix=DEAD_PREFIX)
        world.add_devices("fcm", 4, first=24)
        world.add_devices("fcm", 2, first=28, prefix=DEAD_PREFIX)
        send_id = world.accept(audience=users(29), guarantee="at_most_once")
        before = datetime.now(UTC)
        left = worker.run_orders(world.plan(send_id))
        assert world.totals(send_id) == {"devices": 29, "accepted": 24, "dead": 5}
        assert dead_letters(world) == {("dead", "Unregistered", 410, 1), ("dead", "UNREGISTERED", 404, 1)}
        since = [row.invalid_since for row in world.rows("SELECT invalid_since FROM dead_letters")]
        assert all(before - timedelta(seconds=10) < at < datetime.now(UTC) for at in since)
        assert {type(order) for order in left} == {ProcessDeadLetters}
        for order in left:
            assert isinstance(order, ProcessDeadLetters)
            invalidate_from_dead_letters(world.database, order.send_id, order.batch_no)
        dead = world.rows(
            "SELECT user_id, deactivation_reason FROM device_tokens WHERE NOT is_active ORDER BY 1"
        )
        assert [tuple(row) for row in dead] == [
            *((user, "Unregistered") for user in (21, 22, 23)),
            *((user, "UNREGISTERED") for user in (28, 29)),
        ]

    def test_the_time_of_a_410_is_apples(self, world: World, worker: Worker, mock: MockProcess) -> None:
        """Called dead as of an hour ago; the phone has registered again since, so its token stays."""
        world.add_devices("apns", 2)
        world.change("UPDATE device_tokens SET registered_at = now() - interval '2 h' WHERE user_id = 2")
        mock.set_faults(
            [
                {
                    "platform": "apns",
                    "answer": {"status": 410, "reason": "Unregistered", "timestamp_offset_s": -3600},
                }
            ]
        )
        send_id = world.send(audience=users(2))
        (batch_no,) = world.queued(send_id)
        worker.run(send_id, batch_no)
        report = invalidate_from_dead_letters(world.database, send_id, batch_no)
        assert (report.invalidated, report.kept) == (1, 1)
        assert world.value("SELECT user_id FROM device_tokens WHERE is_active") == 1

    def test_a_device_that_is_gone_since_planning_is_suppressed(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("apns", 10)
        send_id = world.send(audience=users(10))
        world.change(
            "UPDATE device_tokens SET is_active = false, deactivated_at = now() WHERE user_id IN (1, 5, 6)"
        )
        worker.run_queued(send_id)
        assert world.totals(send_id) == {"devices": 10, "accepted": 7, "suppressed": 3}
        assert set(mock.accepted("apns")) == {token("apns", user) for user in (2, 3, 4, 7, 8, 9, 10)}
        assert dead_letters(world) == set()

    def test_many_that_our_own_set_up_can_have_caused_invalidate_nothing(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("apns", BATCH)
        mock.set_faults([{"platform": "apns", "answer": {"status": 400, "reason": "BadDeviceToken"}}])
        send_id = world.send(audience=users(BATCH))
        (batch_no,) = world.queued(send_id)
        worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
        assert "none was invalidated" in world.value("SELECT error FROM send_batches")
        assert world.progress(send_id).state == "paused"
        invalidate_from_dead_letters(world.database, send_id, batch_no)
        assert world.value("SELECT count(*) FROM device_tokens WHERE is_active") == BATCH

    def test_a_few_of_them_are_dead_tokens(self, world: World, worker: Worker, mock: MockProcess) -> None:
        world.add_devices("apns", BATCH)
        answer = {"status": 400, "reason": "BadDeviceToken"}
        mock.set_faults([{"platform": "apns", "token": token("apns", n), "answer": answer} for n in (3, 4)])
        send_id = world.send(audience=users(BATCH))
        (batch_no,) = world.queued(send_id)
        worker.run(send_id, batch_no)
        report = invalidate_from_dead_letters(world.database, send_id, batch_no)
        assert report.invalidated == 2
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH - 2, "dead": 2}

    def test_a_410_for_everybody_is_believed(self, world: World, worker: Worker, mock: MockProcess) -> None:
        world.add_devices("apns", BATCH, prefix=DEAD_PREFIX)
        send_id = world.send(audience=users(BATCH))
        (batch_no,) = world.queued(send_id)
        worker.run(send_id, batch_no)
        assert invalidate_from_dead_letters(world.database, send_id, batch_no).invalidated == BATCH


class TestRefusedMessage:
    @pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
    @pytest.mark.parametrize(
        ("platform", "answer", "error"),
        [
            (
                "apns",
                {"status": 413, "reason": "PayloadTooLarge"},
                "apns refuses the message (413 PayloadTooLarge: PayloadTooLarge)",
            ),
            ("fcm", {"shape": "c"}, "fcm refuses the message (400 INVALID_ARGUMENT: Invalid value at"),
        ],
    )
    def test_it_ends_the_send_with_one_reason(
        self,
        world: World,
        worker: Worker,
        mock: MockProcess,
        platform: str,
        answer: dict[str, Any],
        error: str,
        guarantee: Any,
    ) -> None:
        world.add_devices(platform, 3 * BATCH)
        mock.set_faults([{"platform": platform, "answer": answer}])
        send_id = world.send(audience=users(3 * BATCH), guarantee=guarantee)
        worker.run_queued(send_id)
        ended = world.progress(send_id)
        assert (ended.state, ended.finished) == ("failed", True)
        assert ended.error is not None
        assert ended.error.startswith(error)
        totals = world.totals(send_id)
        assert set(totals) == {"devices", "rejected", "cancelled"}
        assert totals["rejected"] + totals["cancelled"] == 3 * BATCH
        assert totals["rejected"] <= BATCH
        assert mock.accepted(platform) == {}
        assert mock.stats()["platforms"][platform]["requests"] <= BATCH

    @pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
    def test_so_does_one_of_which_no_request_can_be_made(
        self,
        world: World,
        worker: Worker,
        mock: MockProcess,
        guarantee: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The call checks what becomes a header; what it lets through must not look like a worker that was killed."""
        monkeypatch.setitem(parsing._PARSE, "collapse_id", lambda value, name: value)
        world.add_devices("apns", 2 * BATCH)
        message = {"title": "x", "collapse_id": "a\nb"}
        send_id = world.send(audience=users(2 * BATCH), guarantee=guarantee, notification=message)
        worker.run_queued(send_id)
        ended = world.progress(send_id)
        assert (ended.state, ended.finished) == ("failed", True)
        assert ended.error is not None
        assert ended.error.startswith("apns: no request can be made of the message (template.headers")
        assert world.totals(send_id) == {"devices": 2 * BATCH, "cancelled": 2 * BATCH}
        assert mock.stats()["platforms"]["apns"]["requests"] == 0


class TestRetry:
    @pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
    def test_bad_then_good(self, world: World, worker: Worker, mock: MockProcess, guarantee: Any) -> None:
        """An answer that invites a repetition proves that nothing was delivered, so at_most_once repeats it too."""
        world.add_devices("apns", BATCH)
        mock.set_faults(
            [
                {"platform": "apns", "token": token("apns", n), "times": 1, "answer": SERVER_ERROR}
                for n in (2, 9)
            ]
        )
        send_id = world.send(audience=users(BATCH), guarantee=guarantee)
        (batch_no,) = world.queued(send_id)
        step = worker.run(send_id, batch_no)
        assert step.retry_in == 1.0  # APNs' 500s: at least a second, and half of one is what the jitter says
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH - 2, "pending": 2}
        world.let_time_pass(send_id, 5)
        worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert world.value("SELECT attempt FROM send_batches") == 2
        assert accepted_once(mock, "apns", range(1, BATCH + 1))
        ids = [
            dict(request["headers"])["apns-id"]
            for request in mock.requests("apns")
            if request["path"].endswith(token("apns", 9))
        ]
        assert len(ids) == 2
        assert ids[0] == ids[1]

    @pytest.mark.parametrize(("own", "expected"), [(None, None), ("order-7", "order-7")])
    def test_a_repetition_replaces_its_first_copy_on_the_phone(
        self, world: World, worker: Worker, mock: MockProcess, own: str | None, expected: str | None
    ) -> None:
        """Both copies of a message whose answer was lost carry the same ids: the caller's, or the send's own."""
        for platform in ("apns", "fcm"):
            world.add_devices(platform, 1)
        mock.set_faults(
            [
                {"platform": platform, "times": 1, "rst": "CANCEL", "processed": True}
                for platform in ("apns", "fcm")
            ]
        )
        notification = {"title": "Your order"} | ({"collapse_id": own} if own else {})
        send_id = world.send(audience=users(1), guarantee="at_least_once", notification=notification)
        worker.run_queued(send_id)
        world.let_time_pass(send_id, 60)
        for row in world.rows("SELECT batch_no FROM send_batches"):
            worker.run(send_id, row.batch_no)
        assert world.totals(send_id) == {"devices": 2, "accepted": 2}
        name = expected or send_id.hex
        apple = [dict(request["headers"]) for request in mock.requests("apns")]
        assert len(apple) == 2
        assert {headers["apns-collapse-id"] for headers in apple} == {name}
        assert len({headers["apns-id"] for headers in apple}) == 1
        google = [request["body"] for request in mock.requests("fcm")]
        assert len(google) == 2
        assert google[0] == google[1]
        assert f'"collapse_key":"{name}"' in google[0]
        assert f'"tag":"{name}"' in google[0]

    def test_the_waits_double_and_then_the_recipient_is_exhausted(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("apns", 10)
        mock.set_faults([{"platform": "apns", "token": token("apns", 4), "answer": SERVER_ERROR}])
        send_id = world.send(audience=users(10))
        (batch_no,) = world.queued(send_id)
        waits = []
        for _ in range(3):
            waits.append(worker.run(send_id, batch_no).retry_in)
            world.let_time_pass(send_id, 60)
        assert waits == [1.0, 1.0, None]  # jitter 0.5 of 1 s and of 2 s, not below APNs' second
        assert world.totals(send_id) == {"devices": 10, "accepted": 9, "exhausted": 1}
        assert dead_letters(world) == {("exhausted", "ServiceUnavailable", 503, 3)}
        assert world.progress(send_id).state == "done"
        invalidate_from_dead_letters(world.database, send_id, batch_no)
        assert world.value("SELECT count(*) FROM device_tokens WHERE is_active") == 10
        assert mock.stats()["platforms"]["apns"]["answers"] == {"200": 9, "503 ServiceUnavailable": 3}

    @pytest.mark.parametrize(
        ("platform", "answer", "floor"),
        [
            ("apns", {"status": 429, "reason": "TooManyRequests"}, 30.0),
            ("apns", {"status": 503, "reason": "ServiceUnavailable", "retry_after": 120}, 120.0),
            ("fcm", {"status": 429, "reason": "QUOTA_EXCEEDED"}, 60.0),
            ("fcm", {"status": 429, "reason": "QUOTA_EXCEEDED", "retry_after": 90}, 90.0),
            ("fcm", {"status": 503, "reason": "UNAVAILABLE"}, 10.0),
            ("fcm", {"shape": "k"}, 10.0),
        ],
    )
    def test_the_provider_says_how_long_to_wait(
        self,
        world: World,
        worker: Worker,
        mock: MockProcess,
        platform: str,
        answer: dict[str, Any],
        floor: float,
    ) -> None:
        world.add_devices(platform, 5)
        one = token(platform, 2)
        mock.set_faults([{"platform": platform, "token": one, "times": 1, "answer": answer}])
        send_id = world.send(audience=users(5))
        (batch_no,) = world.queued(send_id)
        assert worker.run(send_id, batch_no).retry_in == floor
        world.let_time_pass(send_id, floor - 5)
        worker.run(send_id, batch_no)
        assert world.totals(send_id)["pending"] == 1
        world.let_time_pass(send_id, 5)
        worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": 5, "accepted": 5}

    def test_a_wait_beyond_the_message_s_life_ends_it(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("apns", 3)
        answer = {"status": 429, "reason": "TooManyRequests", "retry_after": 300}
        mock.set_faults([{"platform": "apns", "token": token("apns", 2), "answer": answer}])
        send_id = world.send(audience=users(3), notification={"title": "now", "ttl": 200})
        worker.run_queued(send_id)
        assert world.totals(send_id) == {"devices": 3, "accepted": 2, "expired": 1}
        assert dead_letters(world) == {("expired", "TooManyRequests", 429, 1)}

    def test_a_message_whose_time_is_over_is_not_sent(
        self, world: World, redis_url: str, mock: MockProcess
    ) -> None:
        world.add_devices("apns", 3)
        send_id = world.send(audience=users(3), notification={"title": "now", "ttl": 200})
        with open_worker(world, redis_url, clock_ahead=timedelta(seconds=201)) as late:
            late.run_queued(send_id)
        assert world.totals(send_id) == {"devices": 3, "expired": 3}
        assert mock.stats()["platforms"]["apns"]["requests"] == 0
        assert world.progress(send_id).state == "done"

    @pytest.mark.parametrize("attempts", [0, 1])
    def test_without_retries_the_first_failure_is_the_last(
        self, postgres: PostgresServer, ledger_url: str, redis_url: str, mock: MockProcess, attempts: int
    ) -> None:
        app = load_apps(mock.config_file)[APP]
        with (
            open_world(ledger_url, app, batch_size=BATCH, retry_max_attempts=attempts) as world,
            open_worker(world, redis_url) as worker,
        ):
            world.empty()
            world.add_devices("apns", 3)
            mock.set_faults([{"platform": "apns", "token": token("apns", 1), "answer": SERVER_ERROR}])
            send_id = world.send(audience=users(3))
            worker.run_queued(send_id)
            assert world.totals(send_id) == {"devices": 3, "accepted": 2, "exhausted": 1}


class TestStoppedInBetween:
    def test_a_cancelled_send_is_not_delivered(self, world: World, worker: Worker, mock: MockProcess) -> None:
        world.add_devices("apns", 2 * BATCH)
        send_id = world.send(audience=users(2 * BATCH))
        first, second = world.queued(send_id)
        worker.run(send_id, first)
        with world.database.begin() as connection:
            brake.stop(connection, send_id, state="cancelled", error=None)
        assert worker.run(send_id, second).orders == []
        assert world.totals(send_id) == {"devices": 2 * BATCH, "accepted": BATCH, "cancelled": BATCH}
        assert accepted_once(mock, "apns", range(1, BATCH + 1))

    def test_a_paused_send_goes_on_after_it_is_resumed(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("apns", 10)
        send_id = world.send(audience=users(10))
        (batch_no,) = world.queued(send_id)
        with world.database.begin() as connection:
            brake.pause(connection, send_id)
        worker.run(send_id, batch_no)
        assert mock.accepted("apns") == {}
        with world.database.begin() as connection:
            brake.resume(connection, send_id)
        worker.run_orders(sweeper.sweep(world.database, world.settings))
        assert world.totals(send_id) == {"devices": 10, "accepted": 10}

    def test_a_batch_of_an_unknown_send_is_nothing_to_do(self, worker: Worker) -> None:
        assert worker.run(uuid.uuid4(), 0).orders == []


def test_a_platform_that_this_worker_is_not_set_up_for_holds_the_send(
    world: World, redis_url: str, tmp_path: Path
) -> None:
    world.add_devices("apns", 5)
    send_id = world.send(audience=users(5))
    (batch_no,) = world.queued(send_id)
    with open_worker(
        world, redis_url, app=world.settings.apps[APP].model_copy(update={"apns": None})
    ) as bare:
        bare.run(send_id, batch_no)
    held = world.progress(send_id)
    assert (held.state, held.error) == (
        "paused",
        "app 'shop' has no apns table in the configuration of this worker",
    )
    assert world.totals(send_id) == {"devices": 5, "pending": 5}


def test_a_replay_expires_by_its_own_time(world: World, worker: Worker, mock: MockProcess) -> None:
    """In the same worker, which has rendered the send before: with the old expiry phones that are offline would get nothing."""
    world.add_devices("apns", 2)
    mock.set_faults([{"platform": "apns", "answer": {"status": 413, "reason": "PayloadTooLarge"}}])
    send_id = world.send(audience=users(2), notification={"title": "x", "ttl": 600})
    world.change("UPDATE sends SET expires_at = expires_at - interval '300 s'")
    worker.run_queued(send_id)
    mock.set_faults([])
    before = {dict(request["headers"])["apns-expiration"] for request in mock.requests("apns")}
    mock.reset()
    replay(world.database, send_id, choose(["rejected", "cancelled"]))
    worker.run_orders(sweeper.sweep(world.database, world.settings))
    assert world.totals(send_id) == {"devices": 2, "accepted": 2}
    after = {dict(request["headers"])["apns-expiration"] for request in mock.requests("apns")}
    assert len(before) == len(after) == 1
    assert int(after.pop()) - int(before.pop()) >= 299
