"""The access token for FCM: google-auth's service account, one refresh for the fleet, shared through Redis.

Source: Google, OAuth 2.0 for service accounts; the token lives about an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import redis
from google.auth import exceptions, transport
from google.oauth2 import service_account

from pushq.app_settings import FcmSettings
from pushq.errors import SettingsError
from pushq.http2 import Proxy
from pushq.providers.client import CredentialRefused, CredentialUnavailable
from pushq.providers.shared_token import TIMEOUT_S, Fetched, SharedToken

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"


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
        slot = f"pushq:fcm:token:{self._account.service_account_email}:{self._account.signer.key_id}"
        self._token = SharedToken(f"fcm/{app}", slot, self._fetch, client, clock)

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
        return self._token.authorization()

    def ends_at(self) -> float:
        """See :meth:`SharedToken.ends_at`."""
        return self._token.ends_at()

    def expired(self, stale: bytes) -> None:
        """FCM answered 401 to ``stale``: get another token, unless somebody already has.

        Raises:
            CredentialRefused: ``stale`` was itself fetched a moment ago in the place of a refused one.
            CredentialUnavailable: the token endpoint does not answer.
        """
        self._token.refused(
            stale,
            f"FCM refuses the access token of app {self._app!r}, a new one as well (401). Check that the service account of"
            f" apps.{self._app}.fcm may use the FCM API, and this machine's clock, then: pushq resume",
        )

    def _fetch(self) -> Fetched:
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
        expiry = self._account.expiry  # naive UTC by google-auth's convention; a refreshed account has one
        assert expiry is not None
        return str(self._account.token), expiry.replace(tzinfo=UTC).timestamp()


def _words(error: Exception) -> str:
    """The OAuth error code (`invalid_grant` and the like), which never holds a secret."""
    details = error.args[1] if len(error.args) > 1 else None
    if isinstance(details, Mapping) and isinstance(details.get("error"), str):
        return str(details["error"])[:60]
    return str(error.args[0])[:100] if error.args else "refused"
