"""HMS credentials: one OAuth token for the fleet through a real Redis and the mock's endpoint, and self-signed tokens."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import jwt
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from pushq.app_settings import HmsSettings, load_apps
from pushq.embedded.redis import RedisServer
from pushq.errors import SettingsError
from pushq.mock import MockProcess
from pushq.providers.client import CredentialRefused, CredentialUnavailable
from pushq.providers.hms.credentials import AUDIENCE, Credentials, OAuthClient, open_credentials
from pushq.providers.shared_token import LAST_USE_S, MARGIN_S, PROOF_S, RETRY_S
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.services.faults import crash

THREADS = 8
START = 1_800_000_000.0


class Clock:
    """UNIX seconds that go on when told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(mock: MockProcess) -> HmsSettings:
    found = load_apps(mock.config_file)["shop"].hms
    assert found is not None
    return found


@pytest.fixture
def account(settings: HmsSettings, mock: MockProcess) -> HmsSettings:
    return changed(
        settings,
        api="v3",
        client_secret_file=None,
        service_account_file=mock.ready["hms"]["service_account_file"],
    )


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with closing(open_redis(ServiceUrl(redis_server.url(0)))) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


def changed(settings: HmsSettings, **fields: Any) -> HmsSettings:
    return HmsSettings.model_validate(settings.model_dump() | fields)


def opened(settings: HmsSettings, client: redis.Redis, clock: Callable[[], float]) -> Credentials:
    return open_credentials("shop", settings, client, clock=clock)


def asked(mock: MockProcess) -> int:
    count = mock.stats()["platforms"]["hms_oauth"]["requests"]
    assert isinstance(count, int)
    return count


