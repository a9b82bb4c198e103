"""A GOAWAY that speaks of the credential, from the wire to the next request: the APNs client with a real Redis and a scripted peer."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gevent
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hyperframe.frame import GoAwayFrame

from pushq.app_settings import ApnsSettings
from pushq.embedded.redis import RedisServer
from pushq.http2 import Code
from pushq.notification import Notification
from pushq.providers.apns.client import ApnsClient
from pushq.providers.apns.credentials import ProviderTokens, load_key
from pushq.providers.client import Message
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.integration.h2_server import Authority
from tests.integration.wire_server import Wire, WireServer, polite

PATIENT = 30.0


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with closing(open_redis(ServiceUrl(redis_server.url(0)))) as opened:
        yield opened


@pytest.mark.parametrize(
    ("reason", "renewed"), [("ExpiredProviderToken", True), ("InvalidProviderToken", False)]
)
def test_the_credential_in_a_goaway(
    reason: str, renewed: bool, client: redis.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An expired one is renewed before the next request, if it is older than 20 minutes; of another fault the operator hears."""

    def script(wire: Wire) -> None:
        wire.greet()
        wire.take(1)
        debug = b'{"reason":"%s"}' % reason.encode()
        wire.send(GoAwayFrame(0, last_stream_id=0, additional_data=debug))
        wire.drain()

    authority = Authority(tmp_path)
    key_file = tmp_path / "AuthKey.p8"
    key = ec.generate_private_key(ec.SECP256R1())
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    now = [datetime.now(UTC).timestamp() - 25 * 60]
    with WireServer(authority, script, polite) as server:
        settings = ApnsSettings(
            team_id="TEAM123456",
            key_id="KEY1234567",
            key_file=key_file,
            topic="com.example.shop",
            url=f"https://localhost:{server.port}",
            ca_file=authority.ca_file,
            min_connections=1,
            max_connections=1,
        )
        apns = ApnsClient("shop", settings, client, request_timeout_s=PATIENT)
        tokens = ProviderTokens(settings, load_key(settings, "shop"), client, lambda: now[0])
        apns._tokens = {"production": tokens}
        expires_at = datetime.now(UTC) + timedelta(hours=1)
        message = Message(
            uuid.uuid4(), Notification(title="Hello", body="World"), expires_at, expires_at, None
        )
        used: list[bytes] = []
        try:
            for expected in (Code.REFUSED, Code.OK):
                burst = apns.burst(message, [b"a" * 64], [1], datetime.now(UTC))
                used.append(dict(burst.template.headers)[b"authorization"])
                apns.pool("production").submit(burst, PATIENT)
                assert burst.wait(PATIENT)
                assert list(burst.codes) == [expected]
                now[0] += 25 * 60
        finally:
            apns.close(0)
            gevent.sleep(0)
    assert (used[0] != used[1]) == renewed
    refused = [r for r in caplog.records if r.msg == "apns_credential_refused_by_goaway"]
    assert len(refused) == (0 if renewed else 1)
    assert all(record.levelno == logging.ERROR for record in refused)
