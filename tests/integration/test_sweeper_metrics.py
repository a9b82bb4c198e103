"""What the sweeper finds is seen in the very first sweep of a process: that may be the one after all workers have died."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pushq import metrics
from pushq.ledger import sweeper
from pushq.settings import load
from pushq.tasks.runtime import Runtime
from tests.integration.ledger_world import World


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    """Nothing has been counted yet."""
    metrics.sweeper.clear()
    yield
    metrics.sweeper.clear()


def actions() -> dict[str, float]:
    (family,) = metrics.sweeper.collect()
    return {
        sample.labels["action"]: sample.value for sample in family.samples if sample.name.endswith("_total")
    }


def test_a_core_worker_begins_with_every_action_at_zero(
    tmp_path: Path, ledger_url: str, redis_url: str
) -> None:
    file = tmp_path / "pushq.toml"
    file.write_text(
        '[apps.shop.hms]\napp_id = "1"\napi = "v1"\nclient_id = "1"\nclient_secret_file = "secret"\n'
    )
    (tmp_path / "secret").write_text("no secret")
    settings = load(
        {
            "PUSHQ_CONFIG": str(file),
            "PUSHQ_DATABASE_URL": ledger_url,
            "PUSHQ_REDIS_URL": redis_url,
            "PUSHQ_BROKER_URL": "redis://localhost:1/0",  # nothing is published here
        }
    )
    with closing(Runtime(settings)):
        assert actions() == dict.fromkeys(metrics.SWEEPS, 0)


def test_these_are_all_that_a_sweep_counts(world: World) -> None:
    sweeper.sweep(world.database, world.settings)
    assert actions().keys() == set(metrics.SWEEPS)
