"""What each worker runs with, in Redis: so that `pushq doctor` can tell of one that kept an old configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson
import redis

from pushq.reload.watch import ConfigState

_PREFIX: Final = "pushq:config:"


@dataclass(frozen=True)
class Announced:
    """One worker: ``host:pid``, what it serves, and its configuration."""

    worker: str
    kind: str
    state: ConfigState


def announce(client: redis.Redis, worker: str, kind: str, state: ConfigState, *, life_s: float) -> None:
    """Say what a worker runs with; it is forgotten ``life_s`` seconds after it was said last.

    Raises:
        redis.RedisError
    """
    document = {"kind": kind, "digest": state.digest, "failed": state.failed}
    client.set(_PREFIX + worker, orjson.dumps(document), px=max(int(life_s * 1000), 1))


def announced(client: redis.Redis) -> list[Announced]:
    """Every worker that spoke lately, by name.

    Raises:
        redis.RedisError
    """
    found = []
    for key in client.scan_iter(match=_PREFIX + "*", count=1000):
        raw: Any = client.get(key)
        if raw:
            said = orjson.loads(raw)
            worker = key.decode().removeprefix(_PREFIX)
            found.append(Announced(worker, said["kind"], ConfigState(said["digest"], said["failed"])))
    return sorted(found, key=lambda each: each.worker)
