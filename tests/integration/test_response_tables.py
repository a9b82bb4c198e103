"""Every row of the providers' response tables, from the mock through the whole stack to the ledger.

The rows are written down from the providers' pages (docs of APNs, FCM and HMS), not from the tables under test. Rows about one recipient
share a broadcast per platform, one device each, among healthy ones; rows that hold or end a send have a send of their own. Everything
is sent once, when the first test asks; each row is then a test of what became of it.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import gevent
import pytest
from prometheus_client import REGISTRY

from pushq.app_settings import load_apps
from pushq.embedded.redis import RedisServer
from pushq.ledger import brake
from pushq.ledger.outcomes import Outcome
from pushq.mock import MockProcess
from pushq.tokens.invalidation import invalidate_from_dead_letters
from tests.integration.ledger_world import APP, Worker, World, open_worker, open_world, shared_database, token
from tests.services.fixtures import Fleet

HEALTHY = 60
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
APNS_ERROR = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
OFFICIAL = "The registration token is not a valid FCM registration token"


class Ends(StrEnum):
    """What the ledger says in the end."""

    DEAD = "dead"  # dead letter, and the token is invalidated; the send goes on
    REJECTED = "rejected"  # dead letter, the token stays; the send goes on
    AGAIN = "again"  # pending, one try spent, not before the wait; then accepted
    RENEWED = "renewed"  # pending, no try spent; accepted with another credential
    STOPPED = "stopped"  # the message is refused: the send has failed
    HELD = (
        "held"  # the set-up is refused: the send is paused, everybody is kept; accepted after it is resumed
    )
    ACCEPTED = "accepted"


#: Those that are about one recipient alone.
SINGLE = frozenset({Ends.DEAD, Ends.REJECTED, Ends.AGAIN, Ends.ACCEPTED})


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        answer: for the mock's fault; None: it answers as it likes.
        reason: what stands in the dead letter, or within the send's error.
        wait_s: not again before.
        guarded: not believed where nothing was accepted.
        alone: the row is about a send that reaches nobody else.
    """

    platform: str
    name: str
    answer: Mapping[str, Any] | None
    ends: Ends
    reason: str = ""
    wait_s: float = 0.0
    guarded: bool = False
    alone: bool = False

    @property
    def status(self) -> int:
        assert self.answer is not None
        return int(self.answer["status"])

    def __str__(self) -> str:
        return f"{self.platform}-{self.name}"


def apns(status: int, reason: str, ends: Ends, **more: Any) -> Row:
    return Row("apns", f"{status}-{reason}", {"status": status, "reason": reason}, ends, reason, **more)


def fcm(name: str, status: int, ends: Ends, reason: str = "", *, message: str = "", **more: Any) -> Row:
    """``code``, ``apple``, ``fields``: the elements of the error's details."""
    details: list[dict[str, Any]] = []
    if "code" in more:
        details.append({"@type": FCM_ERROR, "errorCode": more.pop("code")})
    if "apple" in more:
        details.append({"@type": APNS_ERROR, **more.pop("apple")})
    if "fields" in more:
        fields = [{"field": name, "description": "d"} for name in more.pop("fields")]
        details.append({"@type": BAD_REQUEST, "fieldViolations": fields})
    body = json.dumps({"error": {"code": status, "message": message, "details": details}})
    return Row("fcm", name, {"status": status, "body": body}, ends, reason, **more)


def hms(code: str, ends: Ends, **more: Any) -> Row:
    return Row("hms", code, {"status": 400, "reason": code}, ends, code, alone=True, **more)


