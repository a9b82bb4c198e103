"""What an app is known by at APNs, over real TLS: client certificates as PEM and PKCS#12, a key for each environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from pushq.app_settings import ApnsSettings, AppSettings, load_apps
from pushq.embedded.postgres import PostgresServer
from pushq.http2 import Burst, Code, HeaderTemplate, Origin, Pool, PoolSettings
from pushq.ledger import sends
from pushq.mock import MockProcess
from pushq.mock.client_certificates import issue, make_authority
from tests.integration.ledger_world import (
    APP,
    World,
    open_worker,
    open_world,
    token,
)

DEVICES = 60


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, mock: MockProcess) -> Iterator[World]:
    with open_world(ledger_url, load_apps(mock.config_file)[APP], request_timeout=2.0) as world:
        world.empty()
        world.add_devices("apns", DEVICES)
        yield world


def app_with(world: World, **changes: Any) -> AppSettings:
    """The world's app, with another credential for APNs. A certificate stands in the place of the key."""
    apns = world.settings.apps[APP].apns
    assert apns is not None
    if "certificate_file" in changes:
        changes |= dict.fromkeys(("team_id", "key_id", "key_file"))
    return AppSettings(apns=ApnsSettings.model_validate(apns.model_dump() | changes))


def users(count: int) -> dict[str, Any]:
    """Explicit users are one batch."""
    return {"user_ids": list(range(1, count + 1)), "platforms": ["fcm"]}


def headers_of(mock: MockProcess) -> list[dict[str, str]]:
    return [dict(each["headers"]) for each in mock.requests("apns", DEVICES)]


class TestCertificates:
    @pytest.mark.parametrize("form", ["pem", "p12"])
    def test_a_broadcast_goes_out_without_any_token(
        self, world: World, mock: MockProcess, redis_url: str, form: str
    ) -> None:
        ready = mock.ready["apns"]
        files = {"certificate_file": ready["certificate_file"]}
        if form == "p12":
            files = {
                "certificate_file": ready["certificate_p12_file"],
                "certificate_password_file": ready["certificate_password_file"],
            }
        with open_worker(world, redis_url, app=app_with(world, **files)) as worker:
            send_id = world.accept(audience={"segments": ["all"], "platforms": ["apns"]})
            worker.run_orders(world.plan(send_id))
            client = worker.clients[APP, "apns"]
            assert client.credential_expires_at > datetime.now(UTC) + timedelta(days=300)  # type: ignore[attr-defined]
        assert world.totals(send_id) == {"devices": DEVICES, "accepted": DEVICES}
        assert mock.accepted("apns") == {token("apns", user): 1 for user in range(1, DEVICES + 1)}
        assert not [each for each in headers_of(mock) if "authorization" in each]
        assert worker.redis.keys("pushq:apns:token:*") == []

    def test_voip_has_the_suffix_and_a_kilobyte_more(
        self, world: World, mock: MockProcess, redis_url: str
    ) -> None:
        app = app_with(world, certificate_file=mock.ready["apns"]["certificate_file"])
        notification = {"data": {"call": "x" * 5000}, "apns": {"push_type": "voip", "ttl": 0}}
        with open_worker(world, redis_url, app=app) as worker:
            send_id = world.accept(
                audience={"user_ids": [1], "platforms": ["apns"]}, notification=notification
            )
            worker.run_orders(world.plan(send_id))
        assert world.totals(send_id) == {"devices": 1, "accepted": 1}
        (sent,) = headers_of(mock)
        assert (sent["apns-topic"], sent["apns-push-type"]) == ("com.example.shop.voip", "voip")
        assert (sent["apns-expiration"], sent["apns-priority"]) == ("0", "10")

    def test_an_expired_one_holds_the_send_and_asks_nobody(
        self, world: World, mock: MockProcess, redis_url: str, tmp_path: Path
    ) -> None:
        ended = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        pem, _, _ = issue(*make_authority(), "com.example.shop", expires_at=ended)
        (tmp_path / "old.pem").write_bytes(pem)
        opened = mock.stats()["platforms"]["apns"]["requests"]
        with open_worker(
            world, redis_url, app=app_with(world, certificate_file=tmp_path / "old.pem")
        ) as worker:
            send_id = world.accept(audience={"segments": ["all"], "platforms": ["apns"]})
            worker.run_orders(world.plan(send_id))
        progress = world.progress(send_id)
        assert progress.state == "paused"
        assert f"expired at {ended:%Y-%m-%d %H:%M} UTC" in (progress.error or "")
        assert "apps.shop.apns.certificate_file" in (progress.error or "")
        assert mock.stats()["platforms"]["apns"]["requests"] == opened

    def test_one_that_apple_does_not_know_is_refused_before_anything_is_written(
        self, world: World, mock: MockProcess, tmp_path: Path
    ) -> None:
        pem, _, _ = issue(*make_authority(), "com.example.shop")
        (tmp_path / "strange.pem").write_bytes(pem)
        ready = mock.ready
        port = int(ready["apns"]["url"].rsplit(":", 1)[1])
        origin = Origin("localhost", port, Path(ready["ca_file"]), client_cert=tmp_path / "strange.pem")
        pool = Pool("strange", origin, PoolSettings(queue_timeout_s=1.0, connect_timeout_s=5.0))
        pool.start()
        try:
            burst = Burst(HeaderTemplate(b"/3/device/", ()), 1, targets=[b"ab" * 32], bodies=b"{}")
            pool.submit(burst, 5.0)
            assert burst.wait(60.0)
        finally:
            pool.close(0.0)
        # Surely not processed: at_most_once may send it again.
        assert list(burst.codes) == [Code.NOT_SENT]
        assert mock.accepted("apns") == {}

    def test_a_location_push_is_refused_at_the_call(self, world: World, mock: MockProcess) -> None:
        app = app_with(world, certificate_file=mock.ready["apns"]["certificate_file"])
        settings = world.settings.model_copy(update={"apps": {APP: app}})
        submission = world.submission(
            audience={"user_ids": [1], "platforms": ["apns"]},
            notification={"data": {"a": "b"}, "apns": {"push_type": "location"}},
        )
        _, error = sends.accept(world.database, settings, submission.send_id(), submission)
        assert "notification.apns.push_type" in (error or "")
        assert "with a key" in (error or "")


