"""How many messages wait in the broker, and how many are with workers, unacknowledged.

Redis says both: a list for each queue, and a hash of all messages that were taken and not acknowledged. RabbitMQ says by AMQP only how
many are ready, and how many consumers a queue has; for the unacknowledged ones its management plugin must be asked. Without it they
are unknown here, and the workers' own gauge (``pushq_messages_held``) has to do.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote, urlsplit

import httpx
import orjson
import redis
from amqp.exceptions import NotFound
from kombu import Connection

from pushq.app import ALL_QUEUES, POISON, tls_options
from pushq.errors import ServiceUnavailable
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings

TIMEOUT_S: Final = 3.0
#: Unacknowledged messages of Redis that are looked at for their queue; of more, this many stand for all.
SAMPLE: Final = 2000
#: kombu's keys for messages of other priorities than 0, which nobody here sends.
_PRIORITIES: Final = ("\x06\x163", "\x06\x166", "\x06\x169")
_UNACKED: Final = "unacked"


@dataclass(frozen=True)
class Depths:
    """The queues at a moment.

    Attributes:
        ready: by queue, messages that wait for a worker; a queue that nobody has declared yet is missing.
        unacked: by queue, messages that a worker has; None where nobody can tell.
        consumers: by queue; empty where the broker does not know.
        unacked_why: why ``unacked`` is None.
    """

    ready: Mapping[str, int]
    unacked: Mapping[str, int] | None
    consumers: Mapping[str, int] = field(default_factory=dict)
    unacked_why: str | None = None


class Queues(Protocol):
    """One broker. Used by one thread at a time."""

    broker: str

    def depths(self) -> Depths:
        """Raises:
        ServiceUnavailable: it does not answer.
        """

    def close(self) -> None: ...


def queues_of(settings: Settings) -> Queues:
    """The queues of the broker in ``PUSHQ_BROKER_URL``.

    Raises:
        SettingsError: there is none.
    """
    url = settings.need_broker()
    if url.reveal().startswith("redis"):
        return RedisQueues(url)
    return RabbitMqQueues(url, settings.rabbitmq_management_url)


class RedisQueues:
    """Queues as kombu keeps them in Redis."""

    broker = "redis"

    def __init__(self, url: ServiceUrl) -> None:
        self._clients = [
            open_redis(one, max_connections=2, connect_timeout=TIMEOUT_S, command_timeout=TIMEOUT_S)
            for one in url.each()
        ]

    def depths(self) -> Depths:
        failure: redis.RedisError | None = None
        for client in self._clients:
            try:
                return _redis_depths(client)
            except redis.RedisError as exc:
                failure = exc
        raise ServiceUnavailable("Redis", "PUSHQ_BROKER_URL", type(failure).__name__) from failure

    def close(self) -> None:
        for client in self._clients:
            client.close()


def _redis_depths(client: redis.Redis) -> Depths:
    pipeline = client.pipeline(transaction=True)
    keys = [(queue, queue + suffix) for queue in ALL_QUEUES for suffix in ("", *_PRIORITIES)]
    for _, key in keys:
        pipeline.llen(key)
    pipeline.hlen(_UNACKED)
    *lengths, held = pipeline.execute()
    ready: Counter[str] = Counter(dict.fromkeys(ALL_QUEUES, 0))
    for (queue, _), length in zip(keys, lengths, strict=True):
        ready[queue] += int(length)
    return Depths(ready, _by_queue(client, int(held)))


def _by_queue(client: redis.Redis, held: int) -> dict[str, int]:
    """Unacknowledged messages by the queue that they came from: the routing key is kept with each."""
    found: Counter[str] = Counter()
    seen = 0
    if held:
        for _, raw in client.hscan_iter(_UNACKED, count=500):
            _, _, routing_key = orjson.loads(raw)
            found[str(routing_key)] += 1
            seen += 1
            if seen >= SAMPLE:
                break
    # Some may have been acknowledged, or taken, since they were counted: what was seen is the newer figure unless it is a sample.
    factor = held / seen if seen >= SAMPLE and held > seen else 1.0
    return {queue: round(found[queue] * factor) for queue in ALL_QUEUES}


class RabbitMqQueues:
    """Queues of one virtual host.

    Args:
        management: where the management API is; without a user in it, the broker's own account is used.
    """

    broker = "rabbitmq"

    def __init__(self, url: ServiceUrl, management: ServiceUrl | None) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._management = _Management(url, management) if management is not None else None

    def depths(self) -> Depths:
        try:
            ready, consumers = self._declared()
        except Exception as exc:
            self._drop()
            raise ServiceUnavailable("RabbitMQ", "PUSHQ_BROKER_URL", type(exc).__name__) from exc
        if self._management is None:
            return Depths(ready, None, consumers, "PUSHQ_RABBITMQ_MANAGEMENT_URL is not set")
        try:
            unacked = self._management.unacked()
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as exc:
            # httpx's messages hold the URL, but not the password: that is in a header.
            return Depths(ready, None, consumers, f"management API: {type(exc).__name__}: {exc}"[:300])
        return Depths(ready, {queue: unacked.get(queue, 0) for queue in ready}, consumers)

    def _declared(self) -> tuple[dict[str, int], dict[str, int]]:
        connection = self._connected()
        ready: dict[str, int] = {}
        consumers: dict[str, int] = {}
        channel = connection.channel()
        try:
            for queue in (*ALL_QUEUES, POISON):
                try:
                    found = channel.queue_declare(queue, passive=True)
                except NotFound:
                    # The broker has closed the channel with this answer.
                    channel = connection.channel()
                    continue
                ready[queue], consumers[queue] = found.message_count, found.consumer_count
        finally:
            channel.close()
        return ready, consumers

    def _connected(self) -> Connection:
        if self._connection is not None and not self._connection.connected:
            self._drop()
        if self._connection is None:
            self._connection = Connection(
                self._url.reveal(),
                connect_timeout=TIMEOUT_S,
                heartbeat=0,
                ssl=tls_options(self._url.reveal()),
                transport_options={"read_timeout": TIMEOUT_S, "write_timeout": TIMEOUT_S},
            )
            self._connection.ensure_connection(
                max_retries=len(self._url.each()) - 1, timeout=2 * TIMEOUT_S, interval_start=0
            )
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it is to go, whatever it says
                connection.release()

    def close(self) -> None:
        self._drop()
        if self._management is not None:
            self._management.close()


class _Management:
    """The management API, for one question."""

    def __init__(self, broker: ServiceUrl, url: ServiceUrl) -> None:
        parts, origin = urlsplit(url.reveal()), urlsplit(broker.each()[0].reveal())
        account = parts if parts.username else origin
        vhost = unquote(origin.path[1:]) or "/"
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._path = f"{parts.path.rstrip('/')}/api/queues/{quote(vhost, safe='')}"
        self._client = httpx.Client(
            base_url=f"{parts.scheme}://{host}{port}",
            auth=(unquote(account.username or "guest"), unquote(account.password or "guest")),
            timeout=TIMEOUT_S,
            trust_env=False,
            # OpenSSL's own places: SSL_CERT_FILE names another authority.
            verify=ssl.create_default_context(),
        )

    def unacked(self) -> dict[str, int]:
        """By queue; a few seconds old, as RabbitMQ collects its statistics."""
        answer = self._client.get(
            self._path, params={"columns": "name,messages_unacknowledged", "disable_stats": "false"}
        ).raise_for_status()
        rows: list[dict[str, Any]] = answer.json()
        return {str(row["name"]): int(row.get("messages_unacknowledged", 0)) for row in rows}

    def close(self) -> None:
        self._client.close()
