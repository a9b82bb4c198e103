"""One case on one site: both guarantees under the same fault, from the call to the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pushq.errors import ServiceUnavailable
from tests.chaos.crew import CrewError
from tests.chaos.servers import BROKERS, BrokerKind
from tests.chaos.site import GUARANTEES, PROCESSES, ChaosError, Cohort, Site, say
from tests.chaos.verdict import Verdict, judge

#: Every send must have ended so long after its fault's end. What takes longer is recorded, and is a problem.
RECOVERY_LIMIT_S: Final = 60.0
#: Then a case gives up.
PATIENCE_S: Final = 180.0
DEVICES: Final = 3000


@dataclass
class Fault:
    """What a case did.

    Attributes:
        ended: when everything was there again (time.monotonic); for a kill, the kill itself.
        in_flight: by guarantee, what kills left open: the bound for duplicates (at_least_once) and for unknown (at_most_once).
            Empty where no worker is killed: then nothing may be repeated, and nothing be unknown.
        problems: what the case itself found wrong.
        notes: figures worth a line.
    """

    ended: float
    in_flight: Mapping[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """A fault and what it needs.

    Attributes:
        settings: where the case departs from the product's defaults.
        may_fail: the providers refuse some, so that living tokens may end in a failure.
        cuts_off: the fault kills workers in mid-batch; when it met nothing under way, the case shows nothing, and fails.
    """

    name: str
    title: str
    inflict: Callable[[Stage], Fault]
    brokers: tuple[BrokerKind, ...] = BROKERS[:2]
    settings: Mapping[str, str] = field(default_factory=dict)
    devices: int = DEVICES
    may_fail: bool = False
    cuts_off: bool = False
    recovery_limit_s: float = RECOVERY_LIMIT_S


#: How often a fault is inflicted until it meets something, and how the problem begins that says it did not.
TRIES: Final = 3
MET_NOTHING: Final = "the fault met nothing"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    title: str
    broker: str
    guarantee: str
    verdict: Verdict
    in_flight: int
    recovery_s: float | None
    notes: list[str]

    @property
    def held(self) -> bool:
        return not self.verdict.problems


@dataclass
class Stage:
    """What a case works with."""

    site: Site
    cohorts: list[Cohort]
    #: By guarantee: recipients that were still to be reached when the fault had struck, the first time if it strikes several times.
    to_do: dict[str, int] = field(default_factory=dict)

    def strike(self) -> None:
        """The fault has struck: note how much of the sends was still to be done."""
        for cohort in self.cohorts:
            self.to_do.setdefault(cohort.guarantee, self.site.unreached(cohort))

    def send(self) -> None:
        self.site.broadcast(*self.cohorts)

    def send_and_meet(self, share: float = 0.25) -> None:
        """Send, and come back when so much of it has been accepted."""
        self.send()
        self.site.until_share(self.cohorts, share)

    def in_flight(
        self, platforms: Sequence[str] = ("apns", "fcm"), *, journal: bool = True
    ) -> dict[str, int]:
        """What killed (or stopped) workers left open: what may be repeated, or be unknown."""
        self.strike()
        may_repeat = [cohort for cohort in self.cohorts if cohort.guarantee == "at_least_once"]
        found = {
            cohort.guarantee: self.site.claimed(cohort, platforms, journal=journal)
            for cohort in self.cohorts
            if cohort.guarantee == "at_most_once"
        }
        counts = self.site.in_flight(may_repeat, platforms, journal=journal)
        return found | {cohort.guarantee: count for cohort, count in zip(may_repeat, counts, strict=True)}


def perform(
    case: Case, site: Site, guarantees: Sequence[str] = GUARANTEES, *, devices: int | None = None
) -> list[Row]:
    """Carry a case out; one row for each guarantee. A case that could not be carried out gives rows that say so.

    A fault that met nothing has shown nothing: it is inflicted again, up to three times in all. Whatever else is wrong stays.
    """
    for _ in range(TRIES - 1):
        rows = _perform(case, site, guarantees, devices)
        problems = [problem for row in rows for problem in row.verdict.problems]
        if not problems or not all(MET_NOTHING in problem for problem in problems):
            return rows
        say(f"     {case.name:4} {site.kind:8} again: {problems[0]}")
    return _perform(case, site, guarantees, devices)


def _perform(case: Case, site: Site, guarantees: Sequence[str], devices: int | None) -> list[Row]:
    began = time.monotonic()
    cohorts: list[Cohort] = []
    try:
        site.ready(case.settings)
        site.mock.reset()
        site.mock.set_latency(300.0)
        cohorts = [site.cohort(guarantee, devices or case.devices) for guarantee in guarantees]
        stage = Stage(site, cohorts)
        fault = case.inflict(stage)
        # Looked at before anything is started again: what ends by itself has not recovered unaided.
        fault.problems += site.crew.ended()
        site.crew.heal([*PROCESSES])
        end = site.await_finished(cohorts, max(fault.ended, began) + PATIENCE_S)
        fault.problems += site.crew.ended()
        for cohort in cohorts:
            if not stage.to_do.get(cohort.guarantee):
                fault.problems.append(
                    f"{MET_NOTHING} in the send {cohort.guarantee}: it had reached everybody"
                )
        rows = [row_of(case.name, case.title, site, cohort, fault, end, case) for cohort in cohorts]
    except (ChaosError, CrewError, ServiceUnavailable) as exc:
        site.servers.heal()
        rows = [
            Row(
                case.name,
                case.title,
                site.kind,
                guarantee,
                Verdict(0, 0, 0, 0, 0, 0, 0, [f"not carried out: {exc}"]),
                0,
                None,
                [],
            )
            for guarantee in guarantees
        ]
    for cohort in cohorts:
        site.forget(cohort)
    for row in rows:
        verdict = row.verdict
        say(
            f"{'ok  ' if row.held else 'FAIL'} {case.name:4} {site.kind:8} {row.guarantee:13} sent {verdict.sent}"
            f" accepted {verdict.accepted} lost {verdict.lost} duplicated {verdict.duplicated} of {row.in_flight}"
            f" unknown {verdict.unknown} failed {verdict.failed} recovery {seconds(row.recovery_s)}"
            f" ({time.monotonic() - began:.0f} s) {'; '.join([*verdict.problems, *row.notes])}"
        )
    return rows


def row_of(
    name: str,
    title: str,
    site: Site,
    cohort: Cohort,
    fault: Fault,
    end: float | None,
    case: Case | None = None,
) -> Row:
    """What came of one send."""
    in_flight = fault.in_flight.get(cohort.guarantee, 0)
    at_most_once = cohort.guarantee == "at_most_once"
    verdict = judge(
        cohort.tokens,
        site.batches(cohort),
        site.provider_counts(),
        at_most_once=at_most_once,
        in_flight=in_flight,
        may_fail=case is not None and case.may_fail,
    )
    recovery = None if end is None else max(0.0, end - fault.ended)
    limit = RECOVERY_LIMIT_S if case is None else case.recovery_limit_s
    if recovery is None:
        verdict.problems.append("did not end in time")
    elif recovery > limit:
        verdict.problems.append(f"recovery took more than {limit:g} s")
    if case is not None and case.cuts_off and in_flight == 0:
        verdict.problems.append(f"{MET_NOTHING} under way")
    verdict.problems.extend(fault.problems)
    return Row(name, title, site.kind, cohort.guarantee, verdict, in_flight, recovery, fault.notes)


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
