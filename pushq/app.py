"""The Celery app: queues, routes and the settings behind them.

The broker carries work orders, PostgreSQL carries the truth: a lost message costs a delay, so nothing here tries to be cleverer
than that. The measured reason stands beside each setting that is not Celery's default.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any, Final

from celery import Celery
from celery.schedules import crontab
from kombu import Exchange, Queue

from pushq.platforms import PLATFORMS
from pushq.settings import Settings, load

BROADCAST: Final = "pushq.broadcast"
TRANSACTIONAL: Final = "pushq.transactional"
DEAD_LETTER: Final = "pushq.dead_letter"
MAINTENANCE: Final = "pushq.maintenance"
#: Where RabbitMQ puts a message that has come back too often; the ledger does not need it, an operator may want to see it.
POISON: Final = "pushq.poison"
PLATFORM_QUEUES: Final = {
    (platform, lane): f"push.{platform}" + (".transactional" if lane == "transactional" else "")
    for platform in PLATFORMS
    for lane in ("broadcast", "transactional")
}
#: Queues of the worker that plans, buries and cleans, by lane: planning a broadcast must not stand before a transactional call.
CORE_LANES: Final = {
    "broadcast": (BROADCAST, DEAD_LETTER, MAINTENANCE),
    "transactional": (TRANSACTIONAL,),
}
CORE_QUEUES: Final = (*CORE_LANES["broadcast"], *CORE_LANES["transactional"])
ALL_QUEUES: Final = (*CORE_QUEUES, *PLATFORM_QUEUES.values())

#: Finds a dead broker within half a minute, in the place of AMQP heartbeats; seconds, but milliseconds for the last.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}

_EXCHANGE: Final = Exchange("pushq", type="topic", durable=True)
_POISON_EXCHANGE: Final = Exchange("pushq.poison", type="fanout", durable=True)

#: After this, a message that a dead worker had taken is put back (by the sweep; see pushq.tasks.redelivery). Only calls that are not in
#: the ledger yet depend on it. A task that takes longer, or waits longer for its countdown, is delivered twice and dropped once.
REDIS_VISIBILITY_S: Final = 40
#: Seconds for a publication, and for RabbitMQ's confirm of it: a broker that hangs must be noticed, not waited for.
PUBLISH_TIMEOUTS: Final = {"timeout": 10, "confirm_timeout": 15}


def queues(*, amqp: bool) -> list[Queue]:
    """Every queue; on RabbitMQ quorum queues, bounded redelivery, and refusal instead of silent loss when one is full."""
    arguments: dict[str, Any] | None = (
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": _POISON_EXCHANGE.name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        if amqp
        else None
    )
    result = [
        Queue(name, _EXCHANGE, routing_key=name, durable=True, queue_arguments=arguments)
        for name in ALL_QUEUES
    ]
    if amqp:
        result.append(
            Queue(
                POISON,
                _POISON_EXCHANGE,
                routing_key="#",
                durable=True,
                queue_arguments={"x-queue-type": "quorum"},
            )
        )
    return result


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for these settings."""
    # An application may import the tasks before it knows its broker; a call without one is refused (see tasks/entry.py).
    url = settings.broker_url.reveal() if settings.broker_url is not None else None
    amqp = url is not None and url.startswith(("amqp", "pyamqp"))
    return {
        "broker_url": url,
        "broker_use_ssl": tls_options(url),
        "broker_connection_timeout": 5,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # never give up
        "broker_channel_error_retry": True,  # RabbitMQ's consumer_timeout closes the channel with 406
        "broker_pool_limit": 20,
        "broker_pool_acquire_timeout": 10,  # fail visibly, do not hang
        # With AMQP heartbeats and an event dispatcher a gevent worker waits 0.1 s in every loop cycle and takes about ten tasks a
        # second; dead peers are found by TCP keepalive instead (see benchmarks/consume_rate.py).
        "broker_heartbeat": 0,
        "broker_transport_options": _amqp_options() if amqp else _redis_options(),
        "task_queues": queues(amqp=amqp),
        "task_routes": {
            "pushq.send_broadcast": {"queue": BROADCAST},
            "pushq.send_notification": {"queue": TRANSACTIONAL},
            "pushq.send_notifications": {"queue": TRANSACTIONAL},
            "pushq.plan_shard": {"queue": BROADCAST},
            **{
                f"pushq.deliver_batch.{platform}": {"queue": PLATFORM_QUEUES[platform, "broadcast"]}
                for platform in PLATFORMS
            },
            **{
                f"pushq.deliver_together.{platform}": {"queue": PLATFORM_QUEUES[platform, "transactional"]}
                for platform in PLATFORMS
            },
            "pushq.dead_letters": {"queue": DEAD_LETTER},
            "pushq.sweep": {"queue": MAINTENANCE},
            "pushq.cleanup": {"queue": MAINTENANCE},
        },
        "task_default_queue": MAINTENANCE,
        "task_default_exchange": _EXCHANGE.name,
        "task_default_exchange_type": "topic",  # native delayed delivery on quorum queues needs it
        "task_default_routing_key": MAINTENANCE,
        "task_default_queue_type": "quorum" if amqp else "classic",
        "task_create_missing_queues": False,  # a typo must not create a queue without a dead-letter exchange
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_ignore_result": True,
        # There is none, and one for all: else Celery makes one for each greenlet, twice for each message.
        "result_backend_thread_safe": True,
        "task_store_errors_even_if_ignored": False,
        # A failover to another node needs one more try. Each may wait for a node that takes connections and confirms nothing, and
        # the caller waits for all of them: with two of three nodes down, about 36 s for each try.
        "task_publish_retry_policy": {
            "max_retries": 1,
            "interval_start": 0.1,
            "interval_step": 0.3,
            "interval_max": 1.0,
        },
        # RabbitMQ: above the pool's size, gevent blocks the consumer, which then misses what the broker says.
        # Redis: a consumer whose prefetch is full sleeps a second before it looks again (kombu, MultiChannelPoller.get), while
        # one that is blocked by the pool goes on as soon as a task ends; there are no heartbeats to miss.
        "worker_prefetch_multiplier": 1 if amqp else 4,
        "worker_disable_rate_limits": True,
        # The broker will deliver the messages of a lost connection again, but the tasks hold the leases of their batches: what is
        # delivered again is dropped. Cancelled, they would leave what they had in flight to be repeated, or unknown.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": settings.events,
        "task_send_sent_event": settings.events,
        "enable_utc": True,
        "beat_schedule": beat_schedule(settings),
    }


