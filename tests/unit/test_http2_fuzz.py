"""A short run of the random peers; ``make fuzz`` runs long."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.peer import SETUPS, Play, Setup, steps


@pytest.mark.parametrize("wild", [False, True], ids=["legal", "wild"])
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(setup=SETUPS, data=st.data())
def test_nothing_breaks_and_nothing_leaks(wild: bool, setup: Setup, data: st.DataObject) -> None:
    """A legal peer is never closed; whatever comes, every request ends once and nothing is left in the books."""
    Play(setup, wild=wild).run(data.draw(steps(wild=wild)))
