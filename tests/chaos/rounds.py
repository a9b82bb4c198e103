"""Seeded rounds: in each, two sends and one process killed with -9 at a random moment. Rounds overlap: recovery is met by the next kill."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.crew import CrewError
from tests.chaos.site import PROCESSES, ChaosError, Cohort, Site, say
from tests.chaos.stage import PATIENCE_S, RECOVERY_LIMIT_S, Fault, Row, row_of, seconds
from tests.chaos.verdict import Verdict

#: Rounds of a whole run, shared by the brokers.
ROUNDS: Final = 50
#: Every process kind of pushq, and the application that calls it.
VICTIMS: Final = (*PROCESSES, "caller")
TITLE: Final = "random kills of every process kind"


@dataclass
class Round:
    """One round, as the seed determines it, and what it came to.

    Attributes:
        hit: when a kill last met one of the round's batches, by guarantee.
        ended: when a send had ended, by guarantee.
        in_flight: upper bound of what kills found under way, by guarantee.
        claimed: what at_most_once may not know, by platform, as of its last kill: what earlier ones left is in it.
    """

    number: int
    victim: str
    devices: int
    delay_s: float
    cohorts: list[Cohort] = field(default_factory=list)
    hit: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    claimed: dict[str, int] = field(default_factory=dict)


def draw(seed: int, broker: str, number: int) -> Round:
    """The round of this number: the same for the same seed, so that one can be repeated by itself."""
    chance = random.Random(f"{seed}:{broker}:{number}")
    # By turns, so that 50 rounds hold every kind often enough; the moment is what is random.
    victim = VICTIMS[(number + seed) % len(VICTIMS)]
    latest = 0.05 if victim == "caller" else 4.0
    return Round(number, victim, chance.randrange(200, 2000), chance.uniform(0.0, latest))


def play(
    site: Site, count: int, seed: int, guarantees: Sequence[str], *, limit_s: float = 900.0
) -> list[Row]:
    """Play so many rounds; one row for each guarantee, the sums over all rounds."""
    site.ready()
    site.mock.reset()
    site.mock.set_latency(300.0)
    rounds: list[Round] = []
    began = time.monotonic()
    stopped: str | None = None
    for number in range(count):
        if time.monotonic() - began > limit_s:
            stopped = f"{len(rounds)} of {count} rounds in {limit_s:g} s"
            break
        current = draw(seed, site.kind, number)
        say(
            f"     17   {site.kind:8} seed {seed} round {number + 1}: {current.victim} killed after {current.delay_s:.2f} s,"
            f" {current.devices} devices"
        )
        rounds.append(current)
        current.cohorts = [site.cohort(guarantee, current.devices) for guarantee in guarantees]
        try:
            _strike(site, current, rounds)
        except (ChaosError, CrewError) as exc:
            stopped = f"round {number + 1}: {exc}"
            break
        _note_ends(site, rounds)
    deadline = time.monotonic() + PATIENCE_S
    while not all(len(one.ended) == len(one.cohorts) for one in rounds) and time.monotonic() < deadline:
        _note_ends(site, rounds)
        time.sleep(0.1)
    return [_sum(site, rounds, guarantee, stopped, seed) for guarantee in guarantees]


def _strike(site: Site, current: Round, rounds: Sequence[Round]) -> None:
    if current.victim == "caller":
        # It may have died before the call, after it, or between the two; then the application is started again, and repeats.
        for cohort in current.cohorts:
            site.caller.ask("send_broadcast", **site.arguments(cohort))
        time.sleep(current.delay_s)
        site.kill_caller()
        site.broadcast(*current.cohorts)
        now = time.monotonic()
        current.hit = {cohort.guarantee: now for cohort in current.cohorts}
        return
    site.broadcast(*current.cohorts)
    time.sleep(current.delay_s)
    site.crew.kill(current.victim)
    now = time.monotonic()
    platforms = [current.victim] if current.victim in ("apns", "fcm") else []
    running = _running(site, platforms)
    for one in rounds:
        for cohort in one.cohorts:
            if cohort.guarantee in one.ended:
                continue
            if one is current or cohort.send_id in running:
                one.hit[cohort.guarantee] = now
    if platforms:
        _measure(site, rounds, platforms)
    site.crew.start(current.victim)
    site.crew.await_ready([current.victim])


def _running(site: Site, platforms: Sequence[str]) -> set[uuid.UUID]:
    found = site.scalar(
        "SELECT array_agg(DISTINCT send_id) FROM send_batches WHERE state = 'running' AND platform = ANY(:platforms)",
        platforms=list(platforms),
    )
    return set(found or ())


def _measure(site: Site, rounds: Sequence[Round], platforms: Sequence[str]) -> None:
    unfinished = [
        (one, cohort) for one in rounds for cohort in one.cohorts if cohort.guarantee not in one.ended
    ]
    for one, cohort in unfinished:
        if cohort.guarantee == "at_most_once":
            one.claimed |= {platform: site.claimed(cohort, [platform]) for platform in platforms}
            one.in_flight[cohort.guarantee] = sum(one.claimed.values())
    may_repeat = [(one, cohort) for one, cohort in unfinished if cohort.guarantee == "at_least_once"]
    for (one, cohort), count in zip(
        may_repeat, site.in_flight([cohort for _, cohort in may_repeat], platforms), strict=True
    ):
        one.in_flight[cohort.guarantee] = one.in_flight.get(cohort.guarantee, 0) + count


def _note_ends(site: Site, rounds: Sequence[Round]) -> None:
    for one in rounds:
        for cohort in one.cohorts:
            if cohort.guarantee not in one.ended and site.finished(cohort):
                one.ended[cohort.guarantee] = time.monotonic()


def _sum(site: Site, rounds: Sequence[Round], guarantee: str, stopped: str | None, seed: int) -> Row:
    rows = []
    for one in rounds:
        cohort = next(c for c in one.cohorts if c.guarantee == guarantee)
        if cohort.send_id is None:
            continue
        fault = Fault(one.hit.get(guarantee, cohort.began), one.in_flight)
        row = row_of("17", TITLE, site, cohort, fault, one.ended.get(guarantee))
        row.verdict.problems[:] = [f"round {one.number + 1}: {problem}" for problem in row.verdict.problems]
        rows.append(row)
        site.forget(cohort)
    problems = [problem for row in rows for problem in row.verdict.problems]
    if stopped is not None:
        problems.append(stopped)
    if any(one.cohorts and guarantee not in one.ended for one in rounds):
        problems.append(f"some sends did not end within {PATIENCE_S:g} s of the last round")
    verdicts = [row.verdict for row in rows]
    total = Verdict(
        sent=sum(verdict.sent for verdict in verdicts),
        accepted=sum(verdict.accepted for verdict in verdicts),
        lost=sum(verdict.lost for verdict in verdicts),
        duplicated=sum(verdict.duplicated for verdict in verdicts),
        unknown=sum(verdict.unknown for verdict in verdicts),
        failed=sum(verdict.failed for verdict in verdicts),
        open=sum(verdict.open for verdict in verdicts),
        problems=problems,
    )
    recovery = max((row.recovery_s for row in rows if row.recovery_s is not None), default=None)
    kinds = {name: sum(one.victim == name for one in rounds) for name in VICTIMS}
    killed = ", ".join(f"{times} {name}" for name, times in kinds.items() if times)
    notes = [f"{len(rounds)} rounds, seed {seed}; killed: {killed}; recovery is the longest of them"]
    row = Row("17", TITLE, site.kind, guarantee, total, sum(row.in_flight for row in rows), recovery, notes)
    say(
        f"{'ok  ' if row.held else 'FAIL'} 17   {site.kind:8} {guarantee:13} sent {total.sent} accepted {total.accepted}"
        f" lost {total.lost} duplicated {total.duplicated} of {row.in_flight} unknown {total.unknown}"
        f" longest recovery {seconds(recovery)}, limit {RECOVERY_LIMIT_S:g} {'; '.join(problems)}"
    )
    return row