def to_queue(name: str) -> dict[str, str]:
    """Options of a publication that goes to one queue at once.

    By way of the topic exchange, which only delayed messages need, kombu would ask Redis each time which queues are bound to it; of one that
    has lost its data nobody would be, and the message would be gone without a word. RabbitMQ knows by itself, and there a caller may
    need the right to write to that exchange only.
    """
    if (app.conf.broker_url or "").startswith(("amqp", "pyamqp")):
        return {"queue": name}
    return {"queue": name, "exchange": "", "routing_key": name}


def tls_options(url: str | None) -> dict[str, Any] | bool:
    """kombu's ``ssl`` for every connection to the broker, whoever makes it.

    What kombu must be told, or it sends the password to whoever answers: for rediss:// it checks no certificate, for amqps:// no name.
    """
    if url is None:
        return False
    if "rediss://" in url:
        return {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return _EachHost(server_hostname=None) if "amqps://" in url else False


class _EachHost(dict[str, Any]):
    """Options in which ``server_hostname`` is None for whoever asks: "the host that is connected to".

    kombu writes the host of the first connection in its place and leaves it there (pyamqp.Transport.establish_connection), so that after
    a failover the next broker would be measured by the first one's name. What is written is still what amqp gets.
    """

    def __getitem__(self, key: str) -> Any:
        return None if key == "server_hostname" else super().__getitem__(key)


def _amqp_options() -> dict[str, Any]:
    return {
        "confirm_publish": True,  # without it a refusal by the broker is silent
        "socket_settings": {
            getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
        },
        "max_retries": 3,
    }


def _redis_options() -> dict[str, Any]:
    return {
        "visibility_timeout": REDIS_VISIBILITY_S,
        # Of the lock under which unacknowledged messages are put back; whoever is killed with it must not stop that for five minutes.
        "unacked_mutex_expire": 15,
        "socket_timeout": 15,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "max_connections": 50,
        "max_retries": 3,
    }


def beat_schedule(settings: Settings) -> dict[str, Any]:
    return {
        # A sweep that nobody took up is worthless once the next one is there.
        "sweep": {
            "task": "pushq.sweep",
            "schedule": timedelta(seconds=settings.sweep_seconds),
            "options": {"expires": max(settings.sweep_seconds, 1.0)},
        },
        "cleanup": {
            "task": "pushq.cleanup",
            "schedule": crontab(hour="3", minute="17"),
            "options": {"expires": 6 * 3600},
        },
    }


def declare_poison(celery: Celery) -> None:
    """Make the queue for messages that came back too often, and its exchange: no worker consumes it, so nobody else makes it.

    Without the exchange RabbitMQ cannot let go of such a message, and Celery's delayed delivery, which binds every queue it is told of,
    calls itself unavailable. On Redis there is nothing to make.

    Raises:
        OperationalError, OSError: the broker cannot be reached.
    """
    queue = celery.amqp.queues.get(POISON)
    if queue is not None:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=PUBLISH_TIMEOUTS["timeout"])
            queue(connection.default_channel).declare()


app = Celery("pushq", set_as_current=False)
app.add_defaults(lambda: configuration(load()))
app.conf.imports = ("pushq.tasks",)
