"""Delivery when something breaks: connections, credentials, Redis, PostgreSQL, and workers that die or sleep in mid-batch.

What every test here counts is what the mock accepted: at_most_once never twice, at_least_once never not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
import redis
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pushq.app_settings import ApnsSettings, AppSettings, FcmSettings, load_apps
from pushq.delivery.sending import Sending
from pushq.embedded.postgres import PostgresServer
from pushq.embedded.redis import RedisServer
from pushq.errors import ServiceUnavailable
from pushq.http2 import PoolSettings
from pushq.ledger import batches, brake, sends, sweeper
from pushq.ledger.outcomes import Outcome
from pushq.mock import MockProcess
from pushq.providers.apns import client as apns_client
from pushq.providers.apns.credentials import load_key
from tests.integration.ledger_world import APP, Worker, World, open_worker, open_world, token
from tests.services.faults import crash

BATCH = 30
DEADLINE_S = 20.0
GUARANTEES = ("at_most_once", "at_least_once")


class Crashed(BaseException):
    """The process ends here: nothing that would be done afterwards is done."""


def send_to(world: World, count: int = BATCH, platform: str = "apns", **call: Any) -> tuple[uuid.UUID, int]:
    """A send of one queued batch to that many new devices."""
    world.add_devices(platform, count)
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


def every(platform: str, count: int, times: int = 1) -> dict[str, int]:
    return {token(platform, user): times for user in range(1, count + 1)}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def requests_at(mock: MockProcess, platform: str = "apns") -> int:
    count = mock.stats()["platforms"][platform]["requests"]
    assert isinstance(count, int)
    return count


class TestConnection:
    @pytest.mark.parametrize("fault", [{"rst": "INTERNAL_ERROR"}, {"stall": True}])
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_lost_answer(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any, fault: dict[str, Any]
    ) -> None:
        lost = token("apns", 5)
        mock.set_faults([{"platform": "apns", "token": lost, "times": 1, "processed": True, **fault}])
        send_id, batch_no = send_to(world, guarantee=guarantee)
        step = worker.run(send_id, batch_no)
        if guarantee == "at_most_once":
            assert step.retry_in is None
            assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH - 1, "unknown": 1}
            assert world.progress(send_id).state == "done"
            assert mock.accepted("apns") == every("apns", BATCH)
        else:
            assert step.retry_in is not None
            assert world.value("SELECT attempt FROM send_batches") == 1
            finish(worker, send_id)
            assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
            assert mock.accepted("apns") == every("apns", BATCH) | {lost: 2}
        letters = [row.outcome for row in world.rows("SELECT outcome FROM dead_letters")]
        assert letters == (["unknown"] if guarantee == "at_most_once" else [])

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_an_answer_that_is_always_lost(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any
    ) -> None:
        mock.set_faults([{"platform": "apns", "token": token("apns", 5), "rst": "CANCEL"}])
        send_id, batch_no = send_to(world, guarantee=guarantee)
        worker.run(send_id, batch_no)
        finish(worker, send_id)
        ending = "unknown" if guarantee == "at_most_once" else "exhausted"
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH - 1, ending: 1}
        letters = [tuple(r) for r in world.rows("SELECT outcome, reason, status, attempt FROM dead_letters")]
        attempts = 1 if guarantee == "at_most_once" else 3
        assert letters == [(ending, "no_answer_stream_reset", None, attempts)]

    @pytest.mark.parametrize(
        "fault",
        [
            {"token": token("apns", 5), "times": 1, "rst": "REFUSED_STREAM"},
            {
                "nth_on_connection": 20,
                "times": 1,
                "per": "total",
                "goaway": {"reason": "Shutdown", "last_stream_offset": -8},
            },
        ],
    )
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_what_was_surely_not_processed_is_sent_again_and_costs_no_attempt(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any, fault: dict[str, Any]
    ) -> None:
        mock.set_faults([{"platform": "apns", **fault}])
        send_id, batch_no = send_to(world, guarantee=guarantee)
        step = worker.run(send_id, batch_no)
        assert step.retry_in is not None
        found = world.rows("SELECT outcomes, attempts, error FROM send_batches")[0]
        assert {
            tried for tried, outcome in zip(found.attempts, found.outcomes, strict=True) if not outcome
        } == {0}
        assert "not sent" in found.error
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("apns") == every("apns", BATCH)

    @pytest.mark.parametrize("how", ["now", "mid_frame"])
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_cut_wire(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any, how: str
    ) -> None:
        mock.set_latency(30)
        mock.set_faults(
            [
                {
                    "platform": "apns",
                    "nth_on_connection": 15,
                    "times": 1,
                    "per": "total",
                    "cut": how,
                    "processed": True,
                }
            ]
        )
        send_id, batch_no = send_to(world, guarantee=guarantee)
        worker.run(send_id, batch_no)
        finish(worker, send_id)
        accepted, totals = mock.accepted("apns"), world.totals(send_id)
        if guarantee == "at_most_once":
            assert totals["unknown"] > 0
            assert totals["accepted"] + totals["unknown"] == BATCH
            assert set(accepted.values()) == {1}
        else:
            assert totals == {"devices": BATCH, "accepted": BATCH}
            assert set(accepted) == set(every("apns", BATCH))
            assert max(accepted.values()) <= 2

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_provider_that_cannot_be_reached_costs_no_attempt(
        self,
        world: World,
        redis_url: str,
        app: AppSettings,
        mock: MockProcess,
        monkeypatch: pytest.MonkeyPatch,
        guarantee: Any,
    ) -> None:
        assert app.apns is not None
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            url = f"https://localhost:{nobody.getsockname()[1]}"
        monkeypatch.setattr(apns_client, "PoolSettings", partial(PoolSettings, queue_timeout_s=0.5))
        elsewhere = app.model_copy(update={"apns": app.apns.model_copy(update={"url": url})})
        send_id, batch_no = send_to(world, guarantee=guarantee)
        with open_worker(world, redis_url, app=elsewhere) as cut_off:
            for runs in (1, 2):
                assert cut_off.run(send_id, batch_no).retry_in is not None
                found = world.rows("SELECT * FROM send_batches")[0]
                assert (found.attempt, found.runs, found.state) == (0, runs, "retry")
                assert found.error == "apns: not sent (connect_refused); will be tried again"
                assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
                world.let_time_pass(send_id)
        assert world.progress(send_id).state == "sending"
        with open_worker(world, redis_url) as worker:
            finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("apns") == every("apns", BATCH)
        assert world.value("SELECT error FROM send_batches") is None


def other_apns_key(folder: Path, settings: ApnsSettings) -> ApnsSettings:
    """The same key id, but a file with another key."""
    file = folder / "other.p8"
    file.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return settings.model_copy(update={"key_file": file})


def other_service_account(folder: Path, settings: FcmSettings) -> FcmSettings:
    file = folder / "other.json"
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = json.loads(settings.service_account_file.read_text()) | {"private_key": pem.decode()}
    file.write_text(json.dumps(account))
    return settings.model_copy(update={"service_account_file": file})


class TestCredentials:
    @pytest.mark.parametrize("platform", ["apns", "fcm"])
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_wrong_key_holds_the_send_until_it_is_right(
        self,
        world: World,
        redis_url: str,
        app: AppSettings,
        mock: MockProcess,
        tmp_path: Path,
        guarantee: Any,
        platform: str,
    ) -> None:
        assert app.apns is not None
        assert app.fcm is not None
        cases: dict[str, tuple[dict[str, Any], str]] = {
            "apns": (
                {"apns": other_apns_key(tmp_path, app.apns)},
                (
                    "APNs refuses app 'shop' (403 InvalidProviderToken). Check that apps.shop.apns.key_file, key_id and team_id"
                    " belong together, then: pushq resume"
                ),
            ),
            "fcm": (
                {"fcm": other_service_account(tmp_path, app.fcm)},
                (
                    "Google refuses the service account of app 'shop' (invalid_grant). Check apps.shop.fcm.service_account_file,"
                    " then: pushq resume"
                ),
            ),
        }
        wrong, words = cases[platform]
        send_id, batch_no = send_to(world, platform=platform, guarantee=guarantee)
        with open_worker(world, redis_url, app=app.model_copy(update=wrong)) as mistaken:
            assert mistaken.run(send_id, batch_no).retry_in is None
        held = world.progress(send_id)
        assert (held.state, held.error) == ("paused", words)
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
        assert mock.accepted(platform) == {}
        assert world.value("SELECT attempt FROM send_batches") == 0
        resume(world, send_id)
        with open_worker(world, redis_url) as mended:
            finish(mended, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted(platform) == every(platform, BATCH)

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_key_that_is_withdrawn_in_mid_batch_keeps_what_was_reached(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any
    ) -> None:
        mock.set_faults(
            [
                {
                    "platform": "apns",
                    "token": token("apns", user),
                    "answer": {"status": 403, "reason": "InvalidProviderToken"},
                }
                for user in range(11, BATCH + 1)
            ]
        )
        send_id, batch_no = send_to(world, guarantee=guarantee)
        worker.run(send_id, batch_no)
        assert world.progress(send_id).state == "paused"
        assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "pending": BATCH - 10}
        mock.set_faults([])
        resume(world, send_id)
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("apns") == every("apns", BATCH)

    def test_an_expired_access_token_is_replaced(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        send_id, batch_no = send_to(world, platform="fcm", guarantee="at_most_once")
        first = send_to_one_more(world, 1000)
        worker.run_queued(first)
        mock.expire_credentials("fcm")
        assert worker.run(send_id, batch_no).retry_in is not None
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("fcm") == every("fcm", BATCH) | {token("fcm", 1000): 1}
        assert requests_at(mock, "oauth") == 2

    def test_an_expired_provider_token_is_replaced(
        self, postgres: PostgresServer, ledger_url: str, redis_url: str, tmp_path: Path
    ) -> None:
        """The fleet's token is 25 minutes old, so it may be replaced, when APNs calls it expired."""
        with MockProcess(tmp_path / "mock", engine="strict") as mock:
            app = load_apps(mock.config_file)[APP]
            assert app.apns is not None
            with (
                open_world(ledger_url, app, batch_size=BATCH, request_timeout=1.0) as world,
                open_worker(world, redis_url) as worker,
            ):
                world.empty()
                issued = int(time.time()) - 25 * 60
                old = jwt.encode(
                    {"iss": app.apns.team_id, "iat": issued},
                    load_key(app.apns, APP),
                    algorithm="ES256",
                    headers={"kid": app.apns.key_id},
                )
                first = send_to_one_more(world, 1000, platform="apns")
                worker.run_queued(first)
                (slot,) = worker.redis.keys("pushq:apns:token:*")
                worker.redis.set(slot, orjson.dumps({"token": old, "iat": issued}))
            with (
                open_world(ledger_url, app, batch_size=BATCH, request_timeout=1.0) as world,
                open_worker(world, redis_url) as worker,
            ):
                send_id, batch_no = send_to(world, guarantee="at_most_once")
                mock.expire_credentials("apns")
                expired_at = int(time.time())
                wait_for(
                    lambda: int(time.time()) > expired_at
                )  # a token of the same second would be expired too
                assert worker.run(send_id, batch_no).retry_in is not None
                assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
                assert "403 ExpiredProviderToken" in mock.stats()["platforms"]["apns"]["answers"]
                finish(worker, send_id)
                assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
                assert mock.accepted("apns") == every("apns", BATCH) | {token("apns", 1000): 1}

    def test_a_token_endpoint_that_does_not_answer_costs_no_attempt(
        self, world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushq.providers.shared_token.RETRY_S", 0.0)  # time passes in the ledger only
        mock.set_faults(
            [{"platform": "oauth", "answer": {"status": 500, "body": "no", "reason": "server_error"}}]
        )
        send_id, batch_no = send_to(world, platform="fcm")
        assert worker.run(send_id, batch_no).retry_in is not None
        found = world.rows("SELECT attempt, error FROM send_batches")[0]
        assert found.attempt == 0
        assert "token endpoint" in found.error
        assert world.progress(send_id).state == "sending"
        mock.set_faults([])
        finish(worker, send_id)
        assert mock.accepted("fcm") == every("fcm", BATCH)


def send_to_one_more(world: World, user_id: int, platform: str = "fcm") -> uuid.UUID:
    world.add_devices(platform, 1, first=user_id)
    return world.send(audience={"user_ids": [user_id]})


class TestCrash:
    """The worker is gone after it sent; another one takes the batch up when the lease has ended."""

    def crash_before_settling(
        self, world: World, redis_url: str, monkeypatch: pytest.MonkeyPatch, send_id: uuid.UUID, batch_no: int
    ) -> None:
        def die(*_: object, **__: object) -> None:
            raise Crashed

        with open_worker(world, redis_url) as worker, monkeypatch.context() as patch:
            patch.setattr(batches, "settle", die)
            with pytest.raises(Crashed):
                worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
        world.let_leases_end(send_id)

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_what_the_journal_knows_is_not_sent_again(
        self,
        world: World,
        redis_url: str,
        mock: MockProcess,
        monkeypatch: pytest.MonkeyPatch,
        guarantee: Any,
    ) -> None:
        send_id, batch_no = send_to(world, guarantee=guarantee)
        self.crash_before_settling(world, redis_url, monkeypatch, send_id, batch_no)
        with open_worker(world, redis_url) as worker:
            worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("apns") == every("apns", BATCH)
        assert requests_at(mock) == BATCH

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_without_the_journal_the_guarantee_decides(
        self,
        world: World,
        redis_url: str,
        mock: MockProcess,
        monkeypatch: pytest.MonkeyPatch,
        guarantee: Any,
    ) -> None:
        send_id, batch_no = send_to(world, guarantee=guarantee)
        self.crash_before_settling(world, redis_url, monkeypatch, send_id, batch_no)
        with open_worker(world, redis_url) as worker:
            worker.redis.flushdb()
            worker.run(send_id, batch_no)
        if guarantee == "at_most_once":
            assert world.totals(send_id) == {"devices": BATCH, "unknown": BATCH}
            assert mock.accepted("apns") == every("apns", BATCH)
        else:
            assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
            assert mock.accepted("apns") == every("apns", BATCH, times=2)
        assert world.progress(send_id).state == "done"

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_the_claimed_and_the_untouched(
        self, world: World, worker: Worker, mock: MockProcess, guarantee: Any
    ) -> None:
        """Ten accepted, ten claimed and perhaps sent, ten not touched when the holder vanished."""
        send_id, batch_no = send_to(world, guarantee=guarantee)
        dead = world.acquire(send_id, batch_no)
        worker.journal.open(dead, dead.outcomes, replaces=b"")
        worker.journal.write(dead, [(0, bytes([Outcome.CLAIMED]) * 20)])
        worker.journal.write(dead, [(0, bytes([Outcome.ACCEPTED]) * 10)])
        assert worker.run(send_id, batch_no).orders == []  # its lease lives
        world.let_leases_end(send_id)
        worker.run(send_id, batch_no)
        sent = {token("apns", user) for user in range(11 if guarantee == "at_least_once" else 21, 31)}
        assert set(mock.accepted("apns")) == sent
        if guarantee == "at_most_once":
            assert world.totals(send_id) == {"devices": BATCH, "accepted": 20, "unknown": 10}
        else:
            assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}

    def test_what_the_last_holder_claims_while_its_journal_is_taken_over_is_not_sent(
        self, world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was only stopped for longer than its lease, and goes on right after its journal was read."""
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        sleeper = world.acquire(send_id, batch_no)
        worker.journal.open(sleeper, sleeper.outcomes, replaces=b"")
        world.let_leases_end(send_id)
        read, reads = worker.journal.read, []

        def read_and_be_overtaken(*key: Any) -> Any:
            found = read(*key)
            reads.append(found)
            if len(reads) == 1:
                worker.journal.write(sleeper, [(0, bytes([Outcome.CLAIMED]) * 20)])
            return found

        monkeypatch.setattr(worker.journal, "read", read_and_be_overtaken)
        worker.run(send_id, batch_no)
        assert len(reads) == 2
        assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "unknown": 20}
        assert set(mock.accepted("apns")) == {token("apns", user) for user in range(21, 31)}

    def test_what_redis_did_not_take_is_journaled_as_soon_as_it_does(
        self, world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send_id, batch_no = send_to(world)
        write, settle = worker.journal.write, batches.settle
        failed: list[object] = []

        def fail_once(*args: Any) -> None:
            if not failed:
                failed.append(args)
                raise redis.ConnectionError
            write(*args)

        def look(*args: Any, **options: Any) -> Any:
            found = worker.journal.read(send_id, batch_no)
            assert found is not None
            seen.append(found.outcomes)
            return settle(*args, **options)

        seen: list[bytes] = []
        monkeypatch.setattr("pushq.delivery.sending.CHUNK", 10)
        monkeypatch.setattr(worker.journal, "write", fail_once)
        monkeypatch.setattr(batches, "settle", look)
        worker.run(send_id, batch_no)
        assert failed
        assert seen == [bytes([Outcome.ACCEPTED]) * BATCH]

    def test_who_finds_its_journal_taken_over_sends_no_more(
        self, world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send_id, batch_no = send_to(world)
        mock.set_latency(0)
        monkeypatch.setattr("pushq.delivery.sending.CHUNK", 10)

        def fenced(*_: Any) -> None:
            raise batches.Fenced("taken over")

        monkeypatch.setattr(worker.journal, "write", fenced)
        wait = Sending._collect

        def collect_all(self: Sending) -> None:
            for burst in self._attempt.open_bursts():
                burst.wait(DEADLINE_S)
            wait(self)

        monkeypatch.setattr(Sending, "_collect", collect_all)
        worker.run(send_id, batch_no)
        assert mock.accepted("apns") == every("apns", 10)

    @pytest.mark.parametrize("settled", [True, False])
    def test_who_slept_before_its_journal_began_sends_nothing(
        self, world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch, settled: bool
    ) -> None:
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        acquire = batches.acquire

        def acquire_and_sleep(*args: Any, **options: Any) -> Any:
            lease = acquire(*args, **options)
            monkeypatch.setattr(batches, "acquire", acquire)
            assert lease is not None
            lease.taken_at -= world.settings.lease_seconds
            world.let_leases_end(send_id)
            if settled:
                worker.run(send_id, batch_no)
            else:
                later = world.acquire(send_id, batch_no)
                worker.journal.open(later, later.outcomes, replaces=b"")
            return lease

        monkeypatch.setattr(batches, "acquire", acquire_and_sleep)
        worker.run(send_id, batch_no)
        assert mock.accepted("apns") == (every("apns", BATCH) if settled else {})

    def test_a_send_that_cannot_be_loaded_is_no_vanished_worker(
        self, world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send_id, batch_no = send_to(world, guarantee="at_most_once")

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(sends, "load", fail)
            worker.run(send_id, batch_no)
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}

    def test_two_crashes_in_a_row(
        self, world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second holder dies as soon as it has taken the batch up, before it has a journal of its own."""
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        first = world.acquire(send_id, batch_no)
        worker.journal.open(first, first.outcomes, replaces=b"")
        worker.journal.write(first, [(0, bytes([Outcome.CLAIMED]) * 20)])
        world.let_leases_end(send_id)
        world.acquire(send_id, batch_no)
        world.let_leases_end(send_id)
        worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "unknown": 20}
        assert set(mock.accepted("apns")) == {token("apns", user) for user in range(21, 31)}

    def test_a_batch_that_is_handed_back_leaves_nothing_to_guess_about(
        self,
        world: World,
        redis_url: str,
        app: AppSettings,
        mock: MockProcess,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The worker dies while it hands back a batch of which it sent nothing: nobody's outcome is unknown."""
        assert app.fcm is not None
        send_id, batch_no = send_to(world, platform="fcm", guarantee="at_most_once")

        def die(*_: object, **__: object) -> None:
            raise Crashed

        wrong = app.model_copy(update={"fcm": other_service_account(tmp_path, app.fcm)})
        with open_worker(world, redis_url, app=wrong) as mistaken, monkeypatch.context() as patch:
            patch.setattr(batches, "hand_back", die)
            with pytest.raises(Crashed):
                mistaken.run(send_id, batch_no)
        resume(world, send_id)
        world.let_leases_end(send_id)
        with open_worker(world, redis_url) as worker:
            finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("fcm") == every("fcm", BATCH)


#: A worker as a process of its own, to be killed and stopped.
_CHILD = """
import json, sys, uuid
from pathlib import Path
from pushq.app_settings import load_apps
from tests.integration.ledger_world import APP, open_worker, open_world
call = json.load(sys.stdin)
app = load_apps(Path(call["config"]))[APP]
with open_world(call["database"], app, request_timeout=30, lease_seconds=call["lease"]) as world:
    with open_worker(world, call["redis"]) as worker:
        step = worker.run(uuid.UUID(call["send"]), call["batch"])
        print(json.dumps({"orders": len(step.orders), "retry_in": step.retry_in}))
"""


class TestProcess:
    @pytest.fixture
    def start(
        self, ledger_url: str, redis_url: str, mock: MockProcess
    ) -> Iterator[Callable[[uuid.UUID, int], subprocess.Popen[str]]]:
        started: list[subprocess.Popen[str]] = []

        def start(send_id: uuid.UUID, batch_no: int) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            started.append(process)
            assert process.stdin is not None
            json.dump(
                {
                    "config": str(mock.config_file),
                    "database": ledger_url,
                    "redis": redis_url,
                    "send": str(send_id),
                    "batch": batch_no,
                    "lease": 60,
                },
                process.stdin,
            )
            process.stdin.close()
            process.stdin = None
            return process

        yield start
        for process in started:
            process.kill()
            process.communicate(timeout=DEADLINE_S)

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_kill_9_in_mid_batch(
        self,
        world: World,
        worker: Worker,
        mock: MockProcess,
        start: Callable[[uuid.UUID, int], subprocess.Popen[str]],
        guarantee: Any,
    ) -> None:
        """Every third answer does not come before the worker is killed, although the phone rings."""
        mock.set_faults([{"platform": "apns", "every": 3, "stall": True, "processed": True}])
        send_id, batch_no = send_to(world, guarantee=guarantee)
        process = start(send_id, batch_no)
        wait_for(lambda: requests_at(mock) == BATCH)
        known = bytes([Outcome.ACCEPTED])

        def journaled() -> int:
            journal = worker.journal.read(send_id, batch_no)
            return journal.outcomes.count(known) if journal else 0

        wait_for(lambda: journaled() == BATCH - BATCH // 3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)
        mock.set_faults([])
        world.let_leases_end(send_id)
        worker.run(send_id, batch_no)
        accepted = mock.accepted("apns")
        assert set(accepted) == set(every("apns", BATCH))
        if guarantee == "at_most_once":
            assert world.totals(send_id) == {"devices": BATCH, "accepted": 20, "unknown": 10}
            assert set(accepted.values()) == {1}
        else:
            assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
            assert sorted(accepted.values()) == [1] * 20 + [2] * 10

    def test_a_sleeper_that_wakes_up_changes_nothing(
        self,
        world: World,
        worker: Worker,
        mock: MockProcess,
        start: Callable[[uuid.UUID, int], subprocess.Popen[str]],
    ) -> None:
        """Stopped while its requests are out; another worker settles the batch; then it goes on."""
        mock.set_latency(700)
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        process = start(send_id, batch_no)
        wait_for(lambda: requests_at(mock) > 0)
        os.kill(process.pid, signal.SIGSTOP)
        mock.set_latency(0)
        world.let_leases_end(send_id)
        worker.run(send_id, batch_no)
        settled = world.rows("SELECT * FROM send_batches")
        assert world.progress(send_id).state == "done"
        os.kill(process.pid, signal.SIGCONT)
        out, errors = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, json.loads(out)) == (0, {"orders": 0, "retry_in": None}), errors
        assert world.rows("SELECT * FROM send_batches") == settled
        assert set(mock.accepted("apns").values()) == {1}
        totals = world.totals(send_id)
        assert totals.get("accepted", 0) + totals["unknown"] == BATCH


@contextlib.contextmanager
def locked_out(server: RedisServer) -> Iterator[None]:
    """Redis runs on, but lets nobody in."""
    with server.client() as operator:
        password = operator.config_get("requirepass")["requirepass"]
        operator.config_set("requirepass", "another")
        operator.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            yield
        finally:
            operator.config_set("requirepass", password)


class TestRedisAway:
    def test_at_most_once_waits_for_it(
        self, world: World, worker: Worker, mock: MockProcess, redis_server: RedisServer
    ) -> None:
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        redis_server.kill()
        assert worker.run(send_id, batch_no).retry_in is None
        found = world.rows("SELECT state, attempt, error FROM send_batches")[0]
        assert (found.state, found.attempt) == ("queued", 0)
        assert "PUSHQ_REDIS_URL" in found.error
        assert requests_at(mock) == 0
        redis_server.start()
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("apns") == every("apns", BATCH)

    def test_at_least_once_goes_on_without_it(
        self, world: World, worker: Worker, mock: MockProcess, redis_server: RedisServer
    ) -> None:
        send_id, batch_no = send_to(world, guarantee="at_least_once")
        redis_server.kill()
        worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("apns") == every("apns", BATCH)

    def test_an_interrupted_batch_stays_so_until_its_journal_can_be_read(
        self, world: World, worker: Worker, mock: MockProcess, redis_server: RedisServer
    ) -> None:
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        dead = world.acquire(send_id, batch_no)
        worker.journal.open(dead, dead.outcomes, replaces=b"")
        worker.journal.write(dead, [(0, bytes([Outcome.CLAIMED]) * 20)])
        world.let_leases_end(send_id)
        with locked_out(redis_server):
            worker.run(send_id, batch_no)
        assert world.value("SELECT state FROM send_batches") == "queued"
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "unknown": 20}
        letters = world.rows("SELECT DISTINCT outcome, reason, attempt FROM dead_letters")
        assert [tuple(letter) for letter in letters] == [("unknown", "no_answer_worker_lost", 1)]

    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_a_journal_from_before_a_restart_of_redis_is_not_believed(
        self, world: World, worker: Worker, mock: MockProcess, redis_server: RedisServer, guarantee: Any
    ) -> None:
        """Its file may be older than the last claims: whoever looks untouched may have been reached."""
        send_id, batch_no = send_to(world, guarantee=guarantee)
        dead = world.acquire(send_id, batch_no)
        worker.journal.open(dead, dead.outcomes, replaces=b"")
        worker.journal.write(dead, [(0, bytes([Outcome.ACCEPTED]) * 20)])
        world.let_leases_end(send_id)
        crash(redis_server)
        redis_server.start()
        finish(worker, send_id)
        if guarantee == "at_most_once":
            assert world.totals(send_id) == {"devices": BATCH, "unknown": BATCH}
            assert mock.accepted("apns") == {}
            letters = world.rows("SELECT DISTINCT reason FROM dead_letters")
            assert [letter.reason for letter in letters] == ["no_answer_journal_lost"]
        else:
            assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
            assert mock.accepted("apns") == every("apns", BATCH)

    def test_emptied_in_mid_batch_nothing_more_is_claimed_and_nothing_is_lost(
        self, world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushq.delivery.sending.CHUNK", 10)
        send_id, batch_no = send_to(world, guarantee="at_most_once")
        claim, claims = worker.journal.write, []

        def write(lease: batches.Lease, spans: list[tuple[int, bytes]]) -> None:
            if any(Outcome.CLAIMED in values for _, values in spans):
                claims.append(spans)
                if len(claims) == 2:
                    worker.redis.flushdb()
            claim(lease, spans)

        monkeypatch.setattr(worker.journal, "write", write)
        step = worker.run(send_id, batch_no)
        assert step.retry_in is not None
        assert world.totals(send_id) == {"devices": BATCH, "accepted": 10, "pending": 20}
        finish(worker, send_id)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("apns") == every("apns", BATCH)


class TestPostgresAway:
    @pytest.mark.parametrize("guarantee", GUARANTEES)
    def test_gone_in_mid_batch(
        self,
        world: World,
        worker: Worker,
        mock: MockProcess,
        postgres: PostgresServer,
        guarantee: Any,
    ) -> None:
        mock.set_latency(300)
        send_id, batch_no = send_to(world, guarantee=guarantee)

        def take_away() -> None:
            wait_for(lambda: requests_at(mock) > 0)
            crash(postgres)

        thief = threading.Thread(target=take_away)
        thief.start()
        with pytest.raises(ServiceUnavailable, match="PUSHQ_DATABASE_URL"):
            worker.run(send_id, batch_no)
        thief.join(DEADLINE_S)
        with pytest.raises(ServiceUnavailable):
            worker.run(send_id, batch_no)
        postgres.start()
        mock.set_latency(0)
        world.let_leases_end(send_id)
        worker.run(send_id, batch_no)
        assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
        assert mock.accepted("apns") == every("apns", BATCH)

    def test_a_lease_that_cannot_be_extended_is_lost_and_the_holder_stops(
        self,
        postgres: PostgresServer,
        ledger_url: str,
        app: AppSettings,
        redis_url: str,
        mock: MockProcess,
    ) -> None:
        """Somebody else has the batch before the holder's answers come: it must not write what it found."""
        mock.set_latency(1500)
        with (
            open_world(ledger_url, app, batch_size=BATCH, lease_seconds=2, request_timeout=5) as world,
            open_worker(world, redis_url) as worker,
        ):
            world.empty()
            send_id, batch_no = send_to(world, guarantee="at_least_once")
            taken: list[object] = []

            def take_over() -> None:
                wait_for(lambda: requests_at(mock) > 0)
                world.let_leases_end(send_id)
                taken.append(world.acquire(send_id, batch_no))

            other = threading.Thread(target=take_over)
            other.start()
            step = worker.run(send_id, batch_no)
            other.join(DEADLINE_S)
            assert len(taken) == 1
            assert (step.orders, step.retry_in) == ([], None)
            assert world.totals(send_id) == {"devices": BATCH, "pending": BATCH}
            assert world.states(send_id) == {"running": 1}

    def test_a_long_batch_keeps_its_lease(
        self,
        postgres: PostgresServer,
        ledger_url: str,
        app: AppSettings,
        redis_url: str,
        mock: MockProcess,
    ) -> None:
        mock.set_faults([{"platform": "fcm", "delay_ms": 2800}])
        with (
            open_world(ledger_url, app, batch_size=BATCH, lease_seconds=2, request_timeout=10) as world,
            open_worker(world, redis_url) as worker,
        ):
            world.empty()
            send_id, batch_no = send_to(world, platform="fcm", guarantee="at_most_once")
            attempts: list[object] = []

            def look() -> None:
                wait_for(lambda: requests_at(mock, "fcm") > 0)
                for _ in range(5):
                    time.sleep(0.4)
                    attempts.append(batches.acquire(world.database, send_id, batch_no, 2))

            other = threading.Thread(target=look)
            other.start()
            worker.run(send_id, batch_no)
            other.join(DEADLINE_S)
            assert attempts == [None] * 5
            assert world.totals(send_id) == {"devices": BATCH, "accepted": BATCH}
