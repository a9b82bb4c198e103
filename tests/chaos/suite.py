"""Many cases on several brokers: one site for each broker, Redis beside the others, because most of the time is spent waiting."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.rounds import play
from tests.chaos.servers import BrokerKind
from tests.chaos.site import Site, say
from tests.chaos.stage import Case, Row, perform


def run(
    cases: Sequence[Case],
    brokers: Sequence[BrokerKind],
    guarantees: Sequence[str],
    *,
    rounds: int,
    seed: int,
    settings: Mapping[str, str] | None = None,
    logs: Path | None = None,
) -> list[Row]:
    """Carry out every case on those of its brokers that are asked for, and the rounds, shared by all brokers.

    Args:
        settings: PUSHQ_ variables for all processes, beyond those of a case.
        logs: folder in which what the processes log is kept.
    """
    rows: dict[str, list[Row]] = {broker: [] for broker in brokers}
    errors: list[BaseException] = []
    lanes = [[b for b in brokers if b == "redis"], [b for b in brokers if b != "redis"]]

    def on(kind: BrokerKind, into: list[Row]) -> None:
        mine = [case for case in cases if kind in case.brokers]
        share = rounds // len(brokers) + (brokers.index(kind) < rounds % len(brokers))
        if not mine and not share:
            return
        say(f"{kind}: starting servers")
        with Site(kind, None if logs is None else logs / kind, settings) as site:
            for case in mine:
                into += perform(case, site, guarantees)
            if share:
                into += play(site, share, seed, guarantees)

    def lane(kinds: Sequence[BrokerKind]) -> None:
        try:
            for kind in kinds:
                on(kind, rows[kind])
        except BaseException as exc:  # noqa: BLE001 - carried over to the caller's thread
            errors.append(exc)

    # Daemons: after Ctrl-C the process ends at once, and the sandboxes' guardians clean up.
    threads = [threading.Thread(target=lane, args=(kinds,), daemon=True) for kinds in lanes if kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [row for broker in brokers for row in rows[broker]]