#: Apple, "Handling notification responses from APNs".
APNS = [
    Row("apns", "200", None, Ends.ACCEPTED),
    apns(400, "BadCollapseId", Ends.STOPPED),
    apns(400, "BadDeviceToken", Ends.DEAD, guarded=True),
    apns(400, "BadExpirationDate", Ends.STOPPED),
    apns(400, "BadMessageId", Ends.STOPPED),
    apns(400, "BadPriority", Ends.STOPPED),
    apns(400, "BadTopic", Ends.HELD),
    apns(400, "DeviceTokenNotForTopic", Ends.DEAD, guarded=True),
    apns(400, "DuplicateHeaders", Ends.STOPPED),
    apns(400, "IdleTimeout", Ends.AGAIN),
    apns(400, "InvalidPushType", Ends.STOPPED),
    apns(400, "MissingDeviceToken", Ends.REJECTED),
    apns(400, "MissingTopic", Ends.HELD),
    apns(400, "PayloadEmpty", Ends.STOPPED),
    apns(400, "TopicDisallowed", Ends.HELD),
    apns(403, "BadCertificate", Ends.HELD),
    apns(403, "BadCertificateEnvironment", Ends.HELD),
    apns(403, "ExpiredProviderToken", Ends.RENEWED),
    apns(403, "Forbidden", Ends.HELD),
    apns(403, "InvalidProviderToken", Ends.HELD),
    apns(403, "MissingProviderToken", Ends.HELD),
    apns(403, "UnrelatedKeyIdInToken", Ends.AGAIN),
    apns(403, "BadEnvironmentKeyIdInToken", Ends.HELD),
    apns(403, "BadEnvironmentKeyInToken", Ends.HELD),
    apns(404, "BadPath", Ends.STOPPED),
    apns(405, "MethodNotAllowed", Ends.STOPPED),
    apns(410, "ExpiredToken", Ends.DEAD),
    apns(410, "Unregistered", Ends.DEAD),
    apns(413, "PayloadTooLarge", Ends.STOPPED),
    apns(429, "TooManyProviderTokenUpdates", Ends.AGAIN, wait_s=5.0),
    apns(429, "TooManyRequests", Ends.AGAIN, wait_s=30.0),
    apns(500, "InternalServerError", Ends.AGAIN, wait_s=1.0),
    apns(503, "ServiceUnavailable", Ends.AGAIN, wait_s=1.0),
    apns(503, "Shutdown", Ends.AGAIN),
    # What is not listed falls to its class.
    Row("apns", "other 4xx", {"status": 418, "reason": "Teapot"}, Ends.REJECTED, "other_4xx"),
    Row("apns", "other 5xx", {"status": 599, "reason": "Kettle"}, Ends.AGAIN, wait_s=1.0),
    Row("apns", "no body", {"status": 400, "body": ""}, Ends.REJECTED, "other_4xx"),
]
#: Firebase, "ErrorCode" and "FCM error codes".
FCM = [
    Row("fcm", "200", None, Ends.ACCEPTED),
    fcm("400", 400, Ends.STOPPED, "400 INVALID_ARGUMENT"),
    fcm("401", 401, Ends.RENEWED),
    fcm(
        "401-THIRD_PARTY_AUTH_ERROR",
        401,
        Ends.REJECTED,
        "THIRD_PARTY_AUTH_ERROR",
        code="THIRD_PARTY_AUTH_ERROR",
    ),
    fcm("401-APNS_AUTH_ERROR", 401, Ends.REJECTED, "APNS_AUTH_ERROR", code="APNS_AUTH_ERROR"),
    fcm(
        "403-SENDER_ID_MISMATCH",
        403,
        Ends.DEAD,
        "SENDER_ID_MISMATCH",
        code="SENDER_ID_MISMATCH",
        guarded=True,
    ),
    fcm("403", 403, Ends.HELD, "403"),
    fcm("404-UNREGISTERED", 404, Ends.DEAD, "UNREGISTERED", code="UNREGISTERED"),
    fcm("404", 404, Ends.HELD, "404"),
    fcm("429-QUOTA_EXCEEDED", 429, Ends.AGAIN, code="QUOTA_EXCEEDED", wait_s=60.0),
    fcm("429", 429, Ends.AGAIN, wait_s=60.0),
    fcm("500-INTERNAL", 500, Ends.AGAIN, code="INTERNAL", wait_s=10.0),
    Row("fcm", "502-HTML", {"status": 502, "body": "<html>502</html>"}, Ends.AGAIN, wait_s=10.0),
    Row("fcm", "504-HTML", {"status": 504, "body": "<html>504</html>"}, Ends.AGAIN, wait_s=10.0),
    fcm("503-UNAVAILABLE", 503, Ends.AGAIN, code="UNAVAILABLE", wait_s=10.0),
    fcm("UNSPECIFIED-4xx", 409, Ends.STOPPED, "409 UNSPECIFIED_ERROR", code="UNSPECIFIED_ERROR"),
    fcm("UNSPECIFIED-5xx", 500, Ends.AGAIN, code="UNSPECIFIED_ERROR", wait_s=10.0),
    # What is not listed falls to its class.
    fcm("other 4xx", 418, Ends.REJECTED, "other_4xx", code="TEAPOT"),
    fcm("other 5xx", 599, Ends.AGAIN, code="KETTLE", wait_s=10.0),
    Row("fcm", "503-empty", {"status": 503, "body": ""}, Ends.AGAIN, wait_s=10.0),
]


