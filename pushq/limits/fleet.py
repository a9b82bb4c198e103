"""What the fleet shares about limits, in Redis: one script, run on Redis' clock, decides for everybody."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import redis

from pushq.limits.bucket import Limit

_SCRIPT: Final = Path(__file__).with_name("fleet.lua").read_text(encoding="utf-8")


class Breaker(IntEnum):
    """State of a circuit breaker."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True)
class Reply:
    """What the script decided.

    Attributes:
        permits: issued now.
        wait_s, reason: without permits, when to ask again and why, as in :class:`~pushq.limits.grant.Grant`.
        probe: the one permit is for finding out whether the provider works again; its result decides.
    """

    permits: int
    wait_s: float
    reason: str
    breaker: Breaker
    probe: bool


@dataclass(frozen=True)
class Ramp:
    """How the allowed share of a limit grows while it is used: from ``floor`` to 1 in ``seconds``; 0 s is at once."""

    floor: float
    seconds: float


class FleetLimits:
    """The shared state of all limits. Every method is one round trip and raises ``redis.RedisError`` without Redis.

    Args:
        clock: only for tests, seconds; None is Redis' own clock, the one that all processes share.
    """

    def __init__(self, client: redis.Redis, *, clock: Any = None) -> None:
        self._script = client.register_script(_SCRIPT)
        self._clock = clock

    def ask(
        self,
        name: str,
        want: int,
        *,
        limit: Limit | None,
        ramp: Ramp,
        transactional: bool,
        send: tuple[uuid.UUID, Limit] | None = None,
    ) -> Reply:
        """Draw permits for a provider's limit ``name``, and at the same time from the bucket of a send with its own rate."""
        args: list[Any] = [want, 1, "", 0, 0, ramp.floor, ramp.seconds]
        if limit is not None:
            reserve = 0 if transactional else limit.reserve
            args = [want, limit.crumb, limit.refill, limit.burst, reserve, ramp.floor, ramp.seconds]
        keys = [_key(name)]
        if send is None:
            args += ["", 0, 0]
        else:
            send_id, own = send
            keys.append(f"pushq:limit:send:{send_id}")
            args += [own.refill, own.burst, own.crumb]
        return self._run("ask", 0.0, keys, args)

    def report(
        self,
        name: str,
        *,
        answered: int,
        failed: int,
        probed: bool,
        share: float,
        minimum: int,
        ramp: Ramp,
        random: float,
    ) -> Reply:
        """Tell the breaker of ``name`` what came of requests.

        Args:
            probed: this process got a probe and has not reported since.
            share, minimum: it opens when so large a share of at least so many requests failed in the last 10 to 20 s.
            random: from [0, 1), for the jitter of its pause.
        """
        args = [answered, failed, int(probed), share, minimum, ramp.floor]
        return self._run("report", random, [_key(name)], args)

    def hold(self, name: str, seconds: float, ramp: Ramp) -> Reply:
        """Nobody sends for so many seconds, or longer if a longer pause is on."""
        return self._run("hold", 0.0, [_key(name)], [seconds, ramp.floor])

    def _run(self, command: str, random: float, keys: list[str], args: list[Any]) -> Reply:
        now = "" if self._clock is None else self._clock()
        permits, wait, reason, breaker, probe = self._script(keys=keys, args=[command, now, random, *args])
        return Reply(int(permits), float(wait), reason.decode(), Breaker(breaker), bool(probe))


def _key(name: str) -> str:
    return f"pushq:limit:{name}"
