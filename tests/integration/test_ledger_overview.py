"""The ledger as a whole, as the exporter sees it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushq.ledger import batches, brake
from pushq.ledger.due import requeue
from pushq.ledger.outcomes import Outcome
from pushq.ledger.overview import NEWEST, overview
from pushq.tokens.statistics import estimate_active
from tests.integration.ledger_world import World, bare_app, open_world, shared_database
from tests.services.fixtures import Fleet

#: What a slow machine may add to a time that is compared.
SLACK_S = 60.0


@pytest.fixture(scope="module")
def url(_fleet: Fleet) -> Iterator[str]:
    yield from shared_database(_fleet)


@pytest.fixture
def world(url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(url, bare_app(tmp_path), batch_size=10, release_window=2) as opened:
        opened.empty()
        yield opened


def settle_one(world: World, send_id: uuid.UUID, *, accepted: int, retry_in: float | None = None) -> None:
    """One batch ends with so many accepted; the others of it are dead, or pending with a retry."""
    lease = world.acquire(send_id, world.queued(send_id)[0])
    size = len(lease.outcomes)
    rest = Outcome.TOKEN_DEAD if retry_in is None else Outcome.PENDING
    outcomes = bytes([Outcome.ACCEPTED]) * accepted + bytes([rest]) * (size - accepted)
    settled = batches.settle(
        world.database, lease, outcomes, attempts=bytes([1]) * size, window=2, retry_in=retry_in
    )
    assert settled.ended["accepted"] == accepted
    assert settled.ended["dead"] == (size - accepted if retry_in is None else 0)


def test_an_empty_ledger_has_every_state_at_zero(world: World) -> None:
    found = overview(world.database)
    assert set(found.sends.values()) == {0}
    assert {"scheduled", "sending", "done"} <= set(found.sends)
    assert (found.batches, found.waiting_s, found.broadcasts) == ({}, {}, ())


def test_open_broadcasts_by_platform_and_outcome(world: World) -> None:
    world.add_devices("apns", 1000)
    world.add_devices("fcm", 5, first=5000)
    send_id = world.send(audience={"segments": ["all"]})
    settle_one(world, send_id, accepted=7)
    counts = world.progress(send_id).platforms
    (send,) = overview(world.database).broadcasts
    assert (send.id, send.app) == (send_id, "shop")
    assert send.pending == {platform: row["pending"] for platform, row in counts.items()}
    assert send.outcomes["apns"]["accepted"] + send.outcomes["fcm"]["accepted"] == 7
    assert send.eta_s is not None
    assert send.eta_s > 0
    found = overview(world.database)
    states = world.states(send_id)
    for state in ("planned", "queued"):
        assert sum(n for (_, of), n in found.batches.items() if of == state) == states[state]
    assert found.sends["sending"] == 1


def test_a_paused_broadcast_has_no_time_left_and_its_batches_do_not_wait(world: World) -> None:
    world.add_devices("fcm", 30)
    send_id = world.send(audience={"segments": ["all"]})
    settle_one(world, send_id, accepted=1)
    world.let_time_pass(send_id, 50)
    assert overview(world.database).waiting_s["fcm"] > 40
    with world.database.begin() as connection:
        brake.pause(connection, send_id)
    found = overview(world.database)
    assert found.waiting_s["fcm"] == 0
    assert found.broadcasts[0].eta_s is None
    assert found.sends["paused"] == 1


def test_a_batch_waits_from_its_first_publication_on(world: World) -> None:
    world.add_devices("fcm", 1)
    send_id = world.send(audience={"segments": ["all"]})
    assert 0 <= overview(world.database).waiting_s["fcm"] < SLACK_S
    waited = 0.0
    # Each round: nobody takes the message, the sweeper publishes it again, as late as it may.
    for after in (30, 60, 120, 240, 480, 960, 960, 960):
        world.let_time_pass(send_id, after)
        waited += after
        assert waited <= overview(world.database).waiting_s["fcm"] < waited + SLACK_S
        with world.database.begin() as connection:
            assert len(requeue(connection, 10)) == 1
        assert waited - 1 <= overview(world.database).waiting_s["fcm"] < waited + SLACK_S


def test_one_that_a_worker_has_does_not_wait_and_one_it_lost_does(world: World) -> None:
    world.add_devices("fcm", 1)
    send_id = world.send(audience={"segments": ["all"]})
    world.let_time_pass(send_id, 50)
    world.acquire(send_id, world.queued(send_id)[0])
    assert overview(world.database).waiting_s["fcm"] == 0
    world.let_time_pass(send_id, 100)
    assert overview(world.database).waiting_s["fcm"] > 60


def test_a_retry_waits_from_its_time_on(world: World) -> None:
    world.add_devices("fcm", 1)
    send_id = world.send(audience={"segments": ["all"]})
    settle_one(world, send_id, accepted=0, retry_in=300)
    assert overview(world.database).waiting_s["fcm"] == 0
    world.let_time_pass(send_id, 400)
    assert 90 < overview(world.database).waiting_s["fcm"] < 100 + SLACK_S


def test_transactional_sends_have_no_series_of_their_own_and_broadcasts_only_so_many(world: World) -> None:
    world.add_devices("fcm", 1)
    world.send(kind="transactional", audience={"user_ids": [1]})
    newest = [world.send(audience={"segments": ["all"]}) for _ in range(NEWEST + 1)]
    found = overview(world.database)
    assert [send.id for send in found.broadcasts] == newest[:0:-1]
    assert found.sends["sending"] == NEWEST + 2


def test_active_tokens_exact_and_from_a_sample(world: World) -> None:
    world.add_devices("apns", 3000)
    world.add_devices("fcm", 20_000, first=10_000)
    world.change(
        "UPDATE device_tokens SET is_active = false, deactivated_at = now() WHERE platform = 'apns' AND user_id <= 500"
    )
    assert estimate_active(world.database) == {("shop", "apns"): 2500, ("shop", "fcm"): 20_000}
    # Every other block or so; the bounds are far beyond any luck with some hundred blocks.
    sampled = estimate_active(world.database, blocks=200)
    assert sampled != {("shop", "apns"): 2500, ("shop", "fcm"): 20_000}
    assert 10_000 < sampled["shop", "fcm"] < 40_000
