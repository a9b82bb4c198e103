"""Batches delivered to HMS: each row of its table through the mock to the ledger, and the guarantees where answers are lost.

What the mock accepted is what phones got: at_most_once never twice, at_least_once never not at all.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from pushq.app_settings import AppSettings
from pushq.delivery.gate import Grant, OpenGate
from pushq.ledger import brake, sweeper
from pushq.mock import MockProcess
from pushq.providers.answers import Effect
from pushq.providers.hms.responses import BY_STATUS, RULES
from pushq.tokens.invalidation import invalidate_from_dead_letters
from tests.integration.counted import Counted
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
GUARANTEES = ("at_most_once", "at_least_once")
#: Of the whole request, by what becomes of the recipients.
MESSAGE = sorted(code for code, rule in RULES.items() if rule.effect is Effect.REJECTED)
AGAIN = sorted(code for code, rule in RULES.items() if rule.effect is Effect.RETRY)
RENEW = sorted(code for code, rule in RULES.items() if rule.effect is Effect.REAUTHENTICATE)
SETUP = sorted(code for code, rule in RULES.items() if rule.effect is Effect.CONFIGURATION)


def send_to(world: World, count: int = BATCH, **call: Any) -> tuple[uuid.UUID, int]:
    """A send of one queued batch to that many new devices."""
    world.add_devices("hms", count)
    send_id = world.send(audience={"user_ids": list(range(1, count + 1))}, **call)
    (batch_no,) = world.queued(send_id)
    return send_id, batch_no


def finish(worker: Worker, send_id: uuid.UUID) -> None:
    """Let time pass and the sweeper and the worker do their work until the send has ended."""
    for _ in range(10):
        if worker.world.progress(send_id).finished:
            return
        worker.world.let_time_pass(send_id)
        worker.run_orders(sweeper.sweep(worker.world.database, worker.world.settings))
    raise AssertionError(f"not finished: {worker.world.progress(send_id)}")


def resume(world: World, send_id: uuid.UUID) -> None:
    with world.database.begin() as connection:
        assert brake.resume(connection, send_id)


def every(count: int = BATCH) -> dict[str, int]:
    return {token("hms", user): 1 for user in range(1, count + 1)}


def once(mock: MockProcess, **answer: Any) -> None:
    """The next request is answered so."""
    mock.set_faults([{"platform": "hms", "times": 1, "per": "total", "answer": answer}])


def letters(world: World) -> set[tuple[str, str, int | None]]:
    return {tuple(row) for row in world.rows("SELECT outcome, reason, status FROM dead_letters")}


def oauth_requests(mock: MockProcess) -> int:
    count = mock.stats()["platforms"]["hms_oauth"]["requests"]
    assert isinstance(count, int)
    return count


class TestTable:
    def test_accepted(self, world: World, worker: Worker, mock: MockProcess) -> None:
        send_id, batch_no = send_to(world)
        worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("hms") == every()
        assert mock.stats()["platforms"]["hms"]["requests"] == 1

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_token_that_is_named_is_dead_and_nobody_is_sent_to_again(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any
    ) -> None:
        world.add_devices("hms", 2, first=101, prefix=DEAD_PREFIX)
        world.add_devices("hms", 98)
        send_id = world.send(audience={"user_ids": list(range(1, 103))}, guarantee=guarantee)
        lane = {"app": APP, "platform": "hms", "lane": "broadcast"}
        sent, delivered = Counted("push_sent_total", **lane), Counted("push_delivered_total", **lane)
        named = Counted("hms_errors_total", code="80100000")
        worker.run_queued(send_id)
        assert (sent.more, delivered.more, named.more) == (100, 98, 2)
        assert world.totals(send_id) == {"devices": 100, "accepted": 98, "dead": 2}
        assert mock.accepted("hms") == every(98)
        assert letters(world) == {("dead", "80100000", 200)}
        for (batch_no,) in world.rows("SELECT DISTINCT batch_no FROM dead_letters"):
            invalidate_from_dead_letters(world.database, send_id, batch_no, cache=None)
        assert world.value("SELECT count(*) FROM device_tokens WHERE NOT is_active") == 2

    def test_a_single_token_that_is_invalid_is_dead(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("hms", 60)
        worker.run_queued(world.send(audience={"user_ids": list(range(1, 61))}))
        world.add_devices("hms", 1, first=101, prefix=DEAD_PREFIX)
        send_id = world.send(audience={"user_ids": [101]}, kind="transactional")
        worker.run_queued(send_id)
        assert world.totals(send_id) == {"devices": 1, "dead": 1}
        assert letters(world) == {("dead", "80300007", 200)}

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_request_of_invalid_tokens_only_condemns_the_set_up_first(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any
    ) -> None:
        world.add_devices("hms", BATCH, prefix=DEAD_PREFIX)
        send_id = world.send(audience={"user_ids": list(range(1, BATCH + 1))}, guarantee=guarantee)
        (batch_no,) = world.queued(send_id)
        worker.run(send_id, batch_no)
        held = world.progress(send_id)
        assert held.state == "paused"
        assert held.error is not None
        assert "80300007" in held.error
        assert "apps.shop.hms" in held.error
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}

    @pytest.mark.parametrize("code", MESSAGE)
    def test_a_message_that_is_refused_ends_the_send(
        self, world: World, worker: Worker, mock: MockProcess, code: str
    ) -> None:
        once(mock, status=400, reason=code)
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        worker.run(send_id, batch_no)
        ended = world.progress(send_id)
        assert ended.state == "failed"
        assert ended.error is not None
        assert f"hms refuses the message (400 {code}" in ended.error
        assert world.totals(send_id) == {"devices": BATCH, "rejected": BATCH}
        assert letters(world) == {("rejected", code, 400)}
        assert mock.accepted("hms") == {}

    @pytest.mark.parametrize(
        ("guarantee", "code"),
        [("at_least_once", "81000001"), *(("at_most_once", code) for code in (*AGAIN, "429", "503"))],
    )
    def test_a_request_that_may_be_repeated_is(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any, code: str
    ) -> None:
        bare = len(code) == 3
        once(mock, **({"status": int(code)} if bare else {"status": 400, "reason": code}))
        send_id, batch_no = send_to(world, guarantee=guarantee)
        step = worker.run(send_id, batch_no)
        rule = BY_STATUS[int(code)] if bare else RULES[code]
        # Longer waits than a minute are the ledger's.
        assert step.retry_in is None or step.retry_in >= rule.min_wait_s
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("hms") == every()

    @pytest.mark.parametrize("code", [*RENEW, "401"])
    def test_a_credential_that_is_refused_is_renewed_once(
        self, world: World, worker: Worker, mock: MockProcess, code: str
    ) -> None:
        once(mock, status=401, **({} if code == "401" else {"reason": code}))
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
        assert oauth_requests(mock) == 2
        # A refused credential is no attempt at anybody.
        assert world.value("SELECT attempt FROM send_batches") == 0
        finish(worker, send_id)
        assert mock.accepted("hms") == every()
        assert oauth_requests(mock) == 2

    @pytest.mark.parametrize("code", RENEW)
    def test_a_new_credential_that_is_refused_as_well_holds_the_send(
        self, world: World, worker: Worker, mock: MockProcess, code: str
    ) -> None:
        mock.set_faults([{"platform": "hms", "answer": {"status": 401, "reason": code}}])
        counted = Counted("pushq_sends_held_total", platform="hms", cause="credential")
        send_id, batch_no = send_to(world)
        worker.run(send_id, batch_no)
        world.let_time_pass(send_id)
        worker.run_orders(sweeper.sweep(world.database, world.settings))
        held = world.progress(send_id)
        assert (held.state, counted.more) == ("paused", 1)
        assert held.error is not None
        assert held.error.startswith(
            f"HMS refuses the access token of app 'shop', a new one as well ({code})"
        )
        assert oauth_requests(mock) == 2
        mock.set_faults([])
        resume(world, send_id)
        finish(worker, send_id)
        assert mock.accepted("hms") == every()

    @pytest.mark.parametrize("code", [*SETUP, "403", "404"])
    def test_a_set_up_that_is_refused_holds_the_send_and_keeps_everybody(
        self, world: World, worker: Worker, mock: MockProcess, code: str
    ) -> None:
        once(mock, **({"status": int(code)} if len(code) == 3 else {"status": 400, "reason": code}))
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        worker.run(send_id, batch_no)
        held = world.progress(send_id)
        assert held.state == "paused"
        assert held.error is not None
        assert held.error.startswith("HMS refuses app 'shop' (")
        assert code in held.error
        assert "pushq resume" in held.error
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
        resume(world, send_id)
        finish(worker, send_id)
        assert mock.accepted("hms") == every()

    def test_a_failing_oauth_of_huawei_costs_a_new_token_the_second_time(
        self, world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr("pushq.providers.hms.client.monotonic", lambda: now[0])
        once(mock, status=500, reason="80600003")
        send_id, batch_no = send_to(world)
        worker.run(send_id, batch_no)
        assert oauth_requests(mock) == 1
        once(mock, status=500, reason="80600003")
        now[0] = 2.0
        world.let_time_pass(send_id)
        worker.run_orders(sweeper.sweep(world.database, world.settings))
        assert oauth_requests(mock) == 2
        finish(worker, send_id)
        assert mock.accepted("hms") == every()

    def test_a_code_that_nobody_knows_falls_to_its_area(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        once(mock, status=400, reason="80399999")
        send_id, batch_no = send_to(world)
        worker.run(send_id, batch_no)
        assert letters(world) == {("rejected", "other_803", 400)}


class TestLostAnswers:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ({"stall": True, "processed": True}, "no_answer_timeout"),
            ({"cut": "now", "processed": True}, "no_answer_connection_lost"),
            ({"rst": "INTERNAL_ERROR", "processed": True}, "no_answer_stream_reset"),
            ({"answer": {"status": 500}}, "no_answer_status_500"),
            ({"answer": {"status": 502, "body": "<html>"}}, "no_answer_status_502"),
            ({"answer": {"status": 504}}, "no_answer_status_504"),
            ({"answer": {"status": 200, "body": "no JSON"}}, "no_answer_malformed_answer"),
            (
                {"answer": {"status": 200, "body": json.dumps({"code": "80100000", "msg": "no JSON"})}},
                "no_answer_malformed_answer",
            ),
        ],
    )
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_nobody_knows_and_the_guarantee_decides(
        self,
        world: World,
        worker: Worker,
        mock: MockProcess,
        guarantee: Any,
        fault: dict[str, Any],
        reason: str,
    ) -> None:
        # An answer of 200 that nobody can read is one to a message that went out.
        processed = fault.get("answer", {}).get("status", 200) == 200
        mock.set_faults([{"platform": "hms", "times": 1, "per": "total", **fault}])
        send_id, batch_no = send_to(world, guarantee=guarantee)
        worker.run(send_id, batch_no)
        if guarantee == "at_most_once":
            assert world.totals(send_id) == {"devices": BATCH, "unknown": BATCH}
            assert letters(world) == {("unknown", reason, None)}
            finish(worker, send_id)
            assert mock.accepted("hms") == (every() if processed else {})
        else:
            assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
            finish(worker, send_id)
            assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
            assert set(mock.accepted("hms")) == set(every())
            assert set(mock.accepted("hms").values()) == {2 if processed else 1}

    @pytest.mark.parametrize("fault", [{"rst": "REFUSED_STREAM"}, {"goaway": {"last_stream_offset": -1}}])
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_what_was_surely_not_processed_is_sent_again(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any, fault: dict[str, Any]
    ) -> None:
        mock.set_faults([{"platform": "hms", "times": 1, "per": "total", **fault}])
        send_id, batch_no = send_to(world, guarantee=guarantee)
        worker.run(send_id, batch_no)
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("hms") == every()

    def test_one_request_that_is_lost_leaves_the_others_alone(
        self, world: World, redis_url: str, app: AppSettings, mock: MockProcess
    ) -> None:
        assert app.hms is not None
        small = app.model_copy(update={"hms": app.hms.model_copy(update={"tokens_per_request": 10})})
        mock.set_faults(
            [{"platform": "hms", "token": token("hms", 5), "times": 1, "cut": "now", "processed": True}]
        )
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        with open_worker(world, redis_url, app=small) as worker:
            worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "unknown": 10, "accepted": 20}
        assert mock.accepted("hms") == every()


class TestRequests:
    @pytest.mark.parametrize(
        ("api", "account"), [("v1", False), ("v1", True), ("v2", False), ("v2", True), ("v3", True)]
    )
    def test_every_version_with_every_credential(
        self, world: World, redis_url: str, app: AppSettings, mock: MockProcess, api: str, *, account: bool
    ) -> None:
        assert app.hms is not None
        ready = mock.ready["hms"]
        other: dict[str, Any] = {"api": api}
        if account:
            other |= {
                "service_account_file": ready["service_account_file"],
                "client_secret_file": None,
                "app_id": ready["client_id"],
            }
        settings = type(app.hms).model_validate(app.hms.model_dump() | other)
        send_id, batch_no = send_to(world, notification={"title": "a", "body": "b", "data": {"k": "v"}})
        with open_worker(world, redis_url, app=app.model_copy(update={"hms": settings})) as worker:
            worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        (seen,) = mock.requests("hms")
        number = ready["client_id"] if api == "v1" else ready["project_id"]
        assert seen["path"] == f"/{api}/{number}/messages:send"
        assert oauth_requests(mock) == int(not account)

    def test_who_gets_the_same_shares_a_request(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        world.add_devices("hms", 10, language="de")
        world.add_devices("hms", 10, first=11, language="fr-CA")
        world.add_devices("hms", 10, first=21)
        notification = {
            "title": "Sale",
            "body": "20% off",
            "languages": {"de": {"title": "Angebot"}, "fr": {"title": "Solde"}},
        }
        send_id = world.send(audience={"user_ids": list(range(1, 31))}, notification=notification)
        worker.run_queued(send_id)
        assert mock.accepted("hms") == every()
        seen = {
            message["notification"]["title"]: set(message["token"])
            for message in (json.loads(request["body"])["message"] for request in mock.requests("hms"))
        }
        assert seen == {
            "Angebot": {token("hms", user) for user in range(1, 11)},
            "Solde": {token("hms", user) for user in range(11, 21)},
            "Sale": {token("hms", user) for user in range(21, 31)},
        }

    def test_a_thousand_devices_share_a_request(
        self, ledger_url: str, redis_url: str, app: AppSettings, mock: MockProcess
    ) -> None:
        with open_world(ledger_url, app, batch_size=2500, plan_page=5000) as world:
            world.empty()
            send_id, batch_no = send_to(world, 2500)
            with open_worker(world, redis_url) as worker:
                worker.run(send_id, batch_no)
            assert world.totals(send_id) == {"devices": 2500, "accepted": 2500}
        assert mock.accepted("hms") == every(2500)
        named = [len(json.loads(request["body"])["message"]["token"]) for request in mock.requests("hms")]
        assert sorted(named) == [500, 1000, 1000]


class RecordingGate(OpenGate):
    """Allows everything and keeps what it was asked and told."""

    def __init__(self) -> None:
        self.wants: list[int] = []
        self.pauses: list[float] = []

    def ask(self, app: str, platform: str, *, want: int, **more: Any) -> Grant:
        self.wants.append(want)
        return Grant(want)

    def hold_off(self, app: str, platform: str, seconds: float) -> None:
        self.pauses.append(seconds)


class TestFlowControl:
    def test_permits_are_for_devices(
        self, ledger_url: str, redis_url: str, app: AppSettings, mock: MockProcess
    ) -> None:
        gate = RecordingGate()
        with open_world(ledger_url, app, batch_size=2500, plan_page=5000) as world:
            world.empty()
            send_id, batch_no = send_to(world, 2500)
            with open_worker(world, redis_url, gate=gate) as worker:
                worker.run(send_id, batch_no)
        assert gate.wants == [1000, 1000, 500]
        assert gate.pauses == []

    @pytest.mark.parametrize(
        ("answer", "pause"), [({"status": 503}, 2.0), ({"status": 503, "retry_after": 30}, 30.0)]
    )
    def test_a_503_pauses_everybody(
        self, world: World, redis_url: str, mock: MockProcess, answer: dict[str, Any], pause: float
    ) -> None:
        once(mock, **answer)
        gate = RecordingGate()
        send_id, batch_no = send_to(world)
        with open_worker(world, redis_url, gate=gate) as worker:
            step = worker.run(send_id, batch_no)
        assert gate.pauses == [pause]
        assert step.retry_in is not None
        assert step.retry_in >= pause