def invalid(name: str, ends: Ends, reason: str, **more: Any) -> Row:
    return fcm(f"INVALID_ARGUMENT: {name}", 400, ends, reason, code="INVALID_ARGUMENT", **more)


#: The decision list for INVALID_ARGUMENT, first match wins.
INVALID_ARGUMENT = [
    *(
        invalid(
            f"1 Apple says {reason}",
            Ends.DEAD,
            f"apns_{reason}",
            apple={"statusCode": status, "reason": reason},
            guarded=guarded,
        )
        for status, reason, guarded in (
            (400, "BadDeviceToken", True),
            (400, "DeviceTokenNotForTopic", True),
            (410, "Unregistered", False),
            (410, "ExpiredToken", False),
        )
    ),
    invalid("1 Apple says 410", Ends.DEAD, "apns_410", apple={"statusCode": 410}),
    invalid(
        "1 another word of Apple's",
        Ends.REJECTED,
        "apns_other",
        apple={"statusCode": 403, "reason": "ExpiredProviderToken"},
        fields=["message.token"],
    ),
    invalid("2 the token", Ends.DEAD, "INVALID_TOKEN", fields=["message.token"]),
    invalid("2 the fid", Ends.DEAD, "INVALID_TOKEN", fields=["message.fid"]),
    invalid("3 another field", Ends.STOPPED, "400 INVALID_ARGUMENT", fields=["message.data[0].value"]),
    invalid("4 the official text", Ends.DEAD, "INVALID_TOKEN", message=OFFICIAL),
    invalid("5 and others were reached", Ends.DEAD, "INVALID_ARGUMENT", guarded=True),
    invalid("5 and nobody was reached", Ends.STOPPED, "400 INVALID_ARGUMENT", alone=True),
]
#: Huawei, "Push Kit REST API", response codes.
HMS = [
    Row("hms", "80000000", None, Ends.ACCEPTED),
    *(
        hms(code, Ends.STOPPED)
        for code in (
            *("80100001", "80100002", "80100003", "80100004", "80100013", "80100016", "80100018", "80100022"),
            *("80300008", "80300010", "80300011"),
        )
    ),
    Row("hms", "80100000", {"status": 200, "reason": "80100000"}, Ends.DEAD, "80100000", guarded=True),
    hms("80100017", Ends.AGAIN, wait_s=10.0),
    hms("80200001", Ends.RENEWED),
    hms("80200003", Ends.RENEWED),
    hms("80200005", Ends.RENEWED),
    hms("80300002", Ends.HELD),
    hms("80300007", Ends.DEAD, guarded=True),
    hms("80300013", Ends.HELD),
    hms("80600003", Ends.AGAIN, wait_s=1.0),
    hms("81000001", Ends.AGAIN, wait_s=1.0),
    Row("hms", "HTTP 503", {"status": 503}, Ends.AGAIN, wait_s=2.0, alone=True),
    Row("hms", "HTTP 502", {"status": 502, "body": "<html>"}, Ends.AGAIN, alone=True),
    Row("hms", "HTTP 500", {"status": 500}, Ends.AGAIN, alone=True),
    # What is not listed falls to its area, and without a code to its class.
    Row("hms", "other 803", {"status": 400, "reason": "80399999"}, Ends.REJECTED, "other_803", alone=True),
    Row("hms", "other 810", {"status": 400, "reason": "81099999"}, Ends.AGAIN, wait_s=1.0, alone=True),
]
ROWS = [*APNS, *FCM, *INVALID_ARGUMENT, *HMS]