class TestEnvironments:
    def test_each_has_its_own_key(self, world: World, mock: MockProcess, redis_url: str) -> None:
        """Apple binds newer keys to one environment: a connection never sees the other's."""
        made = mock.add_key("apns")
        world.change("UPDATE device_tokens SET environment = 'sandbox' WHERE user_id <= 20")
        app = app_with(world, sandbox_key_id=made["key_id"], sandbox_key_file=made["key_file"])
        with open_worker(world, redis_url, app=app) as worker:
            send_id = world.accept(audience={"segments": ["all"], "platforms": ["apns"]})
            worker.run_orders(world.plan(send_id))
            assert len(worker.redis.keys("pushq:apns:token:*")) >= 2
        assert world.totals(send_id) == {"devices": DEVICES, "accepted": DEVICES}
        used: dict[str, set[str]] = {}
        for request in mock.requests("apns", DEVICES):
            bearer = dict(request["headers"])["authorization"].removeprefix("bearer ")
            user = int(request["path"].removeprefix("/3/device/"), 16)
            place = "sandbox" if user <= 20 else "production"
            used.setdefault(place, set()).add(jwt.get_unverified_header(bearer)["kid"])
        assert used == {"sandbox": {made["key_id"]}, "production": {mock.ready["apns"]["key_id"]}}


class TestDoubtsAndInstallationIds:
    """FCM, through the ledger."""

    def test_one_odd_token_neither_stops_the_send_nor_dies_without_evidence(
        self, world: World, mock: MockProcess, redis_url: str
    ) -> None:
        world.add_devices("fcm", 40)
        odd = token("fcm", 7)
        mock.set_faults(
            [{"platform": "fcm", "token": odd, "answer": {"status": 400, "reason": "INVALID_ARGUMENT"}}]
        )
        with open_worker(world, redis_url) as worker:
            send_id = world.accept(audience=users(40))
            worker.run_orders(world.plan(send_id))
        totals = world.totals(send_id)
        assert (world.progress(send_id).state, totals["accepted"]) == ("done", 39)
        assert totals["dead"] == 1
        assert world.rows("SELECT reason, status FROM dead_letters") == [("INVALID_ARGUMENT", 400)]

    def test_where_nobody_gets_the_message_the_send_stops_and_every_token_stays(
        self, world: World, mock: MockProcess, redis_url: str
    ) -> None:
        world.add_devices("fcm", 40)
        mock.set_faults([{"platform": "fcm", "answer": {"status": 400, "reason": "INVALID_ARGUMENT"}}])
        with open_worker(world, redis_url) as worker:
            send_id = world.accept(audience=users(40))
            worker.run_orders(world.plan(send_id))
        assert world.progress(send_id).state == "failed"
        assert "fcm refuses the message (400 INVALID_ARGUMENT" in (world.progress(send_id).error or "")
        assert world.totals(send_id) == {"devices": 40, "rejected": 40}
        assert world.rows("SELECT count(*) FROM dead_letters WHERE invalid_since IS NOT NULL") == [(0,)]

    def test_an_odd_token_alone_in_its_batch_does_not_stop_the_others_send(
        self, world: World, mock: MockProcess, redis_url: str
    ) -> None:
        world.add_devices("fcm", 41)
        mock.set_faults(
            [
                {
                    "platform": "fcm",
                    "token": token("fcm", 41),
                    "answer": {"status": 400, "reason": "INVALID_ARGUMENT"},
                }
            ]
        )
        settings = world.settings.model_copy(update={"batch_size": 40})
        with open_worker(replace(world, settings=settings), redis_url) as worker:
            send_id = worker.world.accept(audience=users(41))
            worker.run_orders(worker.world.plan(send_id))
        assert world.progress(send_id).state == "done"
        assert world.totals(send_id) == {"devices": 41, "accepted": 40, "dead": 1}

    def test_a_device_known_by_its_installation_id(
        self, world: World, mock: MockProcess, redis_url: str
    ) -> None:
        fid = "c" + "y" * 21
        world.add_devices("fcm", 2)
        world.change(
            "UPDATE device_tokens SET token = :t WHERE user_id = 1 AND platform = 'fcm'", t=f"fid:{fid}"
        )
        with open_worker(world, redis_url) as worker:
            send_id = world.accept(audience={"segments": ["all"], "platforms": ["fcm"]})
            worker.run_orders(world.plan(send_id))
        assert world.totals(send_id) == {"devices": 2, "accepted": 2}
        assert mock.accepted("fcm") == {f"fid:{fid}": 1, token("fcm", 2): 1}
        kinds = {key for each in mock.requests("fcm") for key in json.loads(each["body"])["message"]}
        assert {"fid", "token"} <= kinds
