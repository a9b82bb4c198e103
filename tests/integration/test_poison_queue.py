"""The queue for messages that came back too often is there although nobody consumes it."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from celery import Celery

from pushq.app import POISON, configuration, declare_poison
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.settings import load


def configured(url: str) -> Celery:
    app = Celery(set_as_current=False)
    app.conf.update(configuration(load({"PUSHQ_BROKER_URL": url})))
    return app


def test_rabbitmq_has_the_poison_queue_bound_to_its_exchange(
    rabbitmq: RabbitMqServer, rabbitmq_url: str
) -> None:
    for _ in range(2):  # every worker does it
        declare_poison(configured(rabbitmq_url))
    vhost = quote(urlsplit(rabbitmq_url).path[1:], safe="")
    bindings = rabbitmq.api("GET", f"/queues/{vhost}/{POISON}/bindings")
    assert (POISON, "#") in {(one["source"], one["routing_key"]) for one in bindings}


def test_redis_has_none(redis_url: str) -> None:
    declare_poison(configured(redis_url))