@dataclass
class Observed:
    """What the ledger said about a row's recipient."""

    outcome: str = ""
    tries: int = 0
    wait_s: float = 0.0
    letter: tuple[str, str, int | None] | None = None
    state: str = ""
    error: str = ""
    active: bool = True
    finally_: str = ""
    accepted: int = 0


@dataclass
class Trial:
    """Sends every row and notes what became of it."""

    world: World
    worker: Worker
    mock: MockProcess
    another: Callable[[], AbstractContextManager[Worker]]
    observed: dict[str, Observed] = field(default_factory=dict)
    unproven: dict[str, Observed] = field(default_factory=dict)
    _users: int = 0

    def run(self) -> None:
        """The guarded rows first: where nothing was accepted yet, nothing proves them."""
        for row in ROWS:
            if row.guarded:
                self._forget_evidence()
                self.unproven[str(row)] = self._alone(row)
        for platform in ("apns", "fcm", "hms"):
            self._together(
                platform, [r for r in ROWS if r.platform == platform and r.ends in SINGLE and not r.alone]
            )
        for row in ROWS:
            if row.ends is Ends.RENEWED:
                # A second credential that is refused within a minute would prove the set-up wrong: another process, then.
                first = self.worker
                with self.another() as self.worker:
                    self.observed[str(row)] = self._alone(row)
                self.worker = first
                gevent.sleep(0)  # gevent closes a socket with the next turn of its loop
            elif str(row) not in self.observed:
                self.observed[str(row)] = self._alone(row)

    def _forget_evidence(self) -> None:
        if keys := self.worker.redis.keys("pushq:guard:*"):
            self.worker.redis.delete(*keys)

    def _device(self, platform: str) -> int:
        self._users += 1
        self.world.add_devices(platform, 1, first=self._users)
        return self._users

    def _fault(self, row: Row, user: int) -> dict[str, Any]:
        # HMS: a request has many tokens, and a fault that names one of them makes it a partial success.
        whole = row.platform == "hms" and row.alone
        which = {"per": "total"} if whole else {"token": token(row.platform, user)}
        return {"platform": row.platform, "times": 1, "answer": dict(row.answer or {}), **which}

    def _together(self, platform: str, rows: list[Row]) -> None:
        users = {str(row): self._device(platform) for row in rows}
        healthy = [self._device(platform) for _ in range(HEALTHY)]
        self.mock.set_faults([self._fault(row, users[str(row)]) for row in rows if row.answer is not None])
        send_id = self.world.send(
            audience={"user_ids": [*users.values(), *healthy]}, guarantee="at_most_once"
        )
        self._first(send_id)
        for name, user in users.items():
            self.observed[name] = self._look(send_id, user)
        self._on(send_id)
        for name, user in users.items():
            self._look_again(send_id, user, self.observed[name])
        self.mock.set_faults([])

    def _alone(self, row: Row) -> Observed:
        user = self._device(row.platform)
        self.mock.set_faults([self._fault(row, user)] if row.answer is not None else [])
        # A lost answer is sent again by this guarantee only.
        send_id = self.world.send(audience={"user_ids": [user]}, guarantee="at_least_once")
        self._first(send_id)
        observed = self._look(send_id, user)
        self.mock.set_faults([])
        if observed.state == "paused":
            with self.world.database.begin() as connection:
                brake.resume(connection, send_id)
        self._on(send_id)
        self._look_again(send_id, user, observed)
        return observed

    def _first(self, send_id: uuid.UUID) -> None:
        for number in self.world.queued(send_id):
            self.worker.run(send_id, number)

    def _on(self, send_id: uuid.UUID) -> None:
        """Let time pass until everybody has an end, and the dead letters do their work."""
        for _ in range(8):
            if self.world.progress(send_id).finished:
                break
            self.world.let_time_pass(send_id)
            for (number,) in self.world.rows(
                "SELECT batch_no FROM send_batches WHERE send_id = :id AND state IN ('queued', 'retry') ORDER BY 1",
                id=send_id,
            ):
                self.worker.run(send_id, number)
        for (number,) in self.world.rows(
            "SELECT DISTINCT batch_no FROM dead_letters WHERE send_id = :id", id=send_id
        ):
            invalidate_from_dead_letters(self.world.database, send_id, number)

    def _recipient(self, send_id: uuid.UUID, user: int) -> tuple[Any, int]:
        (row,) = self.world.rows(
            "SELECT *, extract(epoch FROM retry_at - settled_at)::float8 AS again_s FROM send_batches"
            " WHERE send_id = :id AND :user = ANY(user_ids)",
            id=send_id,
            user=user,
        )
        return row, row.user_ids.index(user)

    def _look(self, send_id: uuid.UUID, user: int) -> Observed:
        batch, position = self._recipient(send_id, user)
        send = self.world.progress(send_id)
        outcome = Outcome(batch.outcomes[position] if batch.outcomes is not None else 0).name
        wait = batch.waits[position] / 1000 if batch.waits is not None else batch.again_s
        return Observed(
            outcome=outcome,
            tries=batch.attempts[position] if batch.attempts is not None else 0,
            wait_s=float(wait or 0.0),
            letter=self._letter(send_id, user),
            state=send.state,
            error=send.error or "",
        )

    def _look_again(self, send_id: uuid.UUID, user: int, observed: Observed) -> None:
        batch, position = self._recipient(send_id, user)
        observed.finally_ = Outcome(batch.outcomes[position]).name
        observed.letter = observed.letter or self._letter(send_id, user)
        observed.active = self.world.value(
            "SELECT is_active FROM device_tokens WHERE user_id = :user AND platform = :platform",
            user=user,
            platform=batch.platform,
        )
        observed.accepted = self.mock.accepted(batch.platform).get(token(batch.platform, user), 0)

    def _letter(self, send_id: uuid.UUID, user: int) -> tuple[str, str, int | None] | None:
        found = self.world.rows(
            "SELECT outcome, reason, status FROM dead_letters WHERE send_id = :id AND user_id = :user",
            id=send_id,
            user=user,
        )
        assert len(found) <= 1
        return (found[0].outcome, found[0].reason, found[0].status) if found else None


