"""The guard of the tokens in one process: records how providers answered, rules, counts, and says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import redis

from pushq import metrics
from pushq.app_settings import AppSettings
from pushq.limits.evidence import EvidenceStore
from pushq.limits.guard import Counts, Evidence, Ruling, overwhelming, rule

log = logging.getLogger("pushq.limits")


class TokenGuard:
    """Rules on guarded rejections, batch by batch. Never raises for want of Redis: without proof tokens are kept.

    Args:
        client: a Redis client with time-outs.
        clock: the time in seconds since 1970.
    """

    def __init__(
        self,
        apps: Mapping[str, AppSettings],
        client: redis.Redis,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = EvidenceStore(apps, client, clock=clock)
        #: Of whom the alert is known to be off; whoever is not among them is looked up before it is cleared.
        self._calm: set[tuple[str, str]] = set()

    def judge(self, app: str, platform: str, counts: Counts, *, broadcast: bool, trusted: bool) -> Ruling:
        """Take note of a batch's answers, and rule on its guarded rejections (see :func:`pushq.limits.guard.rule`).

        Raises:
            KeyError: the app has no settings for the platform.
        """
        if not counts.answered:
            return Ruling.BELIEVE
        if trusted:
            # What an operator calls right speaks neither for the set-up nor against it.
            counts = Counts(counts.answered - counts.guarded, counts.accepted, 0)
        evidence = self._evidence(app, platform, counts)
        ruling = rule(counts, evidence, broadcast=broadcast, trusted=trusted)
        condemned = ruling is Ruling.HOLD or (
            evidence is not None and overwhelming(evidence.counts) and counts.accepted == 0
        )
        if condemned:
            self._calm.discard((app, platform))
            metrics.mass_invalidation_held.labels(app, platform).set(1)
            metrics.mass_invalidation_holds.labels(app, platform).inc()
            log.error(
                "mass_invalidation_held",
                extra={"app": app, "platform": platform, "tokens": counts.guarded, "ruling": str(ruling)},
            )
        elif counts.accepted and (app, platform) not in self._calm and not self._condemned(app, platform):
            # One batch that works is not enough: the next scrape would find nothing of what the others met.
            self._calm.add((app, platform))
            metrics.mass_invalidation_held.labels(app, platform).set(0)
        if ruling in (Ruling.KEEP, Ruling.AGAIN):
            metrics.guarded_unproven.labels(app, platform).inc(counts.guarded)
        return ruling

    def _condemned(self, app: str, platform: str) -> bool:
        """Whether the fleet's answers condemn the set-up; so they may as long as Redis does not say."""
        try:
            return overwhelming(self._store.read(app, platform).counts)
        except redis.RedisError:
            return True

    def _evidence(self, app: str, platform: str, counts: Counts) -> Evidence | None:
        try:
            self._store.record(app, platform, counts)
            return self._store.read(app, platform) if counts.guarded else Evidence(counts)
        except redis.RedisError as exc:
            if counts.guarded:
                log.warning(
                    "guard_without_evidence",
                    extra={"app": app, "platform": platform, "error": type(exc).__name__},
                )
            return None
