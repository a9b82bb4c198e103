"""The Celery app: what its configuration promises, and what a wrong call says before a broker is touched."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import QueueNotFound

import pushq.tasks
from pushq.app import (
    ALL_QUEUES,
    CORE_QUEUES,
    MAINTENANCE,
    PLATFORM_QUEUES,
    POISON,
    app,
    configuration,
)
from pushq.errors import InvalidRequest, ServiceUnavailable, SettingsError
from pushq.platforms import PLATFORMS
from pushq.settings import Settings, load
from pushq.tasks.entry import send_broadcast, send_notification

PASSWORD = "hunter2hunter2"
NOTIFICATION = {"title": "Sale", "body": "20% off"}
AUDIENCE = {"segments": ["all"]}
#: A call that takes longer hangs; it makes a few attempts with pauses of a second at most.
HANGS_S = 60.0


def settings(broker: str, **more: str) -> Settings:
    return load({"PUSHQ_BROKER_URL": broker, **{f"PUSHQ_{name.upper()}": v for name, v in more.items()}})


AMQP = settings("amqp://u:p@localhost:5672//")
REDIS = settings("redis://localhost:6379/1")
BOTH = pytest.mark.parametrize("chosen", [AMQP, REDIS], ids=["rabbitmq", "redis"])


def applied(chosen: Settings) -> Celery:
    """Celery's own reading of the configuration: it refuses names it does not know."""
    fresh = Celery("test", set_as_current=False)
    fresh.conf.update(configuration(chosen))
    return fresh


def our_tasks() -> list[str]:
    return sorted(name for name in app.tasks if name.startswith("pushq."))


class TestConfiguration:
    @BOTH
    def test_every_name_is_one_of_celery(self, chosen: Settings) -> None:
        from celery.app.defaults import NAMESPACES, flatten  # noqa: PLC0415

        # Celery documents this one and reads it by its name; its table lacks it. The next test sees that it has an effect.
        known = {name for name, _ in flatten(NAMESPACES)} | {"result_backend_thread_safe"}
        assert set(configuration(chosen)) <= known

    @BOTH
    def test_no_thread_or_greenlet_makes_a_result_backend_of_its_own(self, chosen: Settings) -> None:
        app = applied(chosen)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: app.backend).result(60) is app.backend

    @BOTH
    def test_only_json_travels(self, chosen: Settings) -> None:
        conf = applied(chosen).conf
        assert conf.accept_content == ["json"]
        assert conf.task_serializer == "json"

    @BOTH
    def test_nothing_is_stored_and_nothing_is_taken_back_early(self, chosen: Settings) -> None:
        conf = applied(chosen).conf
        assert conf.result_backend is None
        assert conf.task_ignore_result
        assert conf.task_acks_late
        assert conf.task_reject_on_worker_lost

    @BOTH
    def test_every_wait_for_the_broker_is_bounded(self, chosen: Settings) -> None:
        conf = applied(chosen).conf
        assert conf.broker_connection_timeout == 5
        assert conf.broker_pool_acquire_timeout == 10
        assert conf.task_publish_retry_policy["max_retries"] == 1  # as long again for each
        assert conf.broker_transport_options["max_retries"] == 3

    def test_rabbitmq_prefetches_no_more_than_it_runs(self) -> None:
        assert applied(AMQP).conf.worker_prefetch_multiplier == 1
        assert applied(REDIS).conf.worker_prefetch_multiplier == 4

    @BOTH
    def test_a_lost_connection_cuts_off_no_delivery(self, chosen: Settings) -> None:
        assert applied(chosen).conf.worker_cancel_long_running_tasks_on_connection_loss is False

    @BOTH
    def test_the_heartbeat_that_slows_gevent_workers_is_off(self, chosen: Settings) -> None:
        assert applied(chosen).conf.broker_heartbeat == 0

    def test_rabbitmq_confirms_and_keeps_watch_over_its_connections(self) -> None:
        options = applied(AMQP).conf.broker_transport_options
        assert options["confirm_publish"] is True
        # py-amqp hands them to setsockopt as they are.
        with socket.socket() as one:
            for number, value in options["socket_settings"].items():
                one.setsockopt(socket.IPPROTO_TCP, number, value)
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3

    def test_redis_times_out_and_gives_back(self) -> None:
        options = applied(REDIS).conf.broker_transport_options
        assert options["visibility_timeout"] == 40
        assert 0 < options["socket_timeout"] <= 15
        assert 0 < options["socket_connect_timeout"] <= 5
        assert "confirm_publish" not in options

    @BOTH
    @pytest.mark.parametrize("events", ["true", "false"])
    def test_events_are_a_setting(self, chosen: Settings, events: str) -> None:
        assert chosen.broker_url is not None
        conf = applied(settings(chosen.broker_url.reveal(), events=events)).conf
        assert conf.worker_send_task_events is conf.task_send_sent_event is (events == "true")

    def test_without_a_broker_it_can_still_be_read(self) -> None:
        assert configuration(load({}))["broker_url"] is None


