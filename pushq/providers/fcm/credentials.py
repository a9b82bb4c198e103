"""The access token for FCM: google-auth's service account, one refresh for the fleet, shared through Redis.

Source: Google, OAuth 2.0 for service accounts; the token lives about an hour.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import redis
from google.auth import exceptions, transport
from google.oauth2 import service_account

from pushq.errors import SettingsError
from pushq.http2 import Proxy
from pushq.providers.client import CredentialRefused, CredentialUnavailable
from pushq.settings import FcmSettings

log = logging.getLogger("pushq.fcm")

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
#: Renewed this long before it ends, so that a request under way does not outlive it.
MARGIN_S: Final = 8 * 60
TIMEOUT_S: Final = 15.0
#: One token request may take TIMEOUT_S; who waits for the holder waits a little longer.
LOCK_S: Final = 30
#: After a failure nobody asks again for so long: each would wait out the same time-out in turn.
RETRY_S: Final = 10.0
#: A token that could not be renewed is used until this long before its end.
LAST_USE_S: Final = 30.0
#: A token that was fetched because its predecessor was refused, and is refused within this time itself, proves the set-up wrong.
PROOF_S: Final = 60.0


class _Answer(transport.Response):
    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer

    @property
    def status(self) -> int:
        return self._answer.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @property
    def data(self) -> bytes:
        return self._answer.content


class HttpxRequest(transport.Request):
    """google-auth's transport over httpx, so that the project has one HTTP client and one set of timeouts."""

    def __init__(self, ca_file: Path | None, proxy: Proxy | None = None) -> None:
        import ssl  # noqa: PLC0415 - gevent must have patched ssl before this module's first use of it

        self._ssl = ssl
        self._verify = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        self._proxy = proxy
        # Without trust_env: a proxy is used when the settings say so, and for everything or for nothing.
        self._client = httpx.Client(verify=self._verify, timeout=TIMEOUT_S, trust_env=False)

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> _Answer:
        request = self._client.build_request(
            method, url, content=body, headers=dict(headers or {}), timeout=timeout or TIMEOUT_S
        )
        port = request.url.port or (80 if request.url.scheme == "http" else 443)
        try:
            if self._proxy is None or not self._proxy.covers(request.url.host, port):
                return _Answer(self._client.send(request))
            # One request in 50 minutes: a connection of its own, with the password that the file holds now.
            with self._through(self._proxy) as client:
                return _Answer(client.send(request))
        except (httpx.HTTPError, OSError, UnicodeDecodeError) as exc:
            raise exceptions.TransportError(exc) from exc

    def _through(self, proxy: Proxy) -> httpx.Client:
        trusted = None
        if proxy.tls:
            trusted = self._ssl.create_default_context(cafile=str(proxy.ca_file) if proxy.ca_file else None)
        return httpx.Client(
            verify=self._verify,
            timeout=TIMEOUT_S,
            trust_env=False,
            proxy=httpx.Proxy(str(proxy), auth=proxy.credentials(), ssl_context=trusted),
        )

    def close(self) -> None:
        self._client.close()


def load_account(settings: FcmSettings, name: str) -> service_account.Credentials:
    """Read the service account file.

    Raises:
        SettingsError: it is no service account; the message names the setting, never the content.
    """
    setting = f"apps.{name}.fcm.service_account_file"
    path = settings.service_account_file
    expected = "the JSON key of a service account, as the Firebase console gives it out"
    try:
        document = orjson.loads(path.read_bytes())
        account: service_account.Credentials = service_account.Credentials.from_service_account_info(
            document, scopes=[SCOPE]
        )
    except OSError as exc:
        raise SettingsError(
            f"{setting}: found {str(path)!r}, which cannot be read ({exc.strerror})"
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError, exceptions.GoogleAuthError):
        raise SettingsError(
            f"{setting}: found {str(path)!r}, which is no service account; expected {expected}"
        ) from None
    return account


