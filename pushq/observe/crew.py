"""The broker's queues beside the workers that serve them: what `pushq queues` and the console show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import redis

from pushq.app import ALL_QUEUES, CORE_QUEUES, PLATFORM_QUEUES, POISON
from pushq.observe.queues import Depths
from pushq.platforms import TITLES
from pushq.redis_client import open_redis
from pushq.reload import Announced, announced, digest
from pushq.reload.files import SHOWN
from pushq.settings import Settings

REDIS_S: Final = 3.0

#: What a queue carries, for people.
CARRIES: Final[Mapping[str, str]] = {
    "pushq.broadcast": "broadcasts to plan",
    "pushq.transactional": "transactional calls",
    "pushq.dead_letter": "dead letters to look at",
    "pushq.maintenance": "sweep and clean-up",
    POISON: "messages that came back too often",
    **{
        name: f"{'transactional batches' if lane == 'transactional' else 'batches'} for {TITLES[platform]}"
        for (platform, lane), name in PLATFORM_QUEUES.items()
    },
}
_KIND: Final[Mapping[str, str]] = {
    **dict.fromkeys(CORE_QUEUES, "core"),
    **{name: platform for (platform, _), name in PLATFORM_QUEUES.items()},
}


@dataclass(frozen=True)
class QueueLine:
    """One queue.

    Attributes:
        ready: messages that wait for a worker; None: nobody has declared the queue yet.
        unacked: messages that a worker has; None where nobody can tell.
        workers: of those that announce themselves, how many serve it; None where they do not say.
    """

    name: str
    carries: str
    kind: str
    ready: int | None
    unacked: int | None
    workers: int | None


@dataclass(frozen=True)
class WorkerLine:
    """One worker that spoke lately.

    Attributes:
        config: shortened digest of what it runs with.
        same: whether that is the configuration here; None: not known.
        fault: why it cannot use the configuration as it is; "" where it can.
    """

    worker: str
    kind: str
    config: str
    same: bool | None
    fault: str = ""


@dataclass(frozen=True)
class Crew:
    """Queues and workers at a moment.

    Attributes:
        notes: what could not be asked, and why.
    """

    broker: str
    queues: Sequence[QueueLine]
    workers: Sequence[WorkerLine]
    notes: Sequence[str] = field(default=())

    @property
    def waiting(self) -> int:
        return sum(line.ready or 0 for line in self.queues)


def crew(settings: Settings, broker: str, depths: Depths) -> Crew:
    """Put together what the broker and the workers say. Workers that cannot be asked for are a note, no error."""
    notes: list[str] = []
    workers: list[WorkerLine] | None = None
    if depths.unacked is None and depths.unacked_why:
        notes.append(f"Messages with workers are not known: {depths.unacked_why}")
    if settings.redis_url is None:
        notes.append("Workers are not known: PUSHQ_REDIS_URL is not set")
    elif settings.reload_seconds == 0:
        notes.append("Workers are not known: PUSHQ_RELOAD_SECONDS is 0, so they do not announce themselves")
    else:
        try:
            workers = _workers(settings)
        except redis.RedisError as exc:
            notes.append(f"Workers are not known: Redis does not answer ({type(exc).__name__})")
    platforms = {platform for app in settings.apps.values() for platform in app.platforms()}
    names = [name for name in ALL_QUEUES if _KIND[name] in {"core", *platforms} or depths.ready.get(name)]
    if POISON in depths.ready:
        names.append(POISON)
    lines = [_line(name, depths, workers) for name in names]
    return Crew(broker, lines, workers or [], notes)


def _line(name: str, depths: Depths, workers: Sequence[WorkerLine] | None) -> QueueLine:
    kind = _KIND.get(name, "")
    serving: int | None = depths.consumers.get(name)
    if workers is not None and kind:
        serving = sum(kind in worker.kind.split() for worker in workers)
    return QueueLine(
        name,
        CARRIES[name],
        kind,
        depths.ready.get(name),
        None if depths.unacked is None else depths.unacked.get(name, 0),
        serving,
    )


def _workers(settings: Settings) -> list[WorkerLine]:
    assert settings.redis_url is not None
    client = open_redis(
        settings.redis_url, max_connections=1, connect_timeout=REDIS_S, command_timeout=REDIS_S
    )
    try:
        found = announced(client)
    finally:
        client.close()
    try:
        ours = digest(settings.config, settings.apps)[:SHOWN] if settings.config and settings.apps else ""
    except OSError:
        ours = ""
    return [_worker(each, ours) for each in found]


def _worker(each: Announced, ours: str) -> WorkerLine:
    same = each.state.digest == ours if ours else None
    return WorkerLine(each.worker, each.kind, each.state.digest, same, each.state.failed)
