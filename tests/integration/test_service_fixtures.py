"""The servers that the other tests rely on do what they are relied on for."""

from __future__ import annotations

import time

import amqp
import psycopg
import pytest
import redis
from kombu import Connection, Exchange, Message, Queue
from kombu.exceptions import OperationalError

from pushq.embedded.postgres import PostgresServer
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.redis import RedisServer
from tests.services.faults import crash, paused, restart

ORDERS = Queue(
    "orders",
    Exchange("orders", type="topic"),
    routing_key="orders",
    queue_arguments={"x-queue-type": "quorum"},
)


#: Without them an operation on a queue that has no leader waits for ever.
TIMEOUTS = {"read_timeout": 15, "write_timeout": 15}


def publish(url: str, numbers: range) -> None:
    with (
        Connection(
            url, transport_options={"confirm_publish": True, **TIMEOUTS}, connect_timeout=5
        ) as connection,
        connection.Producer() as producer,
    ):
        for number in numbers:
            producer.publish(
                {"number": number},
                exchange=ORDERS.exchange,
                routing_key="orders",
                declare=[ORDERS],
                delivery_mode=2,
                timeout=5,
            )


def consume(url: str, count: int) -> list[object]:
    received: list[object] = []

    def take(body: object, message: Message) -> None:
        received.append(body)
        message.ack()

    with (
        Connection(url, connect_timeout=5, transport_options=TIMEOUTS) as connection,
        connection.Consumer([ORDERS], callbacks=[take]),
    ):
        while len(received) < count:
            connection.drain_events(timeout=10)
    return received


def test_a_quorum_queue_confirms_and_delivers(rabbitmq_url: str, rabbitmq: RabbitMqServer) -> None:
    publish(rabbitmq_url, range(10))
    assert consume(rabbitmq_url, 10) == [{"number": number} for number in range(10)]
    vhost = rabbitmq_url.rpartition("/")[2]
    assert rabbitmq.api("GET", f"/queues/{vhost}/orders")["type"] == "quorum"


def test_confirmed_messages_survive_kill_9_of_rabbitmq(rabbitmq_url: str, rabbitmq: RabbitMqServer) -> None:
    publish(rabbitmq_url, range(5))
    time.sleep(RabbitMqServer.QUEUE_SETTLES_S)
    crash(rabbitmq)
    with pytest.raises(OperationalError, match="refused"):
        publish(rabbitmq_url, range(1))
    rabbitmq.start()
    assert consume(rabbitmq_url, 5) == [{"number": number} for number in range(5)]


def test_rabbitmq_cuts_its_clients_off_on_request(rabbitmq_url: str, rabbitmq: RabbitMqServer) -> None:
    with Connection(rabbitmq_url, connect_timeout=5) as connection:
        connection.connect()
        rabbitmq.close_all_connections("test")
        with pytest.raises(amqp.ConnectionForced, match="test"):
            connection.drain_events(timeout=10)


def test_a_dead_rabbitmq_is_there_again_for_the_next_test_first_half(rabbitmq: RabbitMqServer) -> None:
    rabbitmq.kill()


def test_a_dead_rabbitmq_is_there_again_for_the_next_test_second_half(rabbitmq_url: str) -> None:
    publish(rabbitmq_url, range(1))


def test_each_test_has_its_own_empty_database(empty_database: str, postgres: PostgresServer) -> None:
    with psycopg.connect(empty_database, connect_timeout=5) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() == (0,)
        connection.execute("CREATE TABLE mine (id int)")
    name = empty_database.rpartition("/")[2]
    assert postgres.has_database(name)
    assert name != "pushq"


def test_committed_rows_survive_a_restart_and_kill_9_of_postgresql(
    empty_database: str, postgres: PostgresServer
) -> None:
    with psycopg.connect(empty_database, connect_timeout=5) as connection:
        connection.execute("CREATE TABLE mine (id int)")
    for fault in (restart, crash):
        with psycopg.connect(empty_database, connect_timeout=5) as connection:
            connection.execute("INSERT INTO mine VALUES (1)")
        fault(postgres)
        if fault is crash:
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(empty_database, connect_timeout=5)
            postgres.start()
    with psycopg.connect(empty_database, connect_timeout=5) as connection:
        assert connection.execute("SELECT count(*) FROM mine").fetchone() == (2,)


def test_a_paused_postgresql_accepts_and_does_not_answer(
    empty_database: str, postgres: PostgresServer
) -> None:
    with psycopg.connect(empty_database, connect_timeout=5) as connection:
        with paused(postgres), pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(empty_database, connect_timeout=2)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_redis_is_empty_for_each_test_first_half(redis_server: RedisServer) -> None:
    with redis_server.client() as client, redis_server.client(1) as broker:
        assert client.dbsize() == 0 == broker.dbsize()
        client.set("key", "value")
        broker.set("key", "value")


def test_redis_is_empty_for_each_test_second_half(redis_server: RedisServer) -> None:
    with redis_server.client() as client, redis_server.client(1) as broker:
        assert client.dbsize() == 0 == broker.dbsize()


def test_redis_keeps_its_data_over_kill_9_and_can_lose_it(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("key", "value")
        crash(redis_server)
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        redis_server.start()
        assert client.get("key") == b"value"
        redis_server.kill()
        redis_server.lose_data()
        redis_server.start()
        assert client.get("key") is None


def test_a_paused_redis_does_not_answer(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.ping()
        with paused(redis_server), pytest.raises(redis.TimeoutError):
            client.ping()
        assert client.ping()
