"""A send with everything to look at: workers under least-privilege roles, faults on its way, logs as JSON, traces to a collector."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from pushq.database import Database
from pushq.demo.fleet import Fleet
from pushq.embedded.redis import RedisServer
from pushq.ledger.progress import Progress
from pushq.redaction import MASK
from pushq.service_urls import ServiceUrl
from tests.e2e.collector import Collector, ReceivedSpan
from tests.e2e.world import World, open_world, shell_environment
from tests.integration.database_roles import PASSWORD, as_role, roles
from tests.integration.ledger_world import shared_database
from tests.services.fixtures import Fleet as Servers
from tests.unit.test_log_events import documented

DEVICES = 4000
#: APNs tokens that begin so get 500 at every try, until somebody ends the fault.
UNLUCKY = "0"
FAULTS: list[dict[str, Any]] = [
    {
        "platform": "apns",
        "token_prefix": UNLUCKY,
        "times": 1000,
        "answer": {"status": 500, "reason": "InternalServerError"},
    },
    {
        "platform": "apns",
        "token_prefix": "1f",
        "times": 1000,
        "answer": {"status": 400, "reason": "BadDeviceToken"},
    },
    {"platform": "apns", "nth_on_connection": 900, "times": 1, "per": "total", "cut": "mid_frame"},
]
#: An application with its own OpenTelemetry, inside of one of its own spans.
APPLICATION = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from pushq import send_broadcast

provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
with trace.get_tracer("shop").start_as_current_span("checkout"):
    print(send_broadcast.delay({"title": "Sale"}, {"segments": ["all"]}, guarantee="at_least_once").id)
provider.shutdown()
"""
#: One without: pushq exports the span of the call by itself.
LATER = """
from datetime import UTC, datetime, timedelta
from pushq import send_broadcast
soon = datetime.now(UTC) + timedelta(seconds=1)
print(send_broadcast.delay({"title": "Later"}, {"segments": ["all"], "platforms": ["fcm"]}, send_at=soon).id)
"""


@dataclass
class Observed:
    """What was seen. The workers have ended, nothing changes any more.

    Attributes:
        output: what the processes wrote, by name.
        sent, later, replayed: a send of an application with spans of its own, one that the sweeper began, and the first one again.
        replayed_from: UNIX seconds.
    """

    url: str
    environment: dict[str, str]
    tokens: list[str]
    unlucky: int
    output: dict[str, str]
    collector: Collector
    sent: Progress
    later: Progress
    replayed: Progress
    replayed_from: float

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for output in self.output.values() for line in output.splitlines()]

    def trace(self, send: Progress) -> list[ReceivedSpan]:
        """All spans of the send's trace, of which there is exactly one."""
        mine = [s for s in self.collector.spans() if s.attributes.get("pushq.send_id") == str(send.id)]
        (trace,) = {span.trace for span in mine}
        return self.collector.spans(trace)


@pytest.fixture(scope="module")
def observed(_fleet: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    redis = _fleet.ready("redis")
    assert isinstance(redis, RedisServer)
    with redis.client() as client:
        client.flushall()
    with ExitStack() as stack:
        url = stack.enter_context(contextmanager(shared_database)(_fleet))
        stack.enter_context(roles(url))
        collector = stack.enter_context(Collector())
        yield _observe(url, redis, collector, tmp_path_factory.mktemp("observed"))


def _observe(url: str, redis: RedisServer, collector: Collector, folder: Path) -> Observed:
    with (
        open_world(
            folder,
            database_url=as_role(url, "pushq_operator"),
            redis_url=redis.url(0),
            broker_url=redis.url(1),
            workers=(),
            mock={"faults": FAULTS},
            settings={
                "PUSHQ_TRACING": "true",
                "PUSHQ_LOG_LEVEL": "DEBUG",
                "PUSHQ_BATCH_SIZE": "1000",
                "PUSHQ_RETRY_INITIAL_DELAY": "0.1",
                "PUSHQ_RETRY_MAX_ATTEMPTS": "2",
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_BSP_SCHEDULE_DELAY": "200",
            },
        ) as world,
        ExitStack() as fleets,
    ):
        world.import_devices(DEVICES, dead_ratio=0.07)
        world.database.close()
        world.database = Database(ServiceUrl(url), pool_size=2)  # the test itself looks at everything
        fleets.callback(world.database.close)
        for role, workers, beat in (
            ("pushq_core", ("core",), True),
            ("pushq_deliver", ("apns", "fcm"), False),
        ):
            environment = world.environment | {"PUSHQ_DATABASE_URL": as_role(url, role)}
            fleets.enter_context(Fleet(environment, folder, workers=workers, beat=beat))
        sent = world.finished(_call(world, APPLICATION), timeout=90)
        _cut_connections(url, redis, folder / "core.log")
        asked = collector.requests
        with collector.stalled():
            later = world.finished(_call(world, LATER), timeout=90)
        assert collector.requests > asked, "somebody waits for the collector, and no delivery does"
        replayed_from = time.time()
        world.mock.set_faults([])
        world.run("replay", str(sent.id), "--outcome", "exhausted", "--yes")
        replayed = world.finished(sent.id, timeout=90)
        assert world.python("from pushq.tasks.maintenance import cleanup; cleanup.delay()").returncode == 0
        _until(lambda: "cleaned_up" in (folder / "core.log").read_text(), "the clean-up")
        reached = replayed.total("accepted") + later.total("accepted")
        collector.until(lambda spans: sum(s.attributes.get("pushq.accepted", 0) for s in spans) == reached)
        fleets.close()
        names = ("core", "apns", "fcm", "beat")
        return Observed(
            url,
            world.environment,
            [device.token for device in world.devices],
            sum(d.token.startswith(UNLUCKY) and d.platform == "apns" and not d.dead for d in world.devices),
            {name: (folder / f"{name}.log").read_text() for name in names},
            collector,
            sent,
            later,
            replayed,
            replayed_from,
        )


def _call(world: World, application: str) -> uuid.UUID:
    done = world.python(application)
    assert done.returncode == 0, done.stderr
    return uuid.UUID(done.stdout.strip())


def _cut_connections(url: str, redis: RedisServer, core_log: Path) -> None:
    """Every connection to Redis, the workers' broker included, and those of the core worker to PostgreSQL: a sweep fails."""
    with redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pushq_core'"
        )
    _until(lambda: "raised unexpected" in core_log.read_text(), "the failure of a sweep")


