"""Provider credentials: one for the whole fleet, renewed in time and never too often, through a real Redis and the mock's OAuth."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jwt
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pushq.app_settings import ApnsSettings, FcmSettings, load_apps
from pushq.embedded.redis import RedisServer
from pushq.errors import SettingsError
from pushq.mock import MockProcess
from pushq.providers.apns.credentials import FLOOR_S, ProviderTokens, load_key
from pushq.providers.client import CredentialRefused, CredentialUnavailable
from pushq.providers.fcm.credentials import AccessTokens, load_account
from pushq.providers.shared_token import RETRY_S
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.services.faults import crash

MINUTE = 60.0
THREADS = 8


class Clock:
    """UNIX seconds that go on when told to."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with closing(open_redis(ServiceUrl(redis_server.url(0)))) as opened:
        yield opened


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    cipher = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher)


def together(*calls: Callable[[], bytes]) -> list[bytes]:
    """Call all at the same moment, each in a thread of its own, several times over."""
    gate = threading.Barrier(len(calls) * THREADS)

    def one(call: Callable[[], bytes]) -> bytes:
        gate.wait(timeout=10)
        return call()

    with ThreadPoolExecutor(len(calls) * THREADS) as pool:
        return list(pool.map(one, calls * THREADS))


class TestApnsKey:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> ApnsSettings:
        return apns_settings(tmp_path, pem(ec.generate_private_key(ec.SECP256R1())))

    def test_a_key_as_apple_gives_it_out(self, settings: ApnsSettings) -> None:
        assert load_key(settings, "shop").curve.name == "secp256r1"

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"", "no readable key"),
            (b"hunter2hunter2", "no readable key"),
            (b"-----BEGIN PRIVATE KEY-----\nhunter2hunter2\n-----END PRIVATE KEY-----\n", "no readable key"),
            (pem(ec.generate_private_key(ec.SECP256R1()), b"hunter2hunter2"), "no readable key"),
            (pem(ec.generate_private_key(ec.SECP384R1())), "a key of another kind"),
            (pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "a key of another kind"),
            (
                ec.generate_private_key(ec.SECP256R1())
                .public_key()
                .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
                "no readable key",
            ),
            (b"\x00\xff" * 500, "no readable key"),
        ],
        ids=["empty", "text", "damaged", "encrypted", "P-384", "RSA", "public", "binary"],
    )
    def test_anything_else_names_the_setting(
        self, settings: ApnsSettings, content: bytes, found: str
    ) -> None:
        assert settings.key_file is not None
        settings.key_file.write_bytes(content)
        with pytest.raises(SettingsError) as caught:
            load_key(settings, "shop")
        message = str(caught.value)
        assert message.startswith("apps.shop.apns.key_file: found ")
        assert found in message
        assert "expected the .p8 file" in message
        assert_no_content(message, content)
        assert caught.value.__cause__ is None

    def test_a_file_that_went_away_names_the_setting(self, settings: ApnsSettings) -> None:
        assert settings.key_file is not None
        settings.key_file.unlink()
        with pytest.raises(SettingsError, match=r"^apps\.shop\.apns\.key_file: found .*No such file"):
            load_key(settings, "shop")


def assert_no_content(message: str, content: bytes) -> None:
    for line in content.decode("latin-1").splitlines():
        assert len(line) < 8 or line not in message


def apns_settings(folder: Path, key: bytes, name: str = "AuthKey.p8") -> ApnsSettings:
    path = folder / name
    path.write_bytes(key)
    return ApnsSettings(team_id="TEAM123456", key_id="KEY1234567", key_file=path, topic="com.example.shop")


