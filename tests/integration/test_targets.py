"""Sends whose recipients only the provider knows: topics and conditions of FCM, broadcast channels of APNs. Through the ledger."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pushq.app_settings import ApnsSettings, load_apps
from pushq.audience.request import parse_audience
from pushq.audience.sql import count
from pushq.embedded.postgres import PostgresServer
from pushq.errors import InvalidRequest
from pushq.ledger import sends
from pushq.ledger.recipients import recipients
from pushq.ledger.replay import choose, replay
from pushq.mock import MockProcess
from pushq.providers.apns.channels import ChannelRefused, Channels, ChannelsUnreachable
from pushq.providers.apns.credentials import load_certificate, provider_tokens
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.integration.ledger_world import APP, Worker, World, open_world

UPDATE = {"apns": {"live_activity": {"event": "update", "content_state": {"score": 3}}}}
SALE = {"title": "Sale", "body": "20% off"}


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, mock: MockProcess) -> Iterator[World]:
    app = load_apps(mock.config_file)[APP]
    with open_world(ledger_url, app, request_timeout=1.0, retry_max_attempts=3) as world:
        world.empty()
        # Devices that a target's send must leave alone.
        world.add_devices("apns", 3)
        world.add_devices("fcm", 3, first=4)
        yield world


def apns_of(world: World) -> ApnsSettings:
    apns = world.settings.apps[APP].apns
    assert apns is not None
    return apns


@pytest.fixture
def channels(world: World, redis_url: str) -> Iterator[dict[str, Channels]]:
    """By environment, authorized by the key."""
    settings, redis = apns_of(world), open_redis(ServiceUrl(redis_url))
    tokens = provider_tokens(settings, APP, redis, lambda: datetime.now(UTC).timestamp())
    opened = {
        environment: Channels(settings, environment, authorization=tokens[environment].authorization)
        for environment in ("production", "sandbox")
    }
    yield opened
    for each in opened.values():
        each.close()
    redis.close()


def run(world: World, worker: Worker, send_id: uuid.UUID) -> list[object]:
    return list(worker.run_orders(world.plan(send_id)))


class TestManagingChannels:
    def test_a_channels_life(self, channels: dict[str, Channels]) -> None:
        production = channels["production"]
        stored, plain = production.create(stores=True), production.create(stores=False)
        assert (stored.stores, plain.stores) == (True, False)
        assert production.read(stored.id) == stored
        assert production.read(plain.id) == plain
        assert {stored.id, plain.id} <= set(production.list())
        # It belongs to one environment.
        assert stored.id not in channels["sandbox"].list()
        production.delete(stored.id)
        assert stored.id not in production.list()
        for ask in (production.read, production.delete):
            with pytest.raises(
                ChannelRefused, match=r"ChannelNotRegistered.*pushq apns channels list"
            ) as refused:
                ask(stored.id)
            assert (refused.value.status, refused.value.reason) == (400, "ChannelNotRegistered")

    def test_by_certificate(self, world: World, mock: MockProcess) -> None:
        ready = mock.ready["apns"]
        changed = dict.fromkeys(("key_id", "key_file")) | {"certificate_file": ready["certificate_file"]}
        settings = ApnsSettings.model_validate(apns_of(world).model_dump() | changed)
        certificate = load_certificate(settings, APP)
        with Channels(settings, "sandbox", authorization=None, certificate=certificate) as opened:
            assert opened.create(stores=False).id in opened.list()
        (asked, _) = mock.requests("channels", 2)
        assert "authorization" not in dict(asked["headers"])

    def test_without_a_credential_it_is_refused(self, world: World) -> None:
        with (
            Channels(apns_of(world), "production", authorization=None) as opened,
            pytest.raises(ChannelRefused, match="403 MissingProviderToken"),
        ):
            opened.list()

    def test_another_teams_bundle_is_refused_with_a_hint(
        self, world: World, channels: dict[str, Channels]
    ) -> None:
        settings = apns_of(world).model_copy(update={"topic": "com.other.app"})
        authorization = channels["production"]._authorization
        with (
            Channels(settings, "production", authorization=authorization) as opened,
            pytest.raises(ChannelRefused, match=r"TopicMismatch.*team of the bundle id"),
        ):
            opened.create(stores=False)

    def test_refusals_in_the_providers_words(self, mock: MockProcess, channels: dict[str, Channels]) -> None:
        answer = {"status": 400, "reason": "CannotCreateChannelConfig"}
        mock.set_faults([{"platform": "channels", "answer": answer}])
        with pytest.raises(ChannelRefused, match="10,000"):
            channels["production"].create(stores=False)

    def test_no_answer_is_no_refusal(self, world: World) -> None:
        settings = apns_of(world).model_copy(update={"manage_url": "https://localhost:9"})
        with (
            Channels(settings, "production", authorization=None) as opened,
            pytest.raises(ChannelsUnreachable, match="pushq apns channels list"),
        ):
            opened.list()

    def test_an_id_that_is_none_is_not_asked_for(self, channels: dict[str, Channels]) -> None:
        with pytest.raises(InvalidRequest, match="base64"):
            channels["production"].read("a b")


class TestSendingToAChannel:
    @pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
    @pytest.mark.parametrize("environment", ["production", "sandbox"])
    def test_one_request_for_everybody(
        self,
        world: World,
        worker: Worker,
        mock: MockProcess,
        channels: dict[str, Channels],
        guarantee: Any,
        environment: str,
    ) -> None:
        channel = channels[environment].create(stores=False)
        audience = {"channel": channel.id, "environment": environment}
        send_id = world.accept(audience=audience, notification=UPDATE, guarantee=guarantee)
        assert run(world, worker, send_id) == []
        assert world.totals(send_id) == {"devices": 1, "accepted": 1}
        assert world.progress(send_id).state == "done"
        assert mock.accepted("apns") == {f"channel:{channel.id}": 1}
        (request,) = mock.requests("apns")
        headers = dict(request["headers"])
        assert request["path"] == "/4/broadcasts/apps/com.example.shop"
        assert (headers["apns-channel-id"], headers["apns-push-type"]) == (channel.id, "liveactivity")
        assert (headers["apns-expiration"], headers["apns-priority"]) == ("0", "10")
        assert "apns-topic" not in headers
        called = world.value("SELECT called_at FROM sends WHERE id = :id", id=send_id)
        assert json.loads(request["body"]) == {
            "aps": {"timestamp": int(called.timestamp()), "event": "update", "content-state": {"score": 3}}
        }
        assert worker.redis.keys("pushq:journal:*") == []

    def test_a_time_for_a_channel_that_stores_nothing_ends_the_send_with_the_reason(
        self, world: World, worker: Worker, channels: dict[str, Channels]
    ) -> None:
        audience = {"channel": channels["production"].create(stores=False).id}
        send_id = world.accept(audience=audience, notification={**UPDATE, "ttl": 3600})
        run(world, worker, send_id)
        progress = world.progress(send_id)
        assert (progress.state, world.totals(send_id)) == ("failed", {"devices": 1, "rejected": 1})
        assert "BadExpirationDate" in (progress.error or "")
        stored = {"channel": channels["production"].create(stores=True).id}
        again = world.accept(audience=stored, notification={**UPDATE, "ttl": 3600})
        run(world, worker, again)
        assert world.totals(again) == {"devices": 1, "accepted": 1}

    def test_a_channel_that_is_gone_ends_the_send(self, world: World, worker: Worker) -> None:
        send_id = world.accept(audience={"channel": "Z29uZQ=="}, notification=UPDATE)
        run(world, worker, send_id)
        assert "ChannelNotRegistered" in (world.progress(send_id).error or "")

    def test_a_placeholder_takes_its_default_and_variants_are_left_out(
        self, world: World, worker: Worker, mock: MockProcess, channels: dict[str, Channels]
    ) -> None:
        notification = {
            "title": "Hello {name|friend}",
            "languages": {"de": {"title": "Hallo {name|Freund}"}},
            "apns": UPDATE["apns"],
        }
        audience = {"channel": channels["production"].create(stores=False).id}
        send_id = world.accept(audience=audience, notification=notification)
        run(world, worker, send_id)
        assert world.totals(send_id) == {"devices": 1, "accepted": 1}
        (request,) = mock.requests("apns")
        assert json.loads(request["body"])["aps"]["alert"] == {"title": "Hello friend"}


class TestGuarantees:
    """A target is a recipient like any other."""

    def test_at_most_once_never_repeats_what_may_have_arrived(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        mock.set_faults([{"platform": "fcm", "rst": "INTERNAL_ERROR", "processed": True}])
        send_id = world.accept(audience={"topic": "news"}, notification=SALE, guarantee="at_most_once")
        run(world, worker, send_id)
        assert world.totals(send_id) == {"devices": 1, "unknown": 1}
        assert mock.accepted("fcm") == {"topic:news": 1}

    def test_at_least_once_tries_again(self, world: World, worker: Worker, mock: MockProcess) -> None:
        mock.set_faults([{"platform": "fcm", "rst": "INTERNAL_ERROR", "processed": True, "times": 1}])
        send_id = world.accept(audience={"topic": "news"}, notification=SALE, guarantee="at_least_once")
        (order,) = world.plan(send_id)
        step = worker.run(send_id, order.batch_no)  # type: ignore[union-attr]
        assert step.retry_in is not None
        world.let_time_pass(send_id)
        worker.run(send_id, order.batch_no)  # type: ignore[union-attr]
        assert world.totals(send_id) == {"devices": 1, "accepted": 1}
        assert mock.accepted("fcm") == {"topic:news": 2}
        # The repetition replaces its first copy on the phone.
        keys = {
            json.loads(each["body"])["message"]["android"]["collapse_key"] for each in mock.requests("fcm")
        }
        assert keys == {send_id.hex}

    def test_a_worker_that_vanishes_leaves_a_batch_like_any_other(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        send_id = world.accept(audience={"topic": "news"}, notification=SALE, guarantee="at_most_once")
        (order,) = world.plan(send_id)
        world.acquire(send_id, order.batch_no)  # type: ignore[union-attr]
        world.let_leases_end(send_id)
        # Without its journal anybody may have been reached.
        worker.run(send_id, order.batch_no)  # type: ignore[union-attr]
        assert world.totals(send_id) == {"devices": 1, "unknown": 1}
        assert mock.accepted("fcm") == {}


class TestTopics:
    @pytest.mark.parametrize(
        ("audience", "counted"),
        [
            ({"topic": "news"}, "topic:news"),
            (
                {"condition": "'news' in topics && !('de' in topics)"},
                "condition:'news' in topics && !('de' in topics)",
            ),
        ],
    )
    def test_one_request_for_everybody(
        self, world: World, worker: Worker, mock: MockProcess, audience: dict[str, str], counted: str
    ) -> None:
        send_id = world.accept(audience=audience, notification=SALE)
        run(world, worker, send_id)
        assert world.totals(send_id) == {"devices": 1, "accepted": 1}
        assert mock.accepted("fcm") == {counted: 1}
        assert mock.accepted("apns") == {}
        (request,) = mock.requests("fcm")
        message = json.loads(request["body"])["message"]
        assert {key: message[key] for key in audience} == audience
        assert message["notification"] == SALE

    def test_a_topics_own_quota_holds_up_nobody_else(
        self, world: World, worker: Worker, mock: MockProcess
    ) -> None:
        mock.set_faults([{"platform": "fcm", "answer": {"status": 429, "shape": "n"}, "times": 1}])
        send_id = world.accept(audience={"topic": "news"}, notification=SALE)
        (order,) = world.plan(send_id)
        assert worker.run(send_id, order.batch_no).retry_in == pytest.approx(60.0, abs=3.0)  # type: ignore[union-attr]
        world.let_time_pass(send_id)
        worker.run(send_id, order.batch_no)  # type: ignore[union-attr]
        assert world.totals(send_id) == {"devices": 1, "accepted": 1}


class TestTheLedger:
    def test_the_one_recipient_has_no_user_and_no_device(self, world: World) -> None:
        send_id = world.send(audience={"topic": "news"}, notification=SALE)
        assert world.rows(
            "SELECT batch_no, platform, recipients, user_ids, device_ids FROM send_batches WHERE send_id = :id",
            id=send_id,
        ) == [(sends.EXPLICIT_SHARD, "fcm", 1, [0], [0])]
        (block,) = recipients(world.database, send_id)
        assert (block.user_ids, block.device_ids, block.outcomes) == ([0], [0], ["pending"])

    def test_planning_twice_makes_one_batch(self, world: World) -> None:
        send_id = world.send(audience={"topic": "news"}, notification=SALE)
        assert world.plan(send_id) == []
        assert world.value("SELECT count(*) FROM send_batches WHERE send_id = :id", id=send_id) == 1

    def test_it_counts_as_one_and_never_as_devices(self, world: World) -> None:
        with world.database.begin() as connection:
            assert count(connection, APP, parse_audience({"topic": "news"})) == {"fcm": 1}
            assert count(connection, APP, parse_audience({"channel": "abc="})) == {"apns": 1}

    def test_the_target_comes_back_with_the_send(self, world: World) -> None:
        send_id = world.accept(audience={"channel": "abc=", "environment": "sandbox"}, notification=UPDATE)
        with world.database.begin() as connection:
            target = sends.load(connection, send_id).target
        assert target is not None
        assert (target.kind, target.value, target.environment) == ("channel", "abc=", "sandbox")

    def test_an_app_without_the_platform_refuses_it(self, world: World) -> None:
        only = {APP: world.settings.apps[APP].model_copy(update={"fcm": None})}
        settings = world.settings.model_copy(update={"apps": only})
        submission = world.submission(audience={"topic": "news"}, notification=SALE)
        orders, error = sends.accept(world.database, settings, uuid.uuid4(), submission)
        assert orders == []
        assert "audience.platforms" in (error or "")

    def test_a_failed_one_can_be_sent_again(self, world: World, worker: Worker, mock: MockProcess) -> None:
        mock.set_faults([{"platform": "fcm", "answer": {"status": 400}}])
        send_id = world.accept(audience={"topic": "news"}, notification=SALE)
        run(world, worker, send_id)
        assert world.totals(send_id) == {"devices": 1, "rejected": 1}
        mock.set_faults([])
        replay(world.database, send_id, choose(["rejected"]))
        world.change("UPDATE send_batches SET due_at = now() WHERE send_id = :id", id=send_id)
        world.change(
            "UPDATE send_batches SET state = 'queued' WHERE send_id = :id AND state <> 'done'", id=send_id
        )
        worker.run_queued(send_id)
        assert world.totals(send_id) == {"devices": 1, "accepted": 1}


def test_the_clock_of_a_scheduled_update_is_that_of_its_time(
    world: World, worker: Worker, mock: MockProcess, channels: dict[str, Channels]
) -> None:
    """A Live Activity ignores what is older than what it shows: the time is when it was due, on every attempt."""
    due = datetime.now(UTC) - timedelta(seconds=5)
    channel = channels["production"].create(stores=False)
    send_id = world.accept(
        audience={"channel": channel.id}, notification=UPDATE, send_at=due, called_at=due - timedelta(hours=1)
    )
    run(world, worker, send_id)
    (request,) = mock.requests("apns")
    assert json.loads(request["body"])["aps"]["timestamp"] == int(due.timestamp())