class TestQueues:
    def test_rabbitmq_queues_survive_and_refuse_rather_than_lose(self) -> None:
        queues = applied(AMQP).amqp.queues
        assert set(queues) == {*ALL_QUEUES, POISON}
        for name in ALL_QUEUES:
            assert queues[name].durable
            assert queues[name].queue_arguments == {
                "x-queue-type": "quorum",
                "x-delivery-limit": 20,
                "x-dead-letter-exchange": "pushq.poison",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
            assert (queues[name].exchange.name, queues[name].exchange.type) == ("pushq", "topic")
            assert queues[name].routing_key == name
        assert queues[POISON].exchange.name == "pushq.poison"
        assert queues[POISON].queue_arguments == {"x-queue-type": "quorum"}

    def test_redis_queues_have_no_arguments_of_rabbitmq(self) -> None:
        queues = applied(REDIS).amqp.queues
        assert set(queues) == set(ALL_QUEUES)
        assert all(queue.queue_arguments is None for queue in queues.values())

    @BOTH
    def test_an_unknown_queue_is_not_made_up(self, chosen: Settings) -> None:
        with pytest.raises(QueueNotFound, match=r"push\.apsn"):
            applied(chosen).amqp.router.route({"queue": "push.apsn"}, "pushq.deliver_batch.apns")

    def test_every_queue_is_served_by_one_kind_of_worker(self) -> None:
        assert set(CORE_QUEUES).isdisjoint(PLATFORM_QUEUES.values())
        assert {*CORE_QUEUES, *PLATFORM_QUEUES.values()} == set(ALL_QUEUES)

    @BOTH
    def test_every_task_has_a_route_to_a_queue_that_exists(self, chosen: Settings) -> None:
        fresh = applied(chosen)
        assert set(fresh.conf.task_routes) == set(our_tasks())
        for name in our_tasks():
            route = fresh.amqp.router.route({}, name)
            assert route["queue"].name == fresh.conf.task_routes[name]["queue"]
            assert route["queue"].name in ALL_QUEUES

    def test_platforms_are_routed_apart(self) -> None:
        routes = configuration(AMQP)["task_routes"]
        queues = {routes[f"pushq.deliver_batch.{platform}"]["queue"] for platform in PLATFORMS}
        assert len(queues) == len(PLATFORMS) == 3

    @BOTH
    def test_a_task_without_a_route_goes_to_maintenance_not_to_a_queue_of_its_own(
        self, chosen: Settings
    ) -> None:
        assert applied(chosen).amqp.router.route({}, "some.task")["queue"].name == MAINTENANCE

    def test_beat_starts_only_tasks_that_exist(self) -> None:
        schedule = configuration(settings("redis://localhost/1", sweep_seconds="2"))["beat_schedule"]
        assert (
            {entry["task"] for entry in schedule.values()}
            == {"pushq.sweep", "pushq.cleanup"}
            <= set(our_tasks())
        )
        assert schedule["sweep"]["schedule"].total_seconds() == schedule["sweep"]["options"]["expires"] == 2

    def test_the_tasks_are_those_of_the_package(self) -> None:
        assert set(pushq.tasks.__all__) == {"deliver", "entry", "maintenance", "many", "plan"}
        assert our_tasks() == [
            "pushq.cleanup",
            "pushq.dead_letters",
            "pushq.deliver_batch.apns",
            "pushq.deliver_batch.fcm",
            "pushq.deliver_batch.hms",
            "pushq.deliver_together.apns",
            "pushq.deliver_together.fcm",
            "pushq.deliver_together.hms",
            "pushq.plan_shard",
            "pushq.send_broadcast",
            "pushq.send_notification",
            "pushq.send_notifications",
            "pushq.sweep",
        ]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody else can take and that refuses connections: bound, not listening."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


class TestCalls:
    """In this process the app has no broker at all: whoever reached for one would be told so instead."""

    @pytest.mark.parametrize(
        ("arguments", "options", "field"),
        [
            (({}, AUDIENCE), {}, "notification"),
            (("Sale", AUDIENCE), {}, "notification"),
            (({"title": "x" * 5000}, AUDIENCE), {}, "notification"),
            (({**NOTIFICATION, "data": {"price": 5}}, AUDIENCE), {}, "notification.data.price"),
            (({**NOTIFICATION, "colour": "red"}, AUDIENCE), {}, "notification.colour"),
            ((NOTIFICATION, {}), {}, "audience"),
            ((NOTIFICATION, {"segments": "all"}), {}, "audience.segments"),
            ((NOTIFICATION, {**AUDIENCE, "platforms": ["pigeon"]}), {}, "audience.platforms"),
            ((NOTIFICATION, AUDIENCE), {"guarantee": "exactly_once"}, "guarantee"),
            ((NOTIFICATION, AUDIENCE), {"app": 5}, "app"),
            ((NOTIFICATION, AUDIENCE), {"idempotency_key": ""}, "idempotency_key"),
            ((NOTIFICATION, AUDIENCE), {"send_at": "2030-01-01T00:00:00"}, "send_at"),
            ((NOTIFICATION, AUDIENCE), {"send_at": "soon"}, "send_at"),
            ((), {}, "pushq.send_broadcast()"),
            ((NOTIFICATION,), {}, "pushq.send_broadcast()"),
            ((NOTIFICATION, AUDIENCE), {"guaranty": "at_most_once"}, "pushq.send_broadcast()"),
        ],
    )
    def test_a_wrong_broadcast_names_the_field(
        self, arguments: tuple[Any, ...], options: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidRequest) as caught:
            send_broadcast.delay(*arguments, **options)
        assert caught.value.field.startswith(field)
        assert caught.value.found
        assert caught.value.expected

    @pytest.mark.parametrize(
        ("arguments", "options", "field"),
        [
            (([], NOTIFICATION), {}, "audience.user_ids"),
            ((["7"], NOTIFICATION), {}, "audience.user_ids"),
            ((7, NOTIFICATION), {}, "audience.user_ids"),
            (([7], {}), {}, "notification"),
            (([7], NOTIFICATION), {"platforms": ["pigeon"]}, "audience.platforms"),
            (([7],), {}, "pushq.send_notification()"),
        ],
    )
    def test_a_wrong_notification_names_the_field(
        self, arguments: tuple[Any, ...], options: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidRequest) as caught:
            send_notification.delay(*arguments, **options)
        assert caught.value.field.startswith(field)

    @pytest.mark.parametrize(
        ("option", "expected"),
        [("countdown", "send_at"), ("eta", "send_at"), ("link", "none"), ("retries", "none")],
    )
    def test_options_of_celery_that_would_break_the_promise_are_refused(
        self, option: str, expected: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=expected) as caught:
            send_broadcast.apply_async((NOTIFICATION, AUDIENCE), **{option: 5})
        assert caught.value.field == option

    def test_a_good_call_without_a_broker_names_the_setting(self) -> None:
        with pytest.raises(SettingsError, match=r"^PUSHQ_BROKER_URL: found nothing; expected "):
            send_broadcast.delay(NOTIFICATION, AUDIENCE)

    @pytest.mark.parametrize("scheme", ["amqp", "redis"])
    def test_a_broker_that_is_down_is_named_without_its_password(self, scheme: str, closed_port: int) -> None:
        """In a process of its own, as an application meets it: the wrong call first, then the good one."""
        code = (
            "import json, traceback\n"
            "from pushq import InvalidRequest, ServiceUnavailable, send_broadcast, send_notification\n"
            "answers = []\n"
            f"for call in (lambda: send_broadcast.delay({{}}, {AUDIENCE}),\n"
            f"             lambda: send_broadcast.delay({NOTIFICATION}, {AUDIENCE}),\n"
            f"             lambda: send_notification.delay([7], {NOTIFICATION})):\n"
            "    try: call()\n"
            "    except (InvalidRequest, ServiceUnavailable) as exc:\n"
            "        answers.append([type(exc).__name__, str(exc), ''.join(traceback.format_exception(exc))])\n"
            "print(json.dumps(answers))\n"
        )
        broker = f"{scheme}://pushq:{PASSWORD}@127.0.0.1:{closed_port}/0"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, "PUSHQ_BROKER_URL": broker},
            capture_output=True,
            text=True,
            timeout=HANGS_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        assert [kind for kind, _, _ in answers] == [
            InvalidRequest.__name__,
            ServiceUnavailable.__name__,
            ServiceUnavailable.__name__,
        ]
        assert all("PUSHQ_BROKER_URL" in message for _, message, _ in answers[1:])
        assert PASSWORD not in done.stdout + done.stderr
