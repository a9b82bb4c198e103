"""The exporter against real brokers, PostgreSQL and Redis, some of them away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kombu import Connection, Consumer
from prometheus_client import CollectorRegistry

from pushq.app import POISON, queues
from pushq.embedded.postgres import PostgresServer
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.redis import RedisServer
from pushq.embedded.server import free_port
from pushq.observe.exporter import Exporter
from pushq.observe.queues import SAMPLE, RabbitMqQueues, RedisQueues
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings
from tests.integration.ledger_world import bare_app, open_world
from tests.services.faults import paused

FCM, APNS = "push.fcm", "push.apns"
PATIENT_S = 60.0


def publish(url: str, queue: str, count: int) -> None:
    with Connection(url) as connection:
        amqp = url.startswith("amqp")
        declared = {one.name: one(connection.default_channel) for one in queues(amqp=amqp)}
        for one in declared.values():
            one.declare()
        producer = connection.Producer()
        for number in range(count):
            producer.publish(
                {"n": number}, exchange=declared[queue].exchange, routing_key=queue, confirm_publish=True
            )


@contextmanager
def holding(url: str, queue: str, count: int) -> Iterator[None]:
    """A worker that has taken so many messages and acknowledges none."""
    taken: list[object] = []
    with Connection(url) as connection:
        (bound,) = (one for one in queues(amqp=url.startswith("amqp")) if one.name == queue)
        channel = connection.channel()
        channel.basic_qos(0, count, False)
        with Consumer(
            channel, [bound], callbacks=[lambda body, message: taken.append(message)], accept=["json"]
        ):
            deadline = time.monotonic() + PATIENT_S
            while len(taken) < count:
                assert time.monotonic() < deadline
                connection.drain_events(timeout=5)
            yield


def until(ask: Callable[[], object], expected: object) -> None:
    deadline = time.monotonic() + PATIENT_S
    while (found := ask()) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def management(rabbitmq: RabbitMqServer) -> ServiceUrl:
    return ServiceUrl(f"http://127.0.0.1:{rabbitmq._api_port}")


def test_redis_tells_what_waits_and_what_workers_have(redis_server: RedisServer) -> None:
    url = redis_server.url(1)
    publish(url, FCM, 7)
    publish(url, APNS, 2)
    with closing(RedisQueues(ServiceUrl(url))) as broker, holding(url, FCM, 3):
        found = broker.depths()
        assert found.unacked is not None
        assert (found.ready[FCM], found.unacked[FCM]) == (4, 3)
        assert (found.ready[APNS], found.unacked[APNS]) == (2, 0)
        assert found.consumers == {}


def test_more_than_a_sample_is_estimated(redis_server: RedisServer) -> None:
    """What kombu keeps of a message: itself, its exchange, and its routing key."""
    with redis_server.client(1) as client:
        for queue, count in ((FCM, 3 * SAMPLE), (APNS, SAMPLE)):
            client.hset(
                "unacked", mapping={f"{queue}-{n}": f'[{{}},"pushq","{queue}"]' for n in range(count)}
            )
    with closing(RedisQueues(ServiceUrl(redis_server.url(1)))) as broker:
        unacked = broker.depths().unacked
    assert unacked is not None
    assert sum(unacked.values()) == pytest.approx(4 * SAMPLE, abs=2)
    assert unacked[FCM] == pytest.approx(3 * SAMPLE, rel=0.2)


def test_rabbitmq_tells_of_ready_messages_and_consumers_by_itself(rabbitmq_url: str) -> None:
    with closing(RabbitMqQueues(ServiceUrl(rabbitmq_url), None)) as broker:
        assert broker.depths().ready == {}  # nobody has declared anything yet
        publish(rabbitmq_url, FCM, 7)
        until(lambda: broker.depths().ready.get(FCM), 7)
        with holding(rabbitmq_url, FCM, 3):
            until(lambda: broker.depths().ready[FCM], 4)
            found = broker.depths()
    assert (found.consumers[FCM], found.consumers[APNS]) == (1, 0)
    assert found.ready[POISON] == 0
    assert found.unacked is None
    assert found.unacked_why == "PUSHQ_RABBITMQ_MANAGEMENT_URL is not set"


def test_the_management_plugin_knows_the_unacknowledged_ones(
    rabbitmq: RabbitMqServer, rabbitmq_url: str
) -> None:
    publish(rabbitmq_url, FCM, 7)

    def unacked() -> int | None:
        found = broker.depths().unacked
        assert found is not None
        return found[FCM]

    with (
        closing(RabbitMqQueues(ServiceUrl(rabbitmq_url), management(rabbitmq))) as broker,
        holding(rabbitmq_url, FCM, 3),
    ):
        until(unacked, 3)


def test_without_the_plugin_the_ready_ones_are_told_all_the_same(rabbitmq_url: str) -> None:
    publish(rabbitmq_url, FCM, 1)
    nobody = ServiceUrl(f"http://127.0.0.1:{free_port()}")
    with closing(RabbitMqQueues(ServiceUrl(rabbitmq_url), nobody)) as broker:
        until(lambda: broker.depths().ready[FCM], 1)
        found = broker.depths()
    assert found.unacked is None
    assert found.unacked_why is not None
    assert found.unacked_why.startswith("management API: ConnectError")


class Site:
    """Settings of an exporter, and what a scrape of it says."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        self.registry: CollectorRegistry = exporter.registry()

    def scrape(self) -> dict[str, float]:
        return {
            sample.name
            + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
            for family in self.registry.collect()
            for sample in family.samples
        }


