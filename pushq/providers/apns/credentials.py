"""What APNs knows us by: a TLS client certificate, or a provider token, one JWT per team and key for the whole fleet.

Source: Apple, "Establishing a token-based connection to APNs": ES256, refused when over 60 minutes old, and not to be renewed more
often than every 20. Apple's staff and field reports say that tokens of one team count together, so the fleet shares one through
Redis; who mints holds a lock.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import jwt
import orjson
import redis
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from pushq.app_settings import ApnsSettings
from pushq.errors import SettingsError
from pushq.http2 import ClientCertificate, read_client_certificate

log = logging.getLogger("pushq.apns")

RENEW_AFTER_S: Final = 50 * 60
#: APNs refuses one that is older.
LIFE_S: Final = 60 * 60
#: Never two tokens within this time, not even when APNs calls the first one expired.
MIN_INTERVAL_S: Final = 20 * 60
#: Without Redis, independent workers floor `iat` to this boundary so that their tokens carry the same claims.
FLOOR_S: Final = 30 * 60
LOCK_S: Final = 10


def load_key(settings: ApnsSettings, name: str, environment: str = "production") -> EllipticCurvePrivateKey:
    """Read the .p8 file for an environment: the sandbox may have one of its own.

    Raises:
        SettingsError: it holds no P-256 private key; the message names the setting, never the content.
    """
    own = environment == "sandbox" and settings.sandbox_key_file is not None
    path = settings.sandbox_key_file if own else settings.key_file
    setting = f"apps.{name}.apns.{'sandbox_key_file' if own else 'key_file'}"
    expected = "the .p8 file that Apple gave out: an unencrypted P-256 private key in PEM"
    if path is None:
        raise SettingsError(f"{setting}: found nothing; expected {expected}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise SettingsError(
            f"{setting}: found {str(path)!r}, which holds no readable key; expected {expected}"
        ) from None
    except OSError as exc:
        raise SettingsError(
            f"{setting}: found {str(path)!r}, which cannot be read ({exc.strerror})"
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise SettingsError(f"{setting}: found a key of another kind in {str(path)!r}; expected {expected}")
    return key


def load_certificate(settings: ApnsSettings, name: str) -> ClientCertificate | None:
    """The TLS client certificate, where the app has one.

    Raises:
        SettingsError: it cannot be read, lacks its key, or belongs to another app; the message names the setting.
    """
    if settings.certificate_file is None:
        return None
    setting = f"apps.{name}.apns.certificate_file"
    certificate = read_client_certificate(
        settings.certificate_file,
        settings.certificate_key_file,
        settings.certificate_password_file,
        name=setting,
    )
    # Apple writes the bundle id into the subject; the topic may have a suffix (a VoIP certificate).
    bundle = certificate.user_id
    if bundle and settings.topic != bundle and not settings.topic.startswith(f"{bundle}."):
        raise SettingsError(
            f"{setting}: found a certificate for {bundle!r}; expected one for apps.{name}.apns.topic, {settings.topic!r}"
        )
    return certificate


def provider_tokens(
    settings: ApnsSettings, name: str, client: redis.Redis, clock: Callable[[], float]
) -> dict[str, ProviderTokens]:
    """Who hands out the tokens, by environment; nothing where a client certificate stands for them.

    Raises:
        SettingsError: a key file cannot be used.
    """
    if settings.certificate_file is not None:
        return {}
    production = ProviderTokens(settings, load_key(settings, name), client, clock)
    if settings.sandbox_key_file is None:
        return {"production": production, "sandbox": production}
    key = load_key(settings, name, "sandbox")
    sandbox = ProviderTokens(settings, key, client, clock, key_id=settings.sandbox_key_id)
    return {"production": production, "sandbox": sandbox}


def _fingerprint(key: EllipticCurvePrivateKey) -> str:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(public).hexdigest()[:16]


class ProviderTokens:
    """Hands out the current token of one team and key.

    Args:
        clock: UNIX seconds; injected so that tests can let an hour pass.
        key_id: of the key, where it is not ``settings.key_id``.
    """

    def __init__(
        self,
        settings: ApnsSettings,
        key: EllipticCurvePrivateKey,
        client: redis.Redis,
        clock: Callable[[], float],
        *,
        key_id: str | None = None,
    ) -> None:
        self._team, self._key_id, self._key = settings.team_id, key_id or settings.key_id, key
        self._redis, self._clock = client, clock
        # By the key itself as well: what a wrong file signed must not outlive its replacement by the right one.
        self._slot = f"pushq:apns:token:{self._team}:{self._key_id}:{_fingerprint(key)}"
        self._lock = threading.Lock()
        self._token = b""
        self._issued = 0.0
        self._renew_at = 0.0

    def __repr__(self) -> str:
        return f"ProviderTokens(team={self._team}, key={self._key_id})"

    def authorization(self) -> bytes:
        """The value of the ``authorization`` header."""
        if self._clock() < self._renew_at:
            return self._token
        with self._lock:
            if self._clock() >= self._renew_at:
                self._renew(RENEW_AFTER_S)
        return self._token

    def ends_at(self) -> float:
        """UNIX seconds at which APNs refuses the token; nan while nobody needs another."""
        return self._issued + LIFE_S if self._clock() < self._renew_at else math.nan

    def expired(self, stale: bytes) -> None:
        """APNs says that ``stale`` is too old. Take a newer one, unless ours is younger than the 20 minutes."""
        with self._lock:
            if self._token != stale:
                return
            if self._clock() - self._issued >= MIN_INTERVAL_S:
                self._renew(MIN_INTERVAL_S)
            else:
                log.error(
                    "apns_token_refused_while_young",
                    extra={"key": self._key_id, "hint": "check this machine's clock"},
                )

    def _renew(self, oldest_s: float) -> None:
        """Take the fleet's token when it is younger than ``oldest_s``, else mint one under the fleet's lock."""
        try:
            shared = self._shared()
            if shared is None or self._clock() - shared[1] >= oldest_s:
                shared = self._mint_for_all(oldest_s)
        except redis.RedisError as exc:
            log.warning("apns_token_minted_alone", extra={"key": self._key_id, "error": type(exc).__name__})
            issued = self._clock() // FLOOR_S * FLOOR_S
            shared = self._mint(issued), issued
            self._hold(*shared, until=issued + FLOOR_S)
            return
        self._hold(*shared, until=shared[1] + RENEW_AFTER_S)

    def _hold(self, token: bytes, issued: float, *, until: float) -> None:
        self._token, self._issued = b"bearer " + token, issued
        # Another worker may still be minting: look again soon, not at every request.
        self._renew_at = max(until, self._clock() + 1.0)

    def _shared(self) -> tuple[bytes, float] | None:
        raw: Any = self._redis.get(self._slot)
        if not raw:
            return None
        found = orjson.loads(raw)
        return found["token"].encode(), float(found["iat"])

    def _mint_for_all(self, oldest_s: float) -> tuple[bytes, float]:
        with self._redis.lock(f"{self._slot}:lock", timeout=LOCK_S, blocking_timeout=LOCK_S):
            shared = self._shared()
            if shared is not None and self._clock() - shared[1] < oldest_s:
                return shared
            issued = float(int(self._clock()))
            token = self._mint(issued)
            self._redis.set(self._slot, orjson.dumps({"token": token.decode(), "iat": issued}), ex=3600)
            log.info("apns_token_minted", extra={"key": self._key_id})
            return token, issued

    def _mint(self, issued: float) -> bytes:
        return jwt.encode(
            {"iss": self._team, "iat": int(issued)},
            self._key,
            algorithm="ES256",
            headers={"kid": self._key_id},
        ).encode()