class TestApnsTokens:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> ApnsSettings:
        return apns_settings(tmp_path, pem(ec.generate_private_key(ec.SECP256R1())))

    @pytest.fixture
    def process(
        self, settings: ApnsSettings, client: redis.Redis, clock: Clock
    ) -> Callable[[], ProviderTokens]:
        """Another process of the fleet: nothing shared with the others but Redis."""
        return lambda: ProviderTokens(settings, load_key(settings, "shop"), client, clock)

    def issued(self, authorization: bytes, settings: ApnsSettings) -> float:
        """When the token was minted; checks that it is one of this key."""
        word, _, token = authorization.partition(b" ")
        assert word == b"bearer"
        assert jwt.get_unverified_header(token)["kid"] == settings.key_id
        claims = jwt.decode(
            token, load_key(settings, "shop").public_key(), ["ES256"], options={"verify_iat": False}
        )
        assert claims["iss"] == settings.team_id
        assert set(claims) == {"iss", "iat"}
        return float(claims["iat"])

    def test_all_processes_share_one(
        self, process: Callable[[], ProviderTokens], settings: ApnsSettings, clock: Clock
    ) -> None:
        first, second = process(), process()
        tokens = together(first.authorization, second.authorization)
        assert len(set(tokens)) == 1
        assert self.issued(tokens[0], settings) == int(clock.now)
        clock.now += 10 * MINUTE
        assert process().authorization() == tokens[0]

    def test_it_is_renewed_after_50_minutes_by_one_for_all(
        self, process: Callable[[], ProviderTokens], settings: ApnsSettings, clock: Clock
    ) -> None:
        first, second = process(), process()
        began = int(clock.now)
        old = first.authorization()
        assert second.authorization() == old
        clock.now = began + 50 * MINUTE - 1
        assert {first.authorization(), second.authorization(), process().authorization()} == {old}
        clock.now = began + 50 * MINUTE
        (new,) = set(together(first.authorization, second.authorization))
        assert new != old
        assert self.issued(new, settings) == began + 50 * MINUTE

    def test_never_two_within_20_minutes_even_when_apns_calls_it_expired(
        self,
        process: Callable[[], ProviderTokens],
        settings: ApnsSettings,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        first, second = process(), process()
        began = int(clock.now)
        old = first.authorization()
        assert second.authorization() == old
        for minutes in (0, 5, 19.9):
            clock.now = began + minutes * MINUTE
            caplog.clear()
            first.expired(old)
            assert first.authorization() == old
            (record,) = [r for r in caplog.records if r.message == "apns_token_refused_while_young"]
            assert record.levelno == logging.ERROR
        clock.now = began + 20 * MINUTE
        first.expired(old)
        second.expired(old)
        new = first.authorization()
        assert second.authorization() == new != old
        assert self.issued(new, settings) == began + 20 * MINUTE
        # Answers to requests that were under way with the old one change nothing.
        clock.now += 30 * MINUTE
        first.expired(old)
        assert first.authorization() == new

    def test_another_key_has_a_token_of_its_own(
        self,
        process: Callable[[], ProviderTokens],
        settings: ApnsSettings,
        client: redis.Redis,
        clock: Clock,
        tmp_path: Path,
    ) -> None:
        """A wrong file under the right key id, then the right one: the fleet must not go on with what the wrong one signed."""
        wrong = process().authorization()
        mended = apns_settings(tmp_path, pem(ec.generate_private_key(ec.SECP256R1())), "Right.p8")
        right = ProviderTokens(mended, load_key(mended, "shop"), client, clock).authorization()
        assert right != wrong
        self.issued(right, mended)
        assert process().authorization() == wrong

    def test_without_redis_all_mint_the_same_claims(
        self,
        process: Callable[[], ProviderTokens],
        settings: ApnsSettings,
        redis_server: RedisServer,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        crash(redis_server)
        boundary = clock.now // FLOOR_S * FLOOR_S
        clock.now = boundary + 7 * MINUTE
        first = process()
        token = first.authorization()
        clock.now = boundary + 25 * MINUTE
        other = process().authorization()
        assert self.issued(token, settings) == self.issued(other, settings) == boundary
        assert first.authorization() == token
        assert [r.message for r in caplog.records] == ["apns_token_minted_alone"] * 2
        clock.now = boundary + FLOOR_S
        assert self.issued(first.authorization(), settings) == boundary + FLOOR_S

    def test_a_renewal_without_redis_is_newer_and_joins_the_fleet_later(
        self,
        process: Callable[[], ProviderTokens],
        settings: ApnsSettings,
        redis_server: RedisServer,
        clock: Clock,
    ) -> None:
        clock.now = clock.now // FLOOR_S * FLOOR_S + 5 * MINUTE
        began = clock.now
        first = process()
        old = first.authorization()
        crash(redis_server)
        clock.now = began + 50 * MINUTE
        alone = first.authorization()
        assert self.issued(alone, settings) - self.issued(old, settings) >= 20 * MINUTE
        redis_server.start()
        shared = process().authorization()
        clock.now = self.issued(alone, settings) + FLOOR_S
        assert first.authorization() == shared

    def test_nothing_secret_is_said(
        self,
        process: Callable[[], ProviderTokens],
        settings: ApnsSettings,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        tokens = process()
        token = tokens.authorization()
        tokens.expired(token)
        clock.now += 50 * MINUTE
        tokens.authorization()
        said = f"{tokens!r} {tokens} " + everything(caplog)
        assert settings.key_file is not None
        assert settings.key_id is not None
        assert settings.key_id in said
        assert token.split()[1].decode() not in said
        assert_no_content(said, settings.key_file.read_bytes())


def everything(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, with all fields."""
    return " ".join(str(vars(record)) for record in caplog.records)


@pytest.fixture(scope="module")
def running() -> Iterator[MockProcess]:
    with MockProcess() as mock:
        yield mock


@pytest.fixture
def mock(running: MockProcess) -> MockProcess:
    running.reset()
    return running


@pytest.fixture
def account(mock: MockProcess, tmp_path: Path) -> Path:
    """A service account file of the test's own."""
    path = tmp_path / "account.json"
    path.write_bytes(Path(mock.ready["fcm"]["service_account_file"]).read_bytes())
    return path


@pytest.fixture
def fcm(mock: MockProcess, account: Path) -> FcmSettings:
    settings = load_apps(mock.config_file)["shop"].fcm
    assert settings is not None
    return settings.model_copy(update={"service_account_file": account})


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))


class TestServiceAccount:
    def test_an_account_as_firebase_gives_it_out(self, fcm: FcmSettings) -> None:
        assert load_account(fcm, "shop").service_account_email.endswith(".iam.gserviceaccount.com")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hunter2hunter2",
            b"[]",
            b"null",
            b'{"type": "service_account"}',
            b'{"type": "authorized_user", "client_id": "x", "client_secret": "hunter2hunter2"}',
            b'{"client_email": 5, "token_uri": 5, "private_key": 5}',
            b'{"client_email": "a@b", "token_uri": "https://localhost", "private_key": "hunter2hunter2"}',
            b"\xff\xfe\x00",
        ],
        ids=["empty", "text", "list", "null", "parts missing", "user", "numbers", "no key", "binary"],
    )
    def test_anything_else_names_the_setting(self, fcm: FcmSettings, account: Path, content: bytes) -> None:
        account.write_bytes(content)
        with pytest.raises(SettingsError) as caught:
            load_account(fcm, "shop")
        message = str(caught.value)
        assert message.startswith("apps.shop.fcm.service_account_file: found ")
        assert "expected the JSON key of a service account" in message
        assert "hunter2" not in message
        assert caught.value.__cause__ is None

    def test_a_damaged_key_names_the_setting(self, fcm: FcmSettings, account: Path) -> None:
        key = json.loads(account.read_bytes())["private_key"]
        edit(account, private_key=key.replace(key[100:140], "hunter2hunter2"))
        with pytest.raises(SettingsError, match=r"^apps\.shop\.fcm\.service_account_file: found") as caught:
            load_account(fcm, "shop")
        assert_no_content(str(caught.value), key.encode())

    def test_a_file_that_went_away_names_the_setting(self, fcm: FcmSettings, account: Path) -> None:
        account.unlink()
        with pytest.raises(
            SettingsError, match=r"^apps\.shop\.fcm\.service_account_file: found .*No such file"
        ):
            load_account(fcm, "shop")