def _until(reached: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


class TestLogs:
    def test_every_line_is_an_object_with_an_event_that_the_page_lists(self, observed: Observed) -> None:
        """Those of Celery and its libraries as well: connections were cut, and the workers were ended by a signal."""
        lines = observed.lines()
        events = {(line["event"], line["level"]) for line in lines if line["event"] != "library_message"}
        known = documented()
        assert {pair for pair in events if pair not in known and (pair[0], "varies") not in known} == set()
        assert {"batch_settled", "tokens_invalidated", "swept", "cleaned_up", "draining"} <= {
            e for e, _ in events
        }
        assert {line["logger"].partition(".")[0] for line in lines} >= {"pushq", "celery"}
        assert {line["role"] for line in lines} >= {"worker-core", "worker-apns", "worker-fcm"}

    def test_what_is_about_a_batch_says_which(self, observed: Observed) -> None:
        settled = Counter(
            (line["send_id"], line["batch_no"], line["platform"])
            for line in observed.lines()
            if line["event"] == "batch_settled"
        )
        with psycopg.connect(observed.url) as connection:
            rows = connection.execute("SELECT send_id::text, batch_no, platform FROM send_batches").fetchall()
        assert set(settled) == set(rows)
        about = [line for line in observed.lines() if line["logger"] == "pushq.delivery"]
        assert [
            line for line in about if not {"send_id", "batch_no", "platform", "trace_id"} <= line.keys()
        ] == []
        # Greenlets of connections and leases outlive the batch that they were started for.
        own = [line for line in observed.lines() if line["event"] == "http2_connection_opened"]
        assert own
        assert [line for line in own if "send_id" in line] == []
        # Celery says by itself that a task is tried again, within the task.
        again = [line for line in observed.lines() if "retry: Retry in" in line.get("message", "")]
        assert again
        assert [line for line in again if not {"send_id", "batch_no"} <= line.keys()] == []

    def test_no_token_and_no_secret_is_in_any_output_or_span(self, observed: Observed) -> None:
        secrets = {PASSWORD, *_secrets(observed.environment)}
        assert len(secrets) >= 5, "two passwords, keys, and what was issued"
        bodies = observed.collector.bodies.decode("latin-1")
        for name, output in {**observed.output, "spans": bodies}.items():
            assert [secret for secret in secrets if secret in output] == [], name
            assert [token for token in observed.tokens if token in output] == [], name
            assert not re.search(r"eyJ[\w-]{10,}\.|ya29\.|(?i:bearer )\w{20}", output), name
            assert "Sale" not in output, f"{name}: a notification"
        # Not because it was masked: nothing of ours got as far as that.
        assert [
            line for line in observed.lines() if line["logger"].startswith("pushq") and MASK in str(line)
        ] == []


def _secrets(environment: dict[str, str]) -> Iterator[str]:
    for name in ("PUSHQ_REDIS_URL", "PUSHQ_BROKER_URL", "PUSHQ_DATABASE_URL"):
        password = urlsplit(environment[name]).password
        assert password, name
        yield password
    folder = Path(environment["PUSHQ_CONFIG"]).parent
    account = json.loads((folder / "service-account.json").read_text())
    for key in (account["private_key"], *(path.read_text() for path in folder.glob("*.p8"))):
        yield from (line for line in key.splitlines() if len(line) > 30 and "-----" not in line)


class TestTraces:
    def test_one_trace_from_the_application_to_the_requests(self, observed: Observed) -> None:
        spans = observed.trace(observed.sent)
        by_id = {span.id: span for span in spans}
        parents = {(span.name, by_id[span.parent].name if span.parent else "") for span in spans}
        assert parents == {
            ("checkout", ""),
            ("pushq.call", "checkout"),
            ("pushq.accept", "pushq.call"),
            ("pushq.plan_shard", "pushq.accept"),
            ("pushq.deliver_batch", "pushq.accept"),
            ("pushq.request", "pushq.deliver_batch"),
            ("pushq.dead_letters", "pushq.accept"),
        }
        assert {
            (s.service, s.name) for s in spans if s.name in ("pushq.call", "pushq.accept", "pushq.request")
        } == {
            ("shop", "pushq.call"),
            ("pushq-core", "pushq.accept"),
            ("pushq-apns", "pushq.request"),
            ("pushq-fcm", "pushq.request"),
        }
        assert {s.attributes["pushq.shard_no"] for s in spans if s.name == "pushq.plan_shard"} == set(
            range(16)
        )

    def test_spans_of_requests_count_and_are_not_one_per_recipient(self, observed: Observed) -> None:
        requests = [span for span in observed.trace(observed.sent) if span.name == "pushq.request"]
        counted: Counter[str] = Counter()
        for span in requests:
            counted.update(
                {k.removeprefix("pushq."): v for k, v in span.attributes.items() if isinstance(v, int)}
            )
        accepted = sum(counts["accepted"] for counts in observed.replayed.platforms.values())
        assert counted["accepted"] == accepted
        assert counted["requests"] == sum(counted[n] for n in ("accepted", "refused", "not_sent", "unknown"))
        # Some had no answer: their connection was cut.
        assert 0 < counted["status.500"] <= 2 * observed.unlucky
        assert min(counted[f"status.{status}"] for status in (400, 404, 410)) > 0
        assert len(requests) < DEVICES / 50
        assert all(0 <= span.start <= span.end for span in requests)

    def test_what_the_sweeper_publishes_finds_its_trace_in_the_ledger(self, observed: Observed) -> None:
        """A scheduled send is begun by the sweeper, a replayed batch is published by it: neither message carries a trace."""
        names = Counter((span.service, span.name) for span in observed.trace(observed.later))
        assert names["pushq-caller", "pushq.call"] == 1
        assert names["pushq-core", "pushq.plan_shard"] >= 16
        assert names["pushq-fcm", "pushq.deliver_batch"] >= 1
        batches = [s for s in observed.trace(observed.sent) if s.name == "pushq.deliver_batch"]
        assert [s for s in batches if s.start > observed.replayed_from]
        assert observed.replayed.total("accepted") == observed.sent.total("accepted") + observed.unlucky

    def test_lines_and_spans_share_their_trace_ids(self, observed: Observed) -> None:
        traces = {line["trace_id"] for line in observed.lines() if line["event"] == "batch_settled"}
        assert traces == {
            span.trace for span in observed.collector.spans() if span.name == "pushq.deliver_batch"
        }


class TestRoles:
    @pytest.mark.parametrize(
        ("role", "statement"),
        [
            ("pushq_observer", "SELECT token FROM device_tokens"),
            ("pushq_observer", "SELECT token FROM device_tokens_p00"),
            ("pushq_observer", "SELECT notification FROM sends"),
            ("pushq_observer", "UPDATE sends SET state = 'cancelled'"),
            ("pushq_deliver", "UPDATE device_tokens SET is_active = false"),
            ("pushq_deliver", "SELECT user_id FROM segment_members"),
            ("pushq_deliver", "INSERT INTO sends SELECT * FROM sends"),
            ("pushq_deliver", "DELETE FROM dead_letters"),
            ("pushq_core", "INSERT INTO device_tokens SELECT * FROM device_tokens"),
            ("pushq_core", "DELETE FROM segments"),
            ("pushq_core", "DROP TABLE sends"),
            ("pushq_operator", "DELETE FROM sends"),
            ("pushq_operator", "CREATE TABLE mine (id integer)"),
            ("pushq_operator", "UPDATE alembic_version SET version_num = ''"),
        ],
    )
    def test_what_a_role_may_not(self, observed: Observed, role: str, statement: str) -> None:
        with (
            psycopg.connect(as_role(observed.url, role)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement.encode())

    def test_the_observer_sees_all_that_the_exporter_needs(self, observed: Observed) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pushq", "exporter", "--once", "--json"],
            env=shell_environment()
            | observed.environment
            | {"PUSHQ_DATABASE_URL": as_role(observed.url, "pushq_observer")},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        up = {
            sample["labels"]["source"]: sample["value"]
            for sample in json.loads(done.stdout)["samples"]
            if sample["name"] == "pushq_exporter_up"
        }
        assert up["database"] == 1, done.stderr

    def test_the_clean_up_made_its_partitions(self, observed: Observed) -> None:
        """As a role that owns the dead letters and no other table."""
        with psycopg.connect(as_role(observed.url, "pushq_core")) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_partition_tree('dead_letters') WHERE isleaf AND relid::text ~ '_[0-9]{4}_[0-9]{2}$'"
            ).fetchone()
        assert found == (3,)
