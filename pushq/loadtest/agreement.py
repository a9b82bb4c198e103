"""What the ledger says of many sends to the same devices, against what the providers counted. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pushq.ledger.inventory import Ended
from pushq.ledger.outcomes import COLUMNS, Outcome


@dataclass(frozen=True)
class Side:
    """All sends of one guarantee.

    Attributes:
        batches: by kind of send.
        outcomes: recipients by column of the ledger, and ``pending``.
        counted: acceptances at the providers, of the devices that these sends went to.
        missing: recipients that the ledger calls accepted and no provider knows of.
        repeated: acceptances beyond what the ledger calls accepted: repetitions, and answers that were lost.
        doubled: of these, what ``unknown`` does not explain either.
    """

    batches: Mapping[str, int]
    outcomes: Mapping[str, int]
    counted: int
    missing: int
    repeated: int
    doubled: int

    @property
    def recipients(self) -> int:
        return sum(self.outcomes.values())

    def as_json(self) -> dict[str, Any]:
        return {"recipients": self.recipients, **asdict(self)}


@dataclass
class _Sum:
    batches: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    devices: set[int] = field(default_factory=set)
    accepted: Counter[int] = field(default_factory=Counter)
    unknown: Counter[int] = field(default_factory=Counter)

    def add(self, batch: Ended) -> None:
        outcomes = batch.outcomes or bytes(len(batch.device_ids))
        self.batches[batch.kind] += 1
        self.devices.update(batch.device_ids)
        for outcome, column in COLUMNS.items():
            self.outcomes[column] += outcomes.count(outcome)
        self.outcomes["pending"] += outcomes.count(Outcome.PENDING) + outcomes.count(Outcome.CLAIMED)
        for outcome, count in ((Outcome.ACCEPTED, self.accepted), (Outcome.UNKNOWN, self.unknown)):
            if outcomes.count(outcome):
                ended = zip(batch.device_ids, outcomes, strict=True)
                count.update([device for device, found in ended if found == outcome])


def compare(
    batches: Iterable[Ended],
    devices: Mapping[int, tuple[str, str]],
    accepted: Mapping[str, Mapping[str, int]],
) -> dict[str, Side]:
    """By guarantee. A device must have had sends of one guarantee only: the providers do not tell them apart.

    Args:
        devices: platform and token by id.
        accepted: by platform, how often each token was accepted.

    Raises:
        ValueError: a device had sends of both.
    """
    sums: dict[str, _Sum] = {}
    for batch in batches:
        sums.setdefault(batch.guarantee, _Sum()).add(batch)
    if sum(len(each.devices) for each in sums.values()) > len(devices):
        raise ValueError("a device had sends of both guarantees, or is none of those that there are")
    sides = {}
    for guarantee, each in sums.items():
        counted = missing = repeated = doubled = 0
        for device in each.devices:
            platform, token = devices[device]
            rang = accepted[platform].get(token, 0)
            beyond = rang - each.accepted[device]
            counted += rang
            missing += max(-beyond, 0)
            repeated += max(beyond, 0)
            doubled += max(beyond - each.unknown[device], 0)
        sides[guarantee] = Side(dict(each.batches), dict(each.outcomes), counted, missing, repeated, doubled)
    return sides


def disagreements(sides: Mapping[str, Side]) -> list[str]:
    """What must not be, in words; empty when each guarantee held."""
    found = []
    for guarantee, side in sides.items():
        if side.missing:
            found.append(f"{guarantee}: {side.missing} accepted in the ledger, and by no provider")
        if side.outcomes["pending"]:
            found.append(f"{guarantee}: {side.outcomes['pending']} recipients without an end")
        if guarantee == "at_most_once" and side.doubled:
            found.append(f"at_most_once: {side.doubled} delivered again")
        if guarantee == "at_least_once" and side.outcomes["unknown"]:
            found.append(f"at_least_once: {side.outcomes['unknown']} unknown")
    return found