class TestAccessTokens:
    @pytest.fixture
    def process(
        self, fcm: FcmSettings, client: redis.Redis, clock: Clock
    ) -> Iterator[Callable[[], AccessTokens]]:
        """Another process of the fleet: nothing shared with the others but Redis."""
        with ExitStack() as stack:

            def start() -> AccessTokens:
                return stack.enter_context(closing(AccessTokens("shop", fcm, client, clock)))

            yield start

    def requests(self, mock: MockProcess) -> int:
        return int(mock.stats()["platforms"]["oauth"]["requests"])

    def test_all_processes_share_one(self, process: Callable[[], AccessTokens], mock: MockProcess) -> None:
        first, second = process(), process()
        (token,) = set(together(first.authorization, second.authorization))
        assert token.startswith(b"Bearer ya29.")
        assert process().authorization() == token
        assert self.requests(mock) == 1

    def test_it_is_renewed_8_minutes_before_it_ends(
        self, process: Callable[[], AccessTokens], mock: MockProcess, clock: Clock
    ) -> None:
        tokens = process()
        began, old = clock.now, tokens.authorization()
        clock.now = began + 51 * MINUTE
        assert tokens.authorization() == process().authorization() == old
        assert self.requests(mock) == 1
        clock.now = began + 53 * MINUTE
        assert tokens.authorization() != old
        assert self.requests(mock) == 2

    def test_it_is_renewed_by_one_for_all(
        self,
        process: Callable[[], AccessTokens],
        mock: MockProcess,
        clock: Clock,
        client: redis.Redis,
    ) -> None:
        old = process().authorization()
        # google-auth reckons the end by the real clock, so an old token is made by moving its end, not ours.
        (slot,) = client.scan_iter("pushq:fcm:token:*", count=100)
        client.set(slot, json.dumps({"token": old.split()[1].decode(), "ends": clock.now + 9 * MINUTE}))
        first, second = process(), process()
        assert first.authorization() == second.authorization() == old
        assert self.requests(mock) == 1
        clock.now += 2 * MINUTE
        (new,) = set(together(first.authorization, second.authorization))
        assert new != old
        assert self.requests(mock) == 2

    def test_a_token_that_fcm_refuses_is_replaced_once_for_all(
        self, process: Callable[[], AccessTokens], mock: MockProcess
    ) -> None:
        first, second = process(), process()
        old = first.authorization()
        assert second.authorization() == old
        first.expired(old)
        second.expired(old)
        new = first.authorization()
        assert second.authorization() == new != old
        assert self.requests(mock) == 2
        first.expired(old)  # the answer to a request that was still under way with the old one
        assert first.authorization() == new
        assert self.requests(mock) == 2

    def test_without_redis_every_process_fetches_its_own(
        self,
        process: Callable[[], AccessTokens],
        mock: MockProcess,
        redis_server: RedisServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        crash(redis_server)
        first, second = process(), process()
        assert first.authorization() != second.authorization()
        assert first.authorization() == first.authorization()
        assert self.requests(mock) == 2
        assert [r.message for r in caplog.records if r.name == "pushq.credentials"] == [
            "token_fetched_alone"
        ] * 2

    @pytest.mark.parametrize(
        "changes",
        [{"client_email": "stranger@example.com"}, {"private_key": "another"}],
        ids=["unknown account", "wrong key"],
    )
    def test_a_refusal_names_the_setting(
        self,
        process: Callable[[], AccessTokens],
        mock: MockProcess,
        account: Path,
        changes: dict[str, str],
    ) -> None:
        if "private_key" in changes:
            changes = {
                "private_key": pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)).decode()
            }
        edit(account, **changes)
        tokens = process()
        with pytest.raises(CredentialRefused) as caught:
            tokens.authorization()
        message = str(caught.value)
        assert "apps.shop.fcm.service_account_file" in message
        assert "invalid_grant" in message
        assert_no_content(message, account.read_bytes())

    def test_a_refusal_leaves_no_lock_behind(
        self, process: Callable[[], AccessTokens], mock: MockProcess
    ) -> None:
        mock.set_faults(
            [
                {
                    "platform": "oauth",
                    "times": 1,
                    "per": "total",
                    "answer": {"status": 401, "reason": "invalid_client"},
                }
            ]
        )
        first = process()
        with pytest.raises(CredentialRefused, match="invalid_client"):
            first.authorization()
        assert first.authorization() == process().authorization()

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_an_endpoint_in_trouble_is_no_refusal(
        self, process: Callable[[], AccessTokens], mock: MockProcess, clock: Clock, status: int
    ) -> None:
        mock.set_faults([{"platform": "oauth", "answer": {"status": status, "reason": "internal_failure"}}])
        tokens = process()
        with pytest.raises(CredentialUnavailable, match="'shop'"):
            tokens.authorization()
        mock.set_faults([])
        clock.now += RETRY_S
        assert tokens.authorization()

    def test_a_token_that_cannot_be_renewed_is_used_to_its_end(
        self, process: Callable[[], AccessTokens], mock: MockProcess, clock: Clock
    ) -> None:
        tokens = process()
        began, old = clock.now, tokens.authorization()
        mock.set_faults([{"platform": "oauth", "answer": {"status": 503, "reason": "internal_failure"}}])
        clock.now = began + 53 * MINUTE
        assert tokens.authorization() == old
        asked = self.requests(mock)
        assert tokens.authorization() == old
        assert self.requests(mock) == asked, "not again so soon"
        clock.now = began + 61 * MINUTE
        with pytest.raises(CredentialUnavailable):
            tokens.authorization()
        asked = self.requests(mock)
        with pytest.raises(CredentialUnavailable, match="'shop'"):
            tokens.authorization()
        assert self.requests(mock) == asked, "at once"

    def test_an_endpoint_that_hangs_up_is_no_refusal(
        self, process: Callable[[], AccessTokens], mock: MockProcess
    ) -> None:
        mock.set_faults([{"platform": "oauth", "cut": "now"}])
        with pytest.raises(CredentialUnavailable, match="'shop'"):
            process().authorization()

    def test_an_endpoint_that_is_down_is_no_refusal(
        self, process: Callable[[], AccessTokens], account: Path
    ) -> None:
        with socket.socket() as nobody:  # bound, not listening: refuses, and nobody else can take it
            nobody.bind(("127.0.0.1", 0))
            edit(account, token_uri=f"https://localhost:{nobody.getsockname()[1]}/token")
            with pytest.raises(CredentialUnavailable, match="ConnectError"):
                process().authorization()

    def test_an_endpoint_with_a_certificate_of_somebody_else_gets_nothing(
        self, fcm: FcmSettings, client: redis.Redis, clock: Clock, mock: MockProcess
    ) -> None:
        distrusting = fcm.model_copy(update={"ca_file": None})
        with (
            closing(AccessTokens("shop", distrusting, client, clock)) as tokens,
            pytest.raises(CredentialUnavailable),
        ):
            tokens.authorization()
        assert self.requests(mock) == 0

    def test_nothing_secret_is_said(
        self,
        process: Callable[[], AccessTokens],
        mock: MockProcess,
        account: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        tokens = process()
        token = tokens.authorization()
        tokens.expired(token)
        mock.set_faults([{"platform": "oauth", "answer": {"status": 400, "reason": "invalid_grant"}}])
        with pytest.raises(CredentialRefused) as caught:
            tokens.expired(tokens.authorization())
        said = f"{tokens!r} {tokens} {caught.value!r} " + everything(caplog)
        assert "token_fetched" in said
        assert token.split()[1].decode() not in said
        assert_no_content(said, json.loads(account.read_bytes())["private_key"].encode())
