"""A lease that could not be extended for its whole length counts as lost."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pushq.database import Database
from pushq.delivery import leases
from pushq.delivery.leases import LeaseKeeper
from pushq.errors import ServiceUnavailable
from pushq.ledger.batches import Lease
from tests.integration.test_delivery_faults import wait_for

SECONDS = 0.3


@pytest.fixture
def keeper() -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(cast("Database", None), SECONDS)
    yield keeper
    keeper.close()


def lease() -> Lease:
    return Lease(uuid.uuid4(), 1, "apns", uuid.uuid4(), [1], [1], bytes(1), bytes(1), 1, interrupted=False)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_lease_is_lost_when_postgresql_is_away_for_all_of_it(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    done = threading.Event()

    def extend(*_: Any) -> None:
        if hangs:
            done.wait(5)
        raise ServiceUnavailable("PostgreSQL", "is away", "wait")

    monkeypatch.setattr(leases, "extend", extend)
    with keeper.hold(lease()) as held:
        assert not held.lost
        wait_for(lambda: held.lost)
    done.set()


def test_a_lease_that_is_extended_lives(keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "extend", lambda *_: None)
    with keeper.hold(lease()) as held:
        assert not threading.Event().wait(3 * SECONDS)
        assert not held.lost
