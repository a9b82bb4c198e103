"""``python -m tests.chaos``: all fault cases, counted at the mock providers; prints the table and writes RESULTS.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos import report
from tests.chaos.cases import CASES, matching
from tests.chaos.rounds import ROUNDS
from tests.chaos.servers import BROKERS
from tests.chaos.site import GUARANTEES, ChaosError, say
from tests.chaos.suite import run

ROUNDS_CASE = "17"


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = parse(given)
    began = time.monotonic()
    try:
        cases = matching([name for name in arguments.cases if name != ROUNDS_CASE])
    except ChaosError as exc:
        sys.stderr.write(f"{exc}, {ROUNDS_CASE}\n")
        return 2
    rounds = arguments.rounds if ROUNDS_CASE in arguments.cases else 0
    rows = report.ordered(
        run(
            cases,
            arguments.broker,
            arguments.guarantee,
            rounds=rounds,
            seed=arguments.seed,
            logs=arguments.logs,
        )
    )
    seconds = time.monotonic() - began
    if arguments.json:
        for row in rows:
            sys.stdout.write(json.dumps(asdict(row) | {"held": row.held}) + "\n")
    else:
        sys.stdout.write(report.table(rows) + "\n")
    if arguments.write or not given:
        report.write(
            rows, "make chaos" + (f" ARGS='{' '.join(given)}'" if given else ""), arguments.seed, seconds
        )
    failed = [row for row in rows if not row.held]
    say(f"{len(rows)} rows, {len(failed)} with problems, {seconds:.0f} s")
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = [*dict.fromkeys(one.name.rstrip("abcde") for one in CASES), ROUNDS_CASE]
    parser.add_argument(
        "--cases", type=_list, default=names, help="numbers, such as 1,9a,17; default: all of 1 to 18"
    )
    parser.add_argument("--broker", type=_list, default=list(BROKERS), help=f"some of {', '.join(BROKERS)}")
    parser.add_argument("--guarantee", type=_list, default=list(GUARANTEES))
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="rounds of case 17 in all, shared by the brokers"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object per row instead of a table")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md even of a part")
    parser.add_argument("--logs", type=Path, help="keep what the processes log, in this folder")
    arguments = parser.parse_args(argv)
    for name, allowed in (("broker", BROKERS), ("guarantee", GUARANTEES)):
        for value in getattr(arguments, name):
            if value not in allowed:
                parser.error(f"--{name}: found {value!r}; expected some of {', '.join(allowed)}")
    if not 0 <= arguments.rounds <= 1000:
        parser.error(f"--rounds: found {arguments.rounds}; expected 0 to 1000")
    return arguments


def _list(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(main())
