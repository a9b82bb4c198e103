"""Recipients that a stop ends, and tokens that are taken out of use, as the metrics count them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pushq import metrics
from pushq.ledger import batches, brake
from pushq.ledger.batches import DeadLetter
from pushq.ledger.outcomes import Outcome
from pushq.tokens import Device, deactivate_unseen, invalidate_from_dead_letters, register, unregister
from tests.integration.counted import Counted
from tests.integration.ledger_world import APP, World, bare_app, open_world, shared_database
from tests.services.fixtures import Fleet


@pytest.fixture(scope="module")
def url(_fleet: Fleet) -> Iterator[str]:
    yield from shared_database(_fleet)


@pytest.fixture
def world(url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(url, bare_app(tmp_path), batch_size=10, release_window=2) as opened:
        opened.empty()
        yield opened


def deactivated(reason: str) -> Counted:
    return Counted("push_tokens_deactivated_total", app=APP, platform="fcm", reason=reason)


def test_a_stop_counts_whom_it_ends_by_what_is_known_of_them(world: World) -> None:
    world.add_devices("fcm", 500)
    send_id = world.send(audience={"segments": ["all"]})
    (held, lost) = world.queued(send_id)
    settled = world.acquire(send_id, held)
    size = len(settled.outcomes)
    world.acquire(send_id, lost)  # its worker will never be heard of again
    lane = {"app": APP, "platform": "fcm", "lane": "broadcast"}
    cancelled = Counted("push_failed_total", **lane, reason="cancelled")
    unknown = Counted("push_failed_total", **lane, reason="unknown")
    letters = Counted("push_dead_letters_total", app=APP, platform="fcm", reason="unknown")
    with world.database.begin() as connection:
        assert brake.stop(connection, send_id, state="cancelled", error=None)
    outcomes = bytes([Outcome.ACCEPTED]) + bytes(size - 1)
    result = batches.settle(
        world.database, settled, outcomes, attempts=bytes([1]) + bytes(size - 1), window=2, retry_in=5.0
    )
    assert (result.ended["accepted"], result.ended["cancelled"]) == (1, size - 1)
    world.let_leases_end(send_id)
    with world.database.begin() as connection:
        assert (
            brake.end_batches(
                connection, "o.send_id = :id AND o.state = 'running' FOR UPDATE OF o", id=send_id
            )
            == 1
        )
    totals = world.totals(send_id)
    assert cancelled.more == totals["cancelled"] - (size - 1)
    assert unknown.more == letters.more == totals["unknown"] > 0


def test_tokens_that_a_provider_calls_dead(world: World) -> None:
    world.add_devices("fcm", 4)
    send_id = world.send(kind="transactional", audience={"user_ids": [1, 2, 3, 4]})
    lease = world.acquire(send_id, world.queued(send_id)[0])
    since = datetime.now(UTC)
    batches.settle(
        world.database,
        lease,
        bytes([Outcome.TOKEN_DEAD] * 4),
        attempts=bytes([1] * 4),
        window=2,
        retry_in=None,
        dead=[
            DeadLetter(position, Outcome.TOKEN_DEAD, 404, "UNREGISTERED", since if position < 3 else None)
            for position in range(4)
        ],
    )
    dead = deactivated("token_dead")
    assert invalidate_from_dead_letters(world.database, send_id, lease.batch_no).invalidated == 3
    assert dead.more == 3
    invalidate_from_dead_letters(world.database, send_id, lease.batch_no)
    assert dead.more == 3


def test_tokens_that_move_end_or_are_not_seen(world: World) -> None:
    moved, gone, unseen = deactivated("moved"), deactivated("unregistered"), deactivated("unseen")
    for user_id in (1, 2):
        register(world.database, Device(user_id=user_id, app=APP, platform="fcm", token="t" * 40))
    assert unregister(world.database, app=APP, platform="fcm", token="t" * 40) == 1
    world.add_devices("fcm", 5, first=10)
    world.change(
        "UPDATE device_tokens SET last_seen = :then WHERE user_id > 11",
        then=datetime.now(UTC) - timedelta(days=9),
    )
    assert deactivate_unseen(world.database, "fcm", 8, limit=2) == 3
    assert (moved.more, gone.more, unseen.more) == (1, 1, 3)
    reasons = {
        row[0]
        for row in world.rows("SELECT DISTINCT deactivation_reason FROM device_tokens WHERE NOT is_active")
    }
    assert reasons <= set(metrics.DEACTIVATIONS)
