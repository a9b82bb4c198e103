"""One pushq with its servers, mock providers and processes, for many cases in turn. Every send gets devices of its own."""

from __future__ import annotations

import secrets
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from sqlalchemy import text

from pushq.database import Database
from pushq.errors import ServiceUnavailable
from pushq.ledger.outcomes import Outcome
from pushq.ledger.schema import upgrade
from pushq.mock import MockProcess
from pushq.service_urls import ServiceUrl
from tests.chaos.crew import Caller, Crew
from tests.chaos.servers import BrokerKind, Servers
from tests.chaos.verdict import Batch

PROCESSES: Final = ("core", "apns", "fcm", "beat")
GUARANTEES: Final = ("at_least_once", "at_most_once")
#: Slow enough that a send of some thousand devices takes seconds, so that a fault can meet it half way:
#: 8 connections x 50 streams / 0.3 s = 1,300 requests/s on APNs, 32 x 15 / 0.3 s = 1,600 on FCM.
LATENCY_S: Final = 0.3
STREAMS: Final = {"apns_streams": 50, "fcm_streams": 15}
POLL_S: Final = 0.05
START_TIMEOUT_S: Final = 60.0

_INSERT_DEVICES = """
INSERT INTO device_tokens (user_id, app, platform, environment, token, token_hash, tags, registered_at)
SELECT u, 'shop', p.platform, 'production', p.token, md5(p.platform || p.token)::uuid, cast(:tags AS jsonb),
       now() - interval '1 day'
  FROM generate_series(cast(:first AS bigint), cast(:last AS bigint)) AS u,
       LATERAL (SELECT CASE WHEN u % 5 < 3 THEN 'apns' ELSE 'fcm' END AS platform,
                       CASE WHEN u % 5 < 3 THEN :prefix || lpad(to_hex(u), 64 - length(:prefix), '0')
                            ELSE :prefix || 'fcm-' || lpad(u::text, 40, '0') END AS token) p
RETURNING id, platform, token
"""


class ChaosError(Exception):
    """A case could not be carried out: this says nothing about the guarantees."""


@dataclass
class Cohort:
    """One send and the devices that belong to it alone."""

    guarantee: str
    tag: str
    tokens: dict[int, str]
    platforms: dict[int, str]
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    send_id: uuid.UUID | None = None
    began: float = 0.0

    def of(self, platform: str) -> set[int]:
        return {device for device, of in self.platforms.items() if of == platform}


