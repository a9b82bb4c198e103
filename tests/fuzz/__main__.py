"""Let random peers loose on the HTTP/2 core for some minutes:  python -m tests.fuzz --minutes 10

Every round has a seed. A finding is printed as Hypothesis has reduced it, with the command that shows it again; exit code 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.peer import SETUPS, Play, Setup, Step, steps

EXAMPLES_PER_ROUND = 2_000


def play_round(number: int, tally: Counter[str]) -> None:
    """One round: ``EXAMPLES_PER_ROUND`` examples from this seed."""

    @seed(number)
    @settings(
        max_examples=EXAMPLES_PER_ROUND,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(wild=st.booleans(), setup=SETUPS, data=st.data())
    def one(wild: bool, setup: Setup, data: st.DataObject) -> None:
        chosen: list[Step] = data.draw(steps(wild=wild))
        tally["examples"] += 1
        tally["steps"] += len(chosen)
        play = Play(setup, wild=wild)
        play.run(chosen)
        tally["violations"] += not play.alive

    run: Callable[[], None] = one
    run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=...", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--seed", type=int, help="only the round with this seed")
    options = parser.parse_args()
    tally: Counter[str] = Counter()
    began = time.monotonic()
    while True:
        number = options.seed if options.seed is not None else random.randrange(2**32)
        sys.stdout.write(f"seed {number} ... ")
        sys.stdout.flush()
        try:
            play_round(number, tally)
        except BaseException:
            sys.stdout.write(f"a finding. Again: make fuzz ARGS='--seed {number}'\n")
            sys.stdout.flush()
            raise
        spent = time.monotonic() - began
        sys.stdout.write(
            f"{tally['examples']:,} examples, {tally['steps']:,} steps, {tally['violations']:,} peers closed by name, "
            f"{spent / 60:.1f} minutes\n"
        )
        sys.stdout.flush()
        if options.seed is not None or spent >= options.minutes * 60:
            return 0


if __name__ == "__main__":
    sys.exit(main())