class TestOAuth:
    def test_one_token_for_the_fleet(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        workers = [opened(settings, client, clock) for _ in range(3)]
        gate = threading.Barrier(THREADS)

        def ask(number: int) -> bytes:
            gate.wait(timeout=10)
            return workers[number % 3].authorization()

        with ThreadPoolExecutor(THREADS) as pool:
            tokens = set(pool.map(ask, range(THREADS)))
        assert len(tokens) == 1
        (token,) = tokens
        # The endpoint writes slashes with escapes; a token that keeps them is refused.
        assert token.startswith(b"Bearer DQEBA/")
        assert b"\\" not in token
        assert asked(mock) == 1
        assert opened(settings, client, clock).authorization() == token
        assert asked(mock) == 1

    def test_it_is_renewed_before_it_ends(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        credentials = opened(settings, client, clock)
        assert math.isnan(credentials.ends_at())
        first = credentials.authorization()
        assert (credentials.kind, credentials.ends_at()) == ("access_token", START + 3600)
        clock.now += 3600 - MARGIN_S - 1
        assert credentials.authorization() == first
        clock.now += 1
        assert math.isnan(credentials.ends_at()), "nobody sends, nobody needs another"
        assert credentials.authorization() != first
        assert credentials.ends_at() == clock.now + 3600
        assert asked(mock) == 2

    def test_an_endpoint_that_is_away_is_not_asked_by_everybody(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        credentials = opened(settings, client, clock)
        first = credentials.authorization()
        mock.set_faults([{"platform": "hms_oauth", "answer": {"status": 503}}])
        clock.now += 3600 - MARGIN_S
        assert [credentials.authorization() for _ in range(3)] == [first] * 3
        assert credentials.ends_at() == START + 3600, "it is needed, and its renewal fails"
        assert asked(mock) == 2
        clock.now += RETRY_S
        assert credentials.authorization() == first
        assert asked(mock) == 3
        clock.now += MARGIN_S - LAST_USE_S
        with pytest.raises(CredentialUnavailable, match=r"gives no token now \(app 'shop': 503\)"):
            credentials.authorization()
        with pytest.raises(CredentialUnavailable):
            credentials.authorization()
        assert asked(mock) == 4
        mock.set_faults([])
        clock.now += RETRY_S
        assert credentials.authorization() != first

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 590])
    def test_trouble_of_huaweis_is_not_ours(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess, status: int
    ) -> None:
        mock.set_faults([{"platform": "hms_oauth", "answer": {"status": status}}])
        with pytest.raises(CredentialUnavailable):
            opened(settings, client, clock).authorization()

    @pytest.mark.parametrize("body", ["", "[]", '{"expires_in":3600}', '{"access_token":"x","expires_in":0}'])
    def test_an_answer_without_a_token_is_none(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess, body: str
    ) -> None:
        mock.set_faults([{"platform": "hms_oauth", "answer": {"status": 200, "body": body}}])
        with pytest.raises(CredentialUnavailable):
            opened(settings, client, clock).authorization()

    def test_a_wrong_secret_is_named_and_never_shown(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, tmp_path: Path, mock: MockProcess
    ) -> None:
        file = tmp_path / "secret"
        file.write_text("not-the-secret\n")
        with pytest.raises(CredentialRefused) as caught:
            opened(changed(settings, client_secret_file=file), client, clock).authorization()
        assert str(caught.value) == (
            "Huawei refuses the client of app 'shop' (400 1101/12304: invalid client_secret). Check apps.shop.hms.client_id and"
            " client_secret_file, then: pushq resume"
        )

    def test_a_wrong_client(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        with pytest.raises(CredentialRefused, match="400 1203/12303"):
            opened(changed(settings, client_id="1"), client, clock).authorization()

    def test_nobody_listens(self, settings: HmsSettings, client: redis.Redis, clock: Clock) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"https://localhost:{free.getsockname()[1]}"
        with pytest.raises(CredentialUnavailable, match=r"cannot be reached \(app 'shop': ConnectError\)"):
            opened(changed(settings, oauth_url=url), client, clock).authorization()

    def test_a_server_that_nobody_vouches_for_gets_no_secret(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        with pytest.raises(CredentialUnavailable, match="ConnectError"):
            opened(changed(settings, ca_file=None), client, clock).authorization()
        assert asked(mock) == 0

    def test_a_refused_token_is_replaced_once_whoever_says_so(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        workers = [opened(settings, client, clock) for _ in range(2)]
        stale = workers[0].authorization()
        assert workers[1].authorization() == stale
        for worker in (*workers, *workers):
            worker.refused(stale, "80200003")
        assert asked(mock) == 2
        fresh = workers[0].authorization()
        assert fresh == workers[1].authorization() != stale

    def test_a_new_token_that_is_refused_as_well_proves_the_set_up_wrong(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        credentials = opened(settings, client, clock)
        credentials.refused(credentials.authorization(), "80200001")
        with pytest.raises(CredentialRefused, match=r"a new one as well \(80200001\).*pushq resume"):
            credentials.refused(credentials.authorization(), "80200001")
        assert asked(mock) == 2
        clock.now += PROOF_S
        credentials.refused(credentials.authorization(), "80200003")
        assert asked(mock) == 3

    def test_without_redis_each_fetches_its_own(
        self, settings: HmsSettings, redis_server: RedisServer, clock: Clock, mock: MockProcess
    ) -> None:
        with closing(open_redis(ServiceUrl(redis_server.url(0)))) as client:
            crash(redis_server)
            assert opened(settings, client, clock).authorization().startswith(b"Bearer ")
        assert asked(mock) == 1

    def test_apps_of_one_client_share_and_another_secret_does_not(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        token = opened(settings, client, clock).authorization()
        assert open_credentials("other", settings, client, clock=clock).authorization() == token
        slots: Any = client.keys("pushq:hms:token:*")
        assert len(slots) == 1
        secret = (settings.client_secret_file or Path()).read_text()
        assert all(secret.encode() not in slot for slot in slots)

    @pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a\x00b", b"x" * 600])
    def test_a_file_that_holds_no_secret(
        self, settings: HmsSettings, client: redis.Redis, clock: Clock, tmp_path: Path, content: bytes
    ) -> None:
        file = tmp_path / "secret"
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=r"apps\.shop\.hms\.client_secret_file: found"):
            opened(changed(settings, client_secret_file=file), client, clock)

    def test_nothing_of_the_secret_is_logged_or_shown(
        self,
        settings: HmsSettings,
        client: redis.Redis,
        clock: Clock,
        mock: MockProcess,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        credentials = opened(settings, client, clock)
        token = credentials.authorization().removeprefix(b"Bearer ").decode()
        credentials.refused(credentials.authorization(), "80200003")
        secret = (settings.client_secret_file or Path()).read_text().strip()
        shown = repr(credentials) + repr(vars(OAuthClient)) + caplog.text
        shown += "".join(repr(vars(record)) for record in caplog.records if record.name.startswith("pushq"))
        assert token not in shown
        assert secret not in shown
        assert secret[:20] not in shown


class TestServiceAccount:
    def test_what_it_signs(self, account: HmsSettings, client: redis.Redis, clock: Clock) -> None:
        token = opened(account, client, clock).authorization().removeprefix(b"Bearer ").decode()
        document = json.loads((account.service_account_file or Path()).read_text())
        key = load_pem_private_key(document["private_key"].encode(), None)
        claims = jwt.decode(
            token,
            key.public_key(),  # type: ignore[arg-type]
            algorithms=["PS256"],
            audience=AUDIENCE,
            options={"verify_exp": False, "verify_iat": False},
        )
        assert claims == {
            "iss": document["sub_account"],
            "aud": AUDIENCE,
            "iat": int(START),
            "exp": int(START) + 3600,
        }
        assert jwt.get_unverified_header(token) == {
            "alg": "PS256",
            "kid": document["key_id"],
            "typ": "JWT",
        }

    def test_it_is_used_for_fifty_minutes(
        self, account: HmsSettings, client: redis.Redis, clock: Clock
    ) -> None:
        credentials = opened(account, client, clock)
        assert math.isnan(credentials.ends_at())
        first = credentials.authorization()
        assert (credentials.kind, credentials.ends_at()) == ("provider_token", START + 3600)
        clock.now += 2999
        assert credentials.authorization() == first
        clock.now += 1
        assert math.isnan(credentials.ends_at())
        second = credentials.authorization()
        assert second != first
        clock.now -= 600
        assert credentials.authorization() != second

    def test_a_refused_one_is_replaced_once(
        self, account: HmsSettings, client: redis.Redis, clock: Clock
    ) -> None:
        credentials = opened(account, client, clock)
        stale = credentials.authorization()
        credentials.refused(stale, "80200005")
        fresh = credentials.authorization()
        assert fresh != stale
        credentials.refused(stale, "80200005")
        assert credentials.authorization() == fresh
        with pytest.raises(CredentialRefused, match=r"a new token as well \(80200005\).*clock"):
            credentials.refused(fresh, "80200005")

    def test_the_project_must_be_the_apps(
        self, account: HmsSettings, client: redis.Redis, clock: Clock
    ) -> None:
        with pytest.raises(
            SettingsError, match=r"is of project '388421841222199046'; expected one of project '1'"
        ):
            opened(changed(account, project_id="1"), client, clock)

    @pytest.mark.parametrize(
        "change",
        [
            {"private_key": "no key"},
            {"private_key": None},
            {"key_id": None},
            {"sub_account": 7},
            {
                "private_key": ec.generate_private_key(ec.SECP256R1())
                .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                .decode()
            },
        ],
    )
    def test_a_file_that_is_none(
        self,
        account: HmsSettings,
        client: redis.Redis,
        clock: Clock,
        tmp_path: Path,
        change: dict[str, Any],
    ) -> None:
        document = json.loads((account.service_account_file or Path()).read_text())
        file = tmp_path / "account.json"
        file.write_text(json.dumps(document | change))
        with pytest.raises(
            SettingsError, match="is no service account; expected the JSON key file"
        ) as caught:
            opened(changed(account, service_account_file=file), client, clock)
        assert document["private_key"][40:80] not in str(caught.value)