class Site:
    """Servers, mock and database are there while the ``with`` block runs; processes when :meth:`ready` was called.

    Args:
        kind: which broker.
        folder: for logs and credentials; default one that vanishes with the servers.
        settings: PUSHQ_ variables beyond the servers' addresses; without any, everything runs with the product's defaults.
    """

    def __init__(
        self, kind: BrokerKind, folder: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.kind, self._folder, self._settings = kind, folder, dict(settings or {})
        self._open = ExitStack()
        self._next_user = 1
        self._caller: Caller | None = None

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self.servers = opening.enter_context(Servers(self.kind))
            self.folder = self._folder or self.servers.folder / "pushq"
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.mock = opening.enter_context(
                MockProcess(self.folder / "mock", latency_ms=LATENCY_S * 1000, **STREAMS)  # type: ignore[arg-type]
            )
            url = self.servers.postgres.url()
            upgrade(url)
            self.database = Database(ServiceUrl(url), pool_size=4, application_name="chaos")
            opening.callback(self.database.close)
            self.crew = opening.enter_context(Crew(self._environment({}), self.folder))
            opening.callback(self._dismiss_caller)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def environment(self) -> dict[str, str]:
        return self.crew.environment

    def ready(self, settings: Mapping[str, str] | None = None, processes: Sequence[str] = PROCESSES) -> None:
        """Everything runs, with these settings beyond the site's own; the mock has no faults."""
        self.servers.heal()
        self.mock.set_faults([])
        self.mock.set_latency(LATENCY_S * 1000)
        environment = self._environment(settings or {})
        if environment != self.crew.environment:
            self.crew.stop()
            self._dismiss_caller()
            self.crew.environment = environment
        self.crew.heal(processes)

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {
            "PUSHQ_DATABASE_URL": self.servers.postgres.url(),
            "PUSHQ_REDIS_URL": self.servers.redis.url(),
            "PUSHQ_BROKER_URL": self.servers.broker_url,
            "PUSHQ_CONFIG": str(self.mock.config_file),
            **self._settings,
            **settings,
        }

    # Sends.

    def cohort(self, guarantee: str, devices: int, *, dead: bool = False) -> Cohort:
        """New devices, three of five on APNs, each of a user of its own."""
        tag, first = f"chaos-{secrets.token_hex(6)}", self._next_user
        self._next_user += devices
        with self.database.begin() as connection:
            rows = connection.execute(
                text(_INSERT_DEVICES),
                {
                    "tags": f'["{tag}"]',
                    "first": first,
                    "last": first + devices - 1,
                    "prefix": "deaddeaddead" if dead else "",
                },
            ).all()
        return Cohort(
            guarantee, tag, {row.id: row.token for row in rows}, {row.id: row.platform for row in rows}
        )

    @property
    def caller(self) -> Caller:
        if self._caller is None:
            self._caller = Caller(self.environment, self.folder / "caller.log")
        return self._caller

    def kill_caller(self) -> None:
        self._dismiss_caller()

    def arguments(self, cohort: Cohort) -> dict[str, Any]:
        """The call that sends to a cohort; the same at every repetition."""
        return {
            "notification": {"title": "Chaos", "body": "Everything is fine."},
            "audience": {"filter": {"tags": {"any": [cohort.tag]}}},
            "guarantee": cohort.guarantee,
            "idempotency_key": cohort.key,
        }

    def broadcast(self, *cohorts: Cohort) -> None:
        """Call ``send_broadcast.delay`` for each, in another process.

        Raises:
            ChaosError: the call failed.
        """
        for cohort in cohorts:
            cohort.began = time.monotonic()
            answer = self.caller.call("send_broadcast", **self.arguments(cohort))
            if "error" in answer:
                raise ChaosError(f"the call failed: {answer['error']}")
            cohort.send_id = uuid.UUID(answer["send_id"])

    # Looking.

    def accepted(self, cohorts: Iterable[Cohort]) -> int:
        """How many devices of these the providers have accepted something for."""
        counted = self.provider_counts()
        return sum(token in counted for cohort in cohorts for token in cohort.tokens.values())

    def provider_counts(self) -> dict[str, int]:
        return {**self.mock.accepted("apns"), **self.mock.accepted("fcm")}

    def until_share(self, cohorts: Sequence[Cohort], share: float) -> None:
        """Wait until so much of the cohorts' devices has been accepted."""
        total = sum(len(cohort.tokens) for cohort in cohorts)
        self.until(lambda: self.accepted(cohorts) >= share * total, f"{share:.0%} accepted")

    def until(
        self, reached: Callable[[], bool], what: str, timeout: float = START_TIMEOUT_S, poll: float = POLL_S
    ) -> None:
        """Wait.

        Raises:
            ChaosError: it did not come to that in time.
        """
        deadline = time.monotonic() + timeout
        while not reached():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self.crew.log_tail(name)}" for name in PROCESSES)
                raise ChaosError(f"{self.kind}: not within {timeout:g} s: {what}\n{logs}")
            time.sleep(poll)

    def scalar(self, sql: str, **values: Any) -> Any:
        with self.database.begin() as connection:
            return connection.execute(text(sql), values).scalar_one_or_none()

    def state(self, cohort: Cohort) -> str | None:
        """State of the send; None while the ledger does not know it."""
        return None if cohort.send_id is None else self._state(cohort.send_id)

    def _state(self, send_id: uuid.UUID) -> str | None:
        found: str | None = self.scalar("SELECT state FROM sends WHERE id = :id", id=send_id)
        return found

    def batches(self, cohort: Cohort) -> list[Batch]:
        with self.database.begin() as connection:
            rows = connection.execute(
                text(
                    "SELECT batch_no, platform, state, recipients, device_ids, outcomes FROM send_batches"
                    " WHERE send_id = :id ORDER BY batch_no"
                ),
                {"id": cohort.send_id},
            ).all()
        return [
            Batch(
                row.batch_no,
                row.platform,
                row.state,
                row.device_ids,
                bytes(row.recipients) if row.outcomes is None else bytes(row.outcomes),
            )
            for row in rows
        ]

    def finished(self, cohort: Cohort) -> bool:
        """Whether the send and all its batches have ended; False as well while PostgreSQL is away."""
        try:
            if self.state(cohort) not in ("done", "failed", "cancelled"):
                return False
            return not self.scalar(
                "SELECT count(*) FROM send_batches WHERE send_id = :id AND state NOT IN ('done', 'parked')",
                id=cohort.send_id,
            )
        except ServiceUnavailable:
            return False

    def await_finished(self, cohorts: Sequence[Cohort], deadline: float) -> float | None:
        """When the last of these sends had ended (by time.monotonic), or None when ``deadline`` came first."""
        while not all(self.finished(cohort) for cohort in cohorts):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.1)
        return time.monotonic()

    def in_flight(
        self, cohorts: Sequence[Cohort], platforms: Sequence[str] = ("apns", "fcm"), *, journal: bool = True
    ) -> list[int]:
        """Upper bound of what of each at_least_once send is with the providers and not recorded; its workers must be dead or stopped.

        What ledger and journals hold now is compared with what the providers have accepted once all that was under way has
        arrived. Without ``journal`` (it is lost) only the ledger counts.
        """
        recorded = [self._recorded(cohort, journal=journal) for cohort in cohorts]
        time.sleep(LATENCY_S + 0.5)
        counted = self.provider_counts()
        return [
            sum(
                device not in known and cohort.platforms[device] in platforms and token in counted
                for device, token in cohort.tokens.items()
            )
            for cohort, known in zip(cohorts, recorded, strict=True)
        ]

    def claimed(
        self, cohort: Cohort, platforms: Sequence[str] = ("apns", "fcm"), *, journal: bool = True
    ) -> int:
        """How many recipients of an at_most_once send may be or become unknown; its workers must be dead or stopped.

        Whoever is claimed or unknown; in a running batch without a journal (it is lost, or its holder was killed before it began
        one, which nobody can tell apart) everybody open.
        """
        count = 0
        for batch in self.batches(cohort):
            if batch.platform not in platforms:
                continue
            outcomes = batch.outcomes
            found = self._journal(cohort, batch) if batch.state in ("running", "queued") and journal else None
            if found is not None:
                outcomes = found
            elif batch.state == "running":
                count += outcomes.count(Outcome.PENDING)
            count += outcomes.count(Outcome.CLAIMED) + outcomes.count(Outcome.UNKNOWN)
        return count

    def running(self, cohort: Cohort) -> dict[int, int]:
        """Of each running batch: what may be repeated (everybody open), or become unknown (everybody claimed)."""
        found = {}
        for batch in self.batches(cohort):
            if batch.state == "running":
                outcomes = self._journal(cohort, batch) or batch.outcomes
                claimed = outcomes.count(Outcome.CLAIMED)
                at_most_once = cohort.guarantee == "at_most_once"
                found[batch.number] = claimed if at_most_once else claimed + outcomes.count(Outcome.PENDING)
        return found

    def runs(self, cohort: Cohort) -> dict[int, int]:
        """How often each batch has been taken up."""
        with self.database.begin() as connection:
            rows = connection.execute(
                text("SELECT batch_no, runs FROM send_batches WHERE send_id = :id"), {"id": cohort.send_id}
            ).all()
        return {row.batch_no: row.runs for row in rows}

    def unreached(self, cohort: Cohort) -> int:
        """How many of the devices the providers have accepted nothing for: still to be done, whoever else is away."""
        return len(cohort.tokens) - self.accepted([cohort])

    def _recorded(self, cohort: Cohort, *, journal: bool) -> set[int]:
        recorded: set[int] = set()
        for batch in self.batches(cohort):
            outcomes = batch.outcomes
            if journal and batch.state in ("running", "queued"):
                outcomes = self._journal(cohort, batch) or outcomes
            recorded |= {
                device
                for device, outcome in zip(batch.device_ids, outcomes, strict=True)
                if outcome > Outcome.CLAIMED
            }
        return recorded

    def _journal(self, cohort: Cohort, batch: Batch) -> bytes | None:
        try:
            with self.servers.redis.client() as client:
                value: Any = client.get(f"pushq:journal:{cohort.send_id}:{batch.number}")
        except redis.RedisError:
            return None
        # After a header: one byte per recipient.
        return value[-len(batch.device_ids) :] if value else None

    def forget(self, cohort: Cohort) -> None:
        """Remove the cohort's devices: later sends need not walk over them."""
        with self.database.begin() as connection:
            connection.execute(
                text("DELETE FROM device_tokens WHERE id = ANY(:ids)"), {"ids": list(cohort.tokens)}
            )

    def _dismiss_caller(self) -> None:
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.kill()


def say(text: str) -> None:
    """Progress, for people."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
