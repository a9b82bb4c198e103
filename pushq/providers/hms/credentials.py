"""Who we are to Huawei: an OAuth client whose access token the fleet shares, or a service account that signs for itself.

Sources: Huawei, "Obtaining an app-level access token" (client credentials, an hour of life, 1,000 requests in five minutes) and
"Generating an authentication token from a service account" (PS256, sent as it is).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import jwt
import orjson
import redis
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pushq.app_settings import HmsSettings
from pushq.errors import SettingsError
from pushq.http2 import Proxy
from pushq.providers.client import CredentialRefused, CredentialUnavailable
from pushq.providers.dialling import Dialling
from pushq.providers.shared_token import PROOF_S, TIMEOUT_S, Fetched, SharedToken

TOKEN_PATH: Final = "/oauth2/v3/token"  # noqa: S105
#: A service account's token names this as its audience, wherever it is sent.
AUDIENCE: Final = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
LIFE_S: Final = 3600
#: So long a self-signed token is used.
RENEW_S: Final = 50 * 60


class Credentials(Protocol):
    """Hands out the ``authorization`` header of one app.

    Attributes:
        kind: ``access_token``, or ``provider_token`` where we sign it ourselves.
    """

    kind: str

    def authorization(self) -> bytes:
        """Raises CredentialRefused or CredentialUnavailable."""

    def refused(self, stale: bytes, code: str) -> None:
        """HMS answered with this code to ``stale``: get another one, unless somebody already has.

        Raises:
            CredentialRefused: a new one was refused as well.
            CredentialUnavailable
        """

    def ends_at(self) -> float:
        """UNIX seconds at which the token ends; nan while nobody needs it renewed."""

    def close(self) -> None: ...


def open_credentials(
    app: str,
    settings: HmsSettings,
    client: redis.Redis,
    *,
    clock: Callable[[], float] = time.time,
    proxy: Proxy | None = None,
) -> Credentials:
    """The credentials that the settings name.

    Raises:
        SettingsError: the secret file is not what the setting says; the message never shows its content.
    """
    if settings.service_account_file is not None:
        return ServiceAccount(app, settings, clock)
    return OAuthClient(app, settings, client, clock, proxy)


class OAuthClient:
    """Client credentials; the access token is shared by the fleet."""

    kind = "access_token"

    def __init__(
        self,
        app: str,
        settings: HmsSettings,
        client: redis.Redis,
        clock: Callable[[], float],
        proxy: Proxy | None = None,
    ) -> None:
        assert settings.client_secret_file is not None
        assert settings.client_id is not None
        self._app, self._clock = app, clock
        self._client_id = settings.client_id
        self._secret = _read(settings.client_secret_file, f"apps.{app}.hms.client_secret_file").strip()
        if not self._secret or not self._secret.isprintable() or len(self._secret) > 512:
            raise SettingsError(
                f"apps.{app}.hms.client_secret_file: found {str(settings.client_secret_file)!r}, whose content is no client"
                " secret; expected one line, as AppGallery Connect shows it"
            )
        self._url = settings.oauth_url + TOKEN_PATH
        self._dialling = Dialling(settings.oauth_url, settings.ca_file, proxy)
        mark = sha256(f"{self._client_id}\0{self._secret}".encode()).hexdigest()[:16]
        # Two apps of one client share its token; a new secret must not meet the old one's.
        slot = f"pushq:hms:token:{self._client_id}:{mark}"
        self._token = SharedToken(f"hms/{app}", slot, self._fetch, client, clock)

    def __repr__(self) -> str:
        return f"OAuthClient(app={self._app})"

    def authorization(self) -> bytes:
        return self._token.authorization()

    def refused(self, stale: bytes, code: str) -> None:
        self._token.refused(
            stale,
            f"HMS refuses the access token of app {self._app!r}, a new one as well ({code}). Check that"
            f" apps.{self._app}.hms.client_id and its secret belong to the app or project that api and app_id or project_id name,"
            " and that api is not v3's, then: pushq resume",
        )

    def ends_at(self) -> float:
        return self._token.ends_at()

    def close(self) -> None:
        """Nothing stays open: a token is fetched once in 50 minutes, over a connection of its own."""

    def _fetch(self) -> Fetched:
        # httpx percent-encodes the form, and so the secret.
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_secret": self._secret,
        }
        try:
            with self._dialling.client(TIMEOUT_S, http2=False) as client:
                answer = client.post(self._url, data=form)
        except (httpx.HTTPError, OSError, UnicodeDecodeError) as exc:
            raise CredentialUnavailable(
                f"Huawei's token endpoint cannot be reached (app {self._app!r}: {type(exc).__name__})"
            ) from None  # a cause may show the request, and so the secret
        document = _document(answer.content)
        token, life = document.get("access_token"), document.get("expires_in")
        if answer.status_code == 200 and isinstance(token, str) and token and type(life) is int and life > 0:
            return token, self._clock() + life
        # 429 and 503 are flow control; 590 is one of Huawei's own.
        if answer.status_code in (200, 429) or answer.status_code >= 500:
            raise CredentialUnavailable(
                f"Huawei's token endpoint gives no token now (app {self._app!r}: {answer.status_code})"
            )
        raise CredentialRefused(
            f"Huawei refuses the client of app {self._app!r} ({_words(document, answer.status_code)}). Check"
            f" apps.{self._app}.hms.client_id and client_secret_file, then: pushq resume"
        )


class ServiceAccount:
    """Signs its own tokens: nothing to share and nobody to ask."""

    kind = "provider_token"

    def __init__(self, app: str, settings: HmsSettings, clock: Callable[[], float]) -> None:
        assert settings.service_account_file is not None
        self._app, self._clock = app, clock
        self._key, self._key_id, self._issuer = _load_account(app, settings)
        self._lock = threading.Lock()
        self._token = b""
        self._signed_at = self._replaced_at = float("-inf")

    def __repr__(self) -> str:
        return f"ServiceAccount(app={self._app})"

    def authorization(self) -> bytes:
        with self._lock:
            # Also after a clock that was set back: a token from the future is refused.
            if not 0 <= self._clock() - self._signed_at < RENEW_S:
                self._sign()
            return self._token

    def refused(self, stale: bytes, code: str) -> None:
        with self._lock:
            if self._token != stale:
                return
            if self._clock() - self._replaced_at < PROOF_S:
                raise CredentialRefused(
                    f"HMS refuses the service account of app {self._app!r}, a new token as well ({code}). Check this machine's"
                    f" clock, and that apps.{self._app}.hms.service_account_file belongs to the project of the app,"
                    " then: pushq resume"
                )
            self._sign()
            self._replaced_at = self._clock()

    def ends_at(self) -> float:
        # Signed anew for the next request after RENEW_S: nothing can fail but the clock.
        return self._signed_at + LIFE_S if 0 <= self._clock() - self._signed_at < RENEW_S else math.nan

    def close(self) -> None:
        """Nothing is open."""

    def _sign(self) -> None:
        now = int(self._clock())
        claims = {"iss": self._issuer, "aud": AUDIENCE, "iat": now, "exp": now + LIFE_S}
        # PS256 is salted: no two tokens are alike, not even of one second.
        token = jwt.encode(claims, self._key, algorithm="PS256", headers={"kid": self._key_id})
        self._token, self._signed_at = b"Bearer " + token.encode(), now


def _load_account(app: str, settings: HmsSettings) -> tuple[RSAPrivateKey, str, str]:
    """Key, key id and issuer of the service account file."""
    path = settings.service_account_file
    assert path is not None
    setting = f"apps.{app}.hms.service_account_file"
    document = _document(_read(path, setting).encode())
    try:
        key = load_pem_private_key(document["private_key"].encode(), None)
        key_id, issuer = document["key_id"], document["sub_account"]
        if not (isinstance(key, RSAPrivateKey) and isinstance(key_id, str) and isinstance(issuer, str)):
            raise TypeError
    except (KeyError, ValueError, TypeError, AttributeError):
        raise SettingsError(
            f"{setting}: found {str(path)!r}, which is no service account; expected the JSON key file that Huawei's API Console"
            " gives out (key_id, private_key, sub_account)"
        ) from None
    project = document.get("project_id")
    if settings.project_id is not None and project is not None and str(project) != settings.project_id:
        raise SettingsError(
            f"{setting}: found {str(path)!r}, which is of project {str(project)[:40]!r}; expected one of project"
            f" {settings.project_id!r}, as apps.{app}.hms.project_id says"
        )
    return key, key_id, issuer


def _read(path: Path, setting: str) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as exc:
        raise SettingsError(
            f"{setting}: found {str(path)!r}, which cannot be read ({exc.strerror})"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{setting}: found {str(path)!r}, which is no text") from None


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _words(document: dict[str, Any], status: int) -> str:
    """Huawei's numbers for it (1101/20171 and the like), and its words, which hold no secret."""
    numbers = "/".join(
        str(document[name]) for name in ("error", "sub_error") if isinstance(document.get(name), int)
    )
    described = document.get("error_description")
    text = f": {described[:100]}" if isinstance(described, str) else ""
    return f"{status}{' ' + numbers if numbers else ''}{text}"