class _Lines(logging.Handler):
    """What the providers' log said meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "answer_not_listed":
            self.records.append(record)


@dataclass
class Results:
    trial: Trial
    not_listed: list[logging.LogRecord]


@pytest.fixture(scope="module")
def results(_fleet: Fleet) -> Iterator[Results]:
    server = _fleet.ready("redis")
    assert isinstance(server, RedisServer)
    with server.client() as client:
        client.flushall()
    lines, log = _Lines(), logging.getLogger("pushq.providers")
    log.addHandler(lines)
    databases = shared_database(_fleet)
    try:
        with MockProcess(engine="strict") as mock:
            app = load_apps(mock.config_file)[APP]
            with (
                open_world(
                    next(databases), app, batch_size=500, plan_page=500, request_timeout=10.0
                ) as world,
                open_worker(world, server.url(0), jitter=0.0) as worker,
            ):
                trial = Trial(world, worker, mock, lambda: open_worker(world, server.url(0), jitter=0.0))
                trial.run()
            gevent.sleep(0)
        yield Results(trial, lines.records)
    finally:
        log.removeHandler(lines)
        next(databases, None)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row(results: Results, row: Row) -> None:
    found = results.trial.observed[str(row)]
    match row.ends:
        case Ends.ACCEPTED:
            assert (found.outcome, found.letter, found.accepted) == ("ACCEPTED", None, 1)
        case Ends.DEAD:
            assert (found.outcome, found.finally_) == ("TOKEN_DEAD", "TOKEN_DEAD")
            assert found.letter == ("dead", row.reason, row.status)
            assert (found.active, found.accepted) == (False, 0)
            assert found.state in ("sending", "done")
        case Ends.REJECTED:
            assert (found.outcome, found.finally_) == ("REJECTED", "REJECTED")
            assert found.letter == ("rejected", row.reason, row.status)
            assert (found.active, found.accepted) == (True, 0)
            assert found.state in ("sending", "done")
        case Ends.AGAIN:
            assert (found.outcome, found.tries, found.state) == ("PENDING", 1, "sending")
            assert found.wait_s == pytest.approx(row.wait_s, abs=0.05)
            assert (found.finally_, found.letter, found.accepted, found.active) == ("ACCEPTED", None, 1, True)
        case Ends.RENEWED:
            assert (found.outcome, found.tries, found.state) == ("PENDING", 0, "sending")
            assert (found.finally_, found.letter, found.accepted, found.active) == ("ACCEPTED", None, 1, True)
        case Ends.STOPPED:
            assert (found.outcome, found.state) == ("REJECTED", "failed")
            assert f"{row.platform} refuses the message" in found.error
            assert row.reason in found.error
            assert found.letter is not None
            assert (found.letter[0], found.letter[2]) == ("rejected", row.status)
            assert (found.active, found.accepted) == (True, 0)
        case Ends.HELD:
            assert (found.outcome, found.tries, found.state) == ("PENDING", 0, "paused")
            assert row.reason in found.error
            assert f"app {APP!r}" in found.error
            assert found.error.endswith("pushq resume")
            assert (found.finally_, found.letter, found.accepted, found.active) == ("ACCEPTED", None, 1, True)


@pytest.mark.parametrize("row", [row for row in ROWS if row.guarded], ids=str)
def test_a_guarded_row_kills_no_token_where_nothing_was_accepted(results: Results, row: Row) -> None:
    if row.name.startswith("INVALID_ARGUMENT: 5"):
        # With nobody else to compare with it is the message that is wrong.
        assert results.trial.unproven[str(row)].letter == ("rejected", "INVALID_ARGUMENT", 400)
        return
    found = results.trial.unproven[str(row)]
    assert (found.outcome, found.tries) == ("PENDING", 1)
    assert (found.finally_, found.active, found.accepted) == ("ACCEPTED", True, 1)


def test_what_is_not_listed_is_counted_and_logged_once(results: Results) -> None:
    trial, platform = results.trial, "apns"
    row = next(row for row in APNS if row.name == "other 4xx")
    said = [record.__dict__["detail"] for record in results.not_listed]
    assert sorted(said) == sorted(set(said))
    assert {"Teapot", "Kettle"} <= set(said)
    assert any(word.startswith("TEAPOT") for word in said)
    for platform, reason in (
        (row.platform, "other_4xx"),
        ("apns", "other_5xx"),
        ("fcm", "other_4xx"),
        ("fcm", "other_5xx"),
        ("hms", "other_803"),
        ("hms", "other_810"),
    ):
        labels = {"app": APP, "platform": platform, "reason": reason}
        assert (REGISTRY.get_sample_value("pushq_unlisted_answers_total", labels) or 0) >= 1
    assert trial.observed[str(row)].letter == ("rejected", "other_4xx", 418)