class AccessTokens:
    """Hands out the current access token of one service account."""

    def __init__(
        self,
        app: str,
        settings: FcmSettings,
        client: redis.Redis,
        clock: Callable[[], float],
        proxy: Proxy | None = None,
    ) -> None:
        self._app = app
        self._account = load_account(settings, app)
        self._request = HttpxRequest(settings.ca_file, proxy)
        self._redis, self._clock = client, clock
        self._slot = f"pushq:fcm:token:{self._account.service_account_email}:{self._account.signer.key_id}"
        self._lock = threading.Lock()
        self._token = b""
        self._ends = 0.0
        self._retry_at = 0.0
        self._failure = ""
        #: When a token was fetched in the place of a refused one.
        self._replaced_at = float("-inf")

    def __repr__(self) -> str:
        return f"AccessTokens(app={self._app})"

    def close(self) -> None:
        """Close the connection to the token endpoint."""
        self._request.close()

    def authorization(self) -> bytes:
        """The value of the ``authorization`` header.

        Raises:
            CredentialRefused: Google does not accept the service account.
            CredentialUnavailable: the token endpoint does not answer.
        """
        if self._usable():
            return self._token
        with self._lock:
            if not self._usable():
                try:
                    self._renew(stale=None)
                except CredentialUnavailable as exc:
                    self._retry_at, self._failure = self._clock() + RETRY_S, str(exc)
                    if self._clock() >= self._ends - LAST_USE_S:
                        raise
                    log.warning("fcm_token_not_renewed", extra={"app": self._app, "error": str(exc)})
        return self._token

    def ends_at(self) -> float:
        """UNIX seconds at which the token ends; nan while nobody needs it renewed. Past, or soon: its renewal fails."""
        due = max(self._ends - MARGIN_S, 0.0)
        return self._ends if self._clock() < due or self._retry_at > due else math.nan

    def _usable(self) -> bool:
        """Whether the token will do without a renewal, or with the one that has just failed."""
        now = self._clock()
        if now < self._ends - MARGIN_S:
            return True
        if now >= self._retry_at:
            return False
        if now < self._ends - LAST_USE_S:
            return True
        raise CredentialUnavailable(self._failure)

    def expired(self, stale: bytes) -> None:
        """FCM answered 401 to ``stale``: get another token, unless somebody already has.

        Raises:
            CredentialRefused: ``stale`` was itself fetched a moment ago in the place of a refused one.
        """
        with self._lock:
            if self._token != stale:
                return
            if self._clock() - self._replaced_at < PROOF_S:
                raise CredentialRefused(
                    f"FCM refuses the access token of app {self._app!r}, a new one as well (401). Check that the service account of"
                    f" apps.{self._app}.fcm may use the FCM API, and this machine's clock, then: pushq resume"
                )
            self._renew(stale=stale)
            self._replaced_at = self._clock()

    def _renew(self, stale: bytes | None) -> None:
        try:
            self._token, self._ends = self._shared(stale) or self._fetch_for_all(stale)
        except redis.RedisError as exc:
            log.warning("fcm_token_fetched_alone", extra={"app": self._app, "error": type(exc).__name__})
            self._token, self._ends = self._fetch()

    def _shared(self, stale: bytes | None) -> tuple[bytes, float] | None:
        raw: Any = self._redis.get(self._slot)
        if not raw:
            return None
        found = orjson.loads(raw)
        token, ends = b"Bearer " + found["token"].encode(), float(found["ends"])
        return None if token == stale or self._clock() >= ends - MARGIN_S else (token, ends)

    def _fetch_for_all(self, stale: bytes | None) -> tuple[bytes, float]:
        with self._redis.lock(f"{self._slot}:lock", timeout=LOCK_S, blocking_timeout=LOCK_S):
            shared = self._shared(stale)
            if shared is not None:
                return shared
            token, ends = self._fetch()
            document = orjson.dumps({"token": token.removeprefix(b"Bearer ").decode(), "ends": ends})
            self._redis.set(self._slot, document, ex=max(int(ends - self._clock()), 1))
            log.info("fcm_token_fetched", extra={"app": self._app})
            return token, ends

    def _fetch(self) -> tuple[bytes, float]:
        try:
            self._account.refresh(self._request)
        except exceptions.RefreshError as exc:
            if getattr(exc, "retryable", False):
                raise CredentialUnavailable(
                    f"Google's token endpoint asks to try later (app {self._app!r})"
                ) from exc
            raise CredentialRefused(
                f"Google refuses the service account of app {self._app!r} ({_words(exc)}). Check"
                f" apps.{self._app}.fcm.service_account_file, then: pushq resume"
            ) from exc
        except exceptions.TransportError as exc:
            raise CredentialUnavailable(
                f"Google's token endpoint cannot be reached (app {self._app!r}: {type(exc.__cause__ or exc).__name__})"
            ) from exc
        token = str(self._account.token).encode()
        expiry = self._account.expiry  # naive UTC by google-auth's convention; a refreshed account has one
        assert expiry is not None
        return b"Bearer " + token, expiry.replace(tzinfo=UTC).timestamp()


def _words(error: Exception) -> str:
    """The OAuth error code (`invalid_grant` and the like), which never holds a secret."""
    details = error.args[1] if len(error.args) > 1 else None
    if isinstance(details, Mapping) and isinstance(details.get("error"), str):
        return str(details["error"])[:60]
    return str(error.args[0])[:100] if error.args else "refused"
