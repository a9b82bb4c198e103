"""What a send came to: the ledger's word against the provider's count. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pushq.ledger.outcomes import Outcome

#: A recipient that ended so was surely not delivered to. (EXHAUSTED and EXPIRED may follow an answer that was lost.)
_UNDELIVERED = frozenset(
    {Outcome.TOKEN_DEAD, Outcome.REJECTED, Outcome.SUPPRESSED, Outcome.CANCELLED, Outcome.PENDING}
)
_FAILED = frozenset(
    {Outcome.REJECTED, Outcome.EXHAUSTED, Outcome.EXPIRED, Outcome.SUPPRESSED, Outcome.CANCELLED}
)


@dataclass(frozen=True)
class Batch:
    """One row of the ledger."""

    number: int
    platform: str
    state: str
    device_ids: Sequence[int]
    outcomes: bytes


@dataclass(frozen=True)
class Verdict:
    """Counts of recipients.

    Attributes:
        lost: living tokens without acceptance at the provider and without a final outcome that says so.
        duplicated: acceptances beyond the first of each token.
        unknown: final outcome "may have been delivered".
        failed: final outcomes that say "not delivered" of living tokens.
        open: without a final outcome.
        problems: what must not be, in words; empty when the guarantee held.
    """

    sent: int
    accepted: int
    lost: int
    duplicated: int
    unknown: int
    failed: int
    open: int
    problems: list[str] = field(default_factory=list)


def judge(
    tokens: Mapping[int, str],
    batches: Iterable[Batch],
    accepted: Mapping[str, int],
    *,
    at_most_once: bool,
    dead: Collection[str] = (),
    in_flight: int = 0,
    may_fail: bool = False,
) -> Verdict:
    """Compare.

    Args:
        tokens: the audience, token by device id.
        accepted: how often the provider accepted each token.
        dead: tokens of the audience that the provider calls dead.
        in_flight: what a kill left open. at_least_once: handed over and not yet recorded; duplicates may be so many.
            at_most_once: claimed without an outcome; unknown may be so many.
        may_fail: whether the case makes the provider refuse, so that living tokens may end in a failure.
    """
    outcomes: dict[int, Outcome] = {}
    twice = 0
    for batch in batches:
        for device, outcome in zip(batch.device_ids, batch.outcomes, strict=True):
            twice += device in outcomes
            outcomes[device] = Outcome(outcome)
    counted = {device: accepted.get(token, 0) for device, token in tokens.items()}
    living = {device for device, token in tokens.items() if token not in dead}
    unsaid = {None, Outcome.PENDING, Outcome.CLAIMED, Outcome.ACCEPTED}
    if not at_most_once:
        unsaid |= {Outcome.UNKNOWN}
    lost = sum(counted[device] == 0 and outcomes.get(device) in unsaid for device in living)
    tally = Counter(outcomes.get(device, Outcome.PENDING) for device in tokens)
    result = Verdict(
        sent=len(tokens),
        accepted=sum(times > 0 for times in counted.values()),
        lost=lost,
        duplicated=sum(times - 1 for times in counted.values() if times > 1),
        unknown=tally[Outcome.UNKNOWN],
        failed=sum(outcomes.get(device) in _FAILED for device in living),
        open=tally[Outcome.PENDING] + tally[Outcome.CLAIMED],
    )
    problems = result.problems
    if result.open:
        problems.append(f"{result.open} recipients without a final outcome")
    if result.lost:
        problems.append(f"{result.lost} lost")
    if at_most_once and result.duplicated:
        problems.append(f"{result.duplicated} delivered again")
    if at_most_once and result.unknown > in_flight:
        problems.append(f"{result.unknown} unknown, {in_flight} were claimed")
    if not at_most_once and result.duplicated > in_flight:
        problems.append(f"{result.duplicated} delivered again, {in_flight} were in flight")
    if not at_most_once and result.unknown:
        problems.append(f"{result.unknown} unknown")
    if result.failed and not may_fail:
        problems.append(f"{result.failed} failed though the provider refuses nobody")
    strangers = len(outcomes.keys() - tokens.keys())
    if twice or strangers:
        problems.append(f"planned: {twice} twice, {strangers} strangers")
    lies = sum(counted[device] > 0 and outcomes.get(device) in _UNDELIVERED for device in tokens)
    if lies and not result.open:
        problems.append(f"{lies} were delivered and are said not to be")
    return result