@contextmanager
def site(folder: Path, database: str, redis_url: str, broker_url: str) -> Iterator[Site]:
    settings = Settings(
        database_url=database,  # type: ignore[arg-type]
        redis_url=redis_url,  # type: ignore[arg-type]
        broker_url=broker_url,  # type: ignore[arg-type]
        apps={"shop": bare_app(folder)},
    )
    with closing(Exporter(settings, deadline_s=20.0)) as exporter:
        yield Site(exporter)


def test_a_scrape_tells_of_everything(database: str, redis_server: RedisServer, tmp_path: Path) -> None:
    broker = redis_server.url(1)
    publish(broker, FCM, 4)
    with open_world(database, bare_app(tmp_path)) as world:
        world.add_devices("fcm", 20)
        send_id = world.send(audience={"segments": ["all"]})
    with site(tmp_path, database, redis_server.url(0), broker) as watched:
        found = watched.scrape()
    assert found["pushq_queue_messages queue=push.fcm state=ready"] == 4
    assert found["pushq_queue_messages queue=push.fcm state=unacked"] == 0
    assert found["pushq_queue_up broker=redis"] == found["pushq_queue_unacked_known broker=redis"] == 1
    assert found["pushq_sends state=sending"] == 1
    assert found["pushq_sends state=failed"] == 0
    assert sum(value for name, value in found.items() if name.startswith("pushq_batches ")) > 0
    assert found["pushq_batches platform=apns state=queued"] == 0
    assert found["pushq_oldest_waiting_batch_seconds platform=apns"] == 0
    assert found[f"pushq_send_pending_recipients app=shop platform=fcm send={send_id}"] == 20
    assert found[f"pushq_send_recipients app=shop outcome=accepted platform=fcm send={send_id}"] == 0
    assert found["push_tokens_active app=shop platform=fcm"] == 20
    assert found["pushq_redis_memory_bytes kind=used"] > 0
    assert all(found[f"pushq_exporter_up source={source}"] == 1 for source in ("broker", "database", "redis"))


def test_who_is_away_costs_his_own_series_alone(
    database: str, postgres: PostgresServer, redis_server: RedisServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    publish(rabbitmq_url, FCM, 1)
    with site(tmp_path, database, redis_server.url(0), rabbitmq_url) as watched:
        watched.exporter._deadline_s = 5.0
        assert watched.scrape()["pushq_exporter_up source=database"] == 1
        with paused(postgres):
            # Open connections to a server that says nothing: only the deadline helps.
            time.sleep(2.1)  # what was asked before is fresh for two seconds
            found = watched.scrape()
            assert found["pushq_exporter_up source=database"] == 0
            assert found["pushq_exporter_up source=broker"] == found["pushq_exporter_up source=redis"] == 1
            assert found["pushq_queue_messages queue=push.fcm state=ready"] == 1
            assert not any(name.startswith("pushq_sends") for name in found)
        watched.exporter._deadline_s = 20.0
        until(lambda: watched.scrape()["pushq_exporter_up source=database"], 1.0)


def test_a_broker_that_went_and_came_back(
    database: str, redis_server: RedisServer, rabbitmq: RabbitMqServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    publish(rabbitmq_url, FCM, 1)
    with site(tmp_path, database, redis_server.url(0), rabbitmq_url) as watched:
        until(lambda: watched.scrape()["pushq_queue_up broker=rabbitmq"], 1.0)
        rabbitmq.close_all_connections()
        until(lambda: watched.scrape()["pushq_queue_up broker=rabbitmq"], 1.0)
        assert watched.scrape()["pushq_queue_messages queue=push.fcm state=ready"] == 1
        assert watched.scrape()["pushq_queue_unacked_known broker=rabbitmq"] == 0


def test_nothing_runs_at_all(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with site(
        tmp_path, f"postgresql://pushq@{nowhere}/pushq", f"redis://{nowhere}/0", f"amqp://guest@{nowhere}//"
    ) as watched:
        before, found = watched.scrape(), watched.scrape()
    for source in ("broker", "database", "redis"):
        name = f"pushq_exporter_errors_total source={source}"
        assert found[name] == before[name] + 1
    assert all(found[f"pushq_exporter_up source={source}"] == 0 for source in ("broker", "database", "redis"))
    assert found["pushq_queue_up broker=rabbitmq"] == 0
