"""The gate of one process: permits in lots from the fleet's bucket, so that most questions cost no round trip.

Nothing here raises into delivery: without Redis each process goes on with a share of the limit.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import random as _random
from typing import Final

import redis

from pushq import metrics
from pushq.app_settings import AppSettings, LimitSettings
from pushq.limits.bucket import LOT_LIFE_S, WINDOW_S, Bucket, Limit, limit
from pushq.limits.fleet import Breaker, FleetLimits, Ramp, Reply
from pushq.limits.grant import Grant

log = logging.getLogger("pushq.limits")

#: A pause that a provider asks of everybody is not longer than this; the recipients' own waits are.
HOLD_CEILING_S: Final = 600.0
#: A fleet that was idle begins with this share of its limit, or with this many requests per second if that is more.
RAMP_FLOOR: Final = 0.1
RAMP_FLOOR_RATE: Final = 100.0
#: For the client that is given to the gate: a question takes less than a millisecond, what takes this long is stuck.
REDIS_CONNECT_TIMEOUT_S: Final = 0.5
REDIS_TIMEOUT_S: Final = 1.0
#: After Redis failed, it is asked again after this.
REDIS_RETRY_S: Final = 1.0
#: How often a process tells the breaker of requests that were answered.
REPORT_S: Final = 0.2
_KEPT_PURSES: Final = 512


@dataclass
class _Purse:
    """Permits of one lane, and of one send where it has its own rate."""

    rate: int | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    permits: float = 0
    void_at: float = 0.0
    dry_until: float = 0.0
    dry_reason: str = "rate"
    spent: int = 0
    filled_at: float = 0.0
    local: Bucket | None = None


@dataclass
class _Target:
    """One app and platform: its limit, and what this process knows of it."""

    app: str
    platform: str
    name: str
    settings: LimitSettings
    limit: Limit | None
    ramp: Ramp
    purses: dict[tuple[bool, uuid.UUID | None], _Purse] = field(default_factory=dict)
    held_until: float = 0.0
    answered: int = 0
    failed: int = 0
    reported_at: float = -math.inf

    @property
    def labels(self) -> tuple[str, str]:
        return self.app, self.platform


class FleetGate:
    """See :class:`pushq.delivery.gate.Gate`. Safe for many threads or greenlets.

    Args:
        apps: the settings by app; only their limits are read.
        client: with short time-outs: :meth:`ask` waits as long as they let it.
        clock: seconds, monotonic.
        random: from [0, 1).
    """

    def __init__(
        self,
        apps: Mapping[str, AppSettings],
        client: redis.Redis,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random,
    ) -> None:
        self._fleet = FleetLimits(client)
        self._clock, self._random = clock, random
        self._lock = threading.Lock()
        self._redis_again_at: float | None = None
        #: Without Redis, by the name of the limit: apps that share it share what this process may send.
        self._local_buckets: dict[str, Bucket] = {}
        self._targets: dict[tuple[str, str], _Target] = {}
        self.configure(apps)

    def configure(self, apps: Mapping[str, AppSettings]) -> None:
        """Go by these limits from now on. Apps that are gone keep theirs: their batches may still be running."""
        with self._lock:
            for target in (each for name, app in apps.items() for each in _targets(name, app)):
                known = self._targets.get((target.app, target.platform))
                if known is None or known.name != target.name or not _same_limits(known, target):
                    self._targets[target.app, target.platform] = target
                    self._local_buckets.pop(target.name, None)

    def ask(
        self, app: str, platform: str, *, transactional: bool, send_id: uuid.UUID, rate: int | None, want: int
    ) -> Grant:
        """Permits for up to ``want`` requests; waits for nothing but one answer of Redis.

        Raises:
            KeyError: the app has no settings for the platform.
            ValueError: want or rate is below 1.
        """
        if want < 1 or (rate is not None and rate < 1):
            raise ValueError(f"want and rate begin at 1, found {want} and {rate}")
        target = self._targets[app, platform]
        grant = self._ask(target, transactional, send_id, rate, want)
        if grant.permits == 0:
            metrics.rate_limit_wait_seconds.labels(*target.labels, grant.reason).inc(grant.wait_s)
        return grant

    def _ask(
        self, target: _Target, transactional: bool, send_id: uuid.UUID, rate: int | None, want: int
    ) -> Grant:
        self._flush(target)
        now = self._clock()
        if now < target.held_until:
            return Grant(0, target.held_until - now, "retry_after")
        purse = self._purse(target, transactional, send_id, rate)
        # One at a time: who waited finds the purse filled or known to be dry.
        with purse.lock:
            now = self._clock()
            if purse.permits >= 1 and now < purse.void_at:
                return _spend(purse, want)
            if now < purse.dry_until:
                return Grant(0, purse.dry_until - now, purse.dry_reason)
            if self._may_ask_redis(now):
                send = None if rate is None else (send_id, limit(rate * WINDOW_S))
                try:
                    reply = self._fleet.ask(
                        target.name,
                        _lot(target, purse, want, now),
                        limit=target.limit,
                        ramp=target.ramp,
                        transactional=transactional,
                        send=send,
                    )
                except redis.RedisError as exc:
                    self._redis_failed(exc)
                else:
                    self._redis_answered()
                    return self._fill(target, purse, reply, want, now)
            return self._local(target, purse, transactional, rate, want)

    def _fill(self, target: _Target, purse: _Purse, reply: Reply, want: int, asked_at: float) -> Grant:
        metrics.breaker_state.labels(*target.labels).set(reply.breaker)
        if reply.probe:
            log.info("breaker_probe", extra={"app": target.app, "platform": target.platform})
            return Grant(1, probe=True)
        if reply.permits == 0:
            purse.permits = 0
            purse.dry_until = self._clock() + reply.wait_s
            purse.dry_reason = reply.reason
            return Grant(0, max(reply.wait_s, 0.001), reply.reason)
        # From before the question: the permits were issued later than that, so none is spent too late.
        purse.void_at = asked_at + LOT_LIFE_S
        purse.filled_at, purse.spent = asked_at, 0
        unlimited = target.limit is None and purse.rate is None
        purse.permits = math.inf if unlimited else reply.permits
        return _spend(purse, want)

    def _local(
        self, target: _Target, purse: _Purse, transactional: bool, rate: int | None, want: int
    ) -> Grant:
        metrics.rate_limit_local.labels(*target.labels).inc()
        share = target.settings.local_share
        now = self._clock()
        if rate is not None:
            if purse.local is None:
                purse.local = Bucket(limit(max(rate * share, 1.0) * WINDOW_S), now)
            want, wait = purse.local.take(now, want, transactional=True)
            if want == 0:
                return Grant(0, max(wait, 0.001), "send_rate")
        if target.limit is None:
            return Grant(want)
        with self._lock:
            bucket = self._local_buckets.get(target.name)
            if bucket is None:
                of = target.settings.rate_per_minute
                assert of != "unlimited"
                bucket = self._local_buckets[target.name] = Bucket(
                    limit(max(of * share, WINDOW_S), target.settings.transactional_share), now
                )
            permits, wait = bucket.take(now, want, transactional=transactional)
        return Grant(permits) if permits else Grant(0, max(wait, 0.001), "rate")

    def report(
        self, app: str, platform: str, *, answered: int, failed: int, probe: bool | None = None
    ) -> None:
        """For the breaker: ``answered`` other than 5xx, and ``failed``: 5xx, no answer, no connection. Disjoint.

        ``probe``: what came of a probe. Only that decides: what was sent before the breaker opened may time out long after.
        """
        target = self._targets[app, platform]
        with self._lock:
            target.answered += answered
            target.failed += failed
        self._flush(target, probe)

    def _flush(self, target: _Target, probe: bool | None = None) -> None:
        now = self._clock()
        with self._lock:
            answered, failed = target.answered, target.failed
            if probe is not None:
                # The breaker is not closed: of the others it wants to hear nothing.
                answered, failed = int(probe), int(not probe)
            if not answered and not failed:
                return
            # Failures are told at once: a batch that ends with them may be the last to report for long.
            if not failed and probe is None and now - target.reported_at < REPORT_S:
                return
            if not self._may_ask_redis(now):
                return
            target.answered = target.failed = 0
            target.reported_at = now
        try:
            reply = self._fleet.report(
                target.name,
                answered=answered,
                failed=failed,
                probed=probe is not None,
                share=target.settings.breaker_share,
                minimum=target.settings.breaker_minimum,
                ramp=target.ramp,
                random=self._random(),
            )
        except redis.RedisError as exc:
            # What these requests would have said is lost; the next ones say it again.
            self._redis_failed(exc)
            return
        self._redis_answered()
        metrics.breaker_state.labels(*target.labels).set(reply.breaker)
        if reply.breaker is Breaker.OPEN:
            self._empty(target)
            if failed:
                log.warning(
                    "breaker_open",
                    extra={
                        "app": target.app,
                        "platform": target.platform,
                        "answered": answered,
                        "failed": failed,
                    },
                )
        elif probe:
            self._moisten(target)
            log.info("breaker_closed", extra={"app": target.app, "platform": target.platform})

    def hold_off(self, app: str, platform: str, seconds: float) -> None:
        """The provider wants a pause from everybody: nobody in the fleet asks it for anything until then."""
        target = self._targets[app, platform]
        seconds = min(seconds, HOLD_CEILING_S)
        now = self._clock()
        with self._lock:
            # Hundreds of answers of one chunk say the same.
            if seconds <= 0 or now + seconds <= target.held_until + 0.5:
                return
            target.held_until = now + seconds
        self._empty(target)
        log.warning(
            "provider_wants_a_pause",
            extra={"app": target.app, "platform": target.platform, "seconds": round(seconds, 3)},
        )
        if not self._may_ask_redis(now):
            return
        try:
            self._fleet.hold(target.name, seconds, target.ramp)
        except redis.RedisError as exc:
            self._redis_failed(
                exc
            )  # this process pauses by itself; the others will be told by their own answers
        else:
            self._redis_answered()

    def _purse(self, target: _Target, transactional: bool, send_id: uuid.UUID, rate: int | None) -> _Purse:
        key = transactional, None if rate is None else send_id
        with self._lock:
            purse = target.purses.get(key)
            if purse is None or purse.rate != rate:
                # A changed rate makes the permits of the old one void.
                purse = target.purses[key] = _Purse(rate)
                own = [other for other in target.purses if other[1] is not None]
                for other in own[: max(0, len(own) - _KEPT_PURSES)]:
                    del target.purses[other]
        return purse

    def _empty(self, target: _Target) -> None:
        with self._lock:
            for purse in target.purses.values():
                purse.permits = 0

    def _moisten(self, target: _Target) -> None:
        """Nobody waits out a pause that is over."""
        with self._lock:
            for purse in target.purses.values():
                purse.dry_until = 0.0

    def _may_ask_redis(self, now: float) -> bool:
        return self._redis_again_at is None or now >= self._redis_again_at

    def _redis_failed(self, exc: redis.RedisError) -> None:
        first = self._redis_again_at is None
        self._redis_again_at = self._clock() + REDIS_RETRY_S
        if first:
            log.warning(
                "rate_limit_local",
                extra={
                    "error": type(exc).__name__,
                    "effect": "each process keeps to its share of the limits",
                },
            )

    def _redis_answered(self) -> None:
        if self._redis_again_at is not None:
            self._redis_again_at = None
            log.info("rate_limit_shared_again")


def _spend(purse: _Purse, want: int) -> Grant:
    permits = want if math.isinf(purse.permits) else min(want, int(purse.permits))
    purse.permits -= permits
    purse.spent += permits
    return Grant(permits)


def _lot(target: _Target, purse: _Purse, want: int, now: float) -> int:
    """What to draw: what is wanted now, or what the last tenth of a second needed, so that little of a lot lapses."""
    if target.limit is None:
        return want
    pace = purse.spent / max(now - purse.filled_at, 0.05)
    return max(want, min(target.limit.lot, int(pace * 0.1)))


def _targets(name: str, app: AppSettings) -> list[_Target]:
    # A provider counts by what it knows: FCM by project, whichever of our apps sends.
    return [
        _target(name, platform, settings.limit_name, settings)
        for platform, settings in app.platforms().items()
    ]


def _same_limits(one: _Target, other: _Target) -> bool:
    return all(
        getattr(one.settings, name) == getattr(other.settings, name) for name in LimitSettings.model_fields
    )


def _target(app: str, platform: str, name: str, settings: LimitSettings) -> _Target:
    if settings.rate_per_minute == "unlimited":
        return _Target(app, platform, name, settings, None, Ramp(1.0, 0.0))
    rate = settings.rate_per_minute / WINDOW_S
    ramp = Ramp(min(1.0, max(RAMP_FLOOR, RAMP_FLOOR_RATE / rate)), settings.ramp_up_s)
    return _Target(
        app,
        platform,
        name,
        settings,
        limit(settings.rate_per_minute, settings.transactional_share),
        ramp,
    )
