"""One app's access to APNs: its token, its connections, its requests."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import redis

from pushq.app_settings import ApnsSettings
from pushq.http2 import Answer, Burst, GoAwayReceived, HeaderTemplate, Origin, Pool, PoolSettings, Proxy
from pushq.notification import Notification
from pushq.providers.answers import Effect, Scope, Verdict
from pushq.providers.apns import compose
from pushq.providers.apns.credentials import load_certificate, provider_tokens
from pushq.providers.apns.responses import RULES, judge
from pushq.providers.client import CredentialRefused, Message
from pushq.providers.credential_metrics import CredentialMetrics
from pushq.providers.pool_metrics import PoolMetrics, conceal, expose
from pushq.rendering.contents import Format

log = logging.getLogger("pushq.apns")

_RETIRE = tuple(reason.encode() for (_, reason), rule in RULES.items() if rule.retire)
#: Reasons that speak of the credential, wherever they stand: in an answer, or in a GOAWAY instead of one.
_CREDENTIAL = {reason: rule.effect for (_, reason), rule in RULES.items() if rule.scope is Scope.CREDENTIAL}
#: Apple's certificates live for a year, and a new one takes a person: that long before the end it is time.
WARN_BEFORE: Final = timedelta(days=30)
#: Sends whose template and body are kept; more than run at the same time.
_KEPT_SENDS = 64


class ApnsClient:
    """See :class:`pushq.providers.client.ProviderClient`."""

    platform = "apns"
    chunk: int | None = None

    def __init__(
        self,
        app: str,
        settings: ApnsSettings,
        client: redis.Redis,
        *,
        request_timeout_s: float,
        proxy: Proxy | None = None,
    ) -> None:
        self._app, self._settings = app, settings
        self._certificate = load_certificate(settings, app)
        self._tokens = provider_tokens(settings, app, client, time.time)
        pool_settings = PoolSettings(
            min_connections=settings.min_connections,
            max_connections=settings.max_connections,
            idle_close_s=settings.idle_close_seconds,
            request_timeout_s=request_timeout_s,
        )
        self._pools = {
            environment: Pool(
                f"apns/{app}" if environment == "production" else f"apns/{app}/{environment}",
                _origin(url, settings),
                pool_settings,
                proxy=proxy,
                retire_on=_retires,
                on_goaway=partial(self._went_away, environment),
                observer=PoolMetrics(),
            )
            for environment, url in (("production", settings.url), ("sandbox", settings.sandbox_url))
        }
        for pool in self._pools.values():
            expose(pool)
        self._ends = CredentialMetrics(app, "apns")
        # The sandbox's token is minted as the other one is, and is of no use to anybody when it ends.
        if "production" in self._tokens:
            self._ends.token("provider_token", self._tokens["production"].ends_at)
        if self._certificate is not None:
            self._ends.token("client_certificate", self._certificate.expires_at.timestamp)
        self._ends.certificate("ca", settings.ca_file)
        self._started: set[str] = set()
        self._closed = False
        # By environment: what was used last, and what APNs closed a connection for the age of.
        self._authorization: dict[str, bytes] = {}
        self._outdated: dict[str, bytes] = {}
        # A replay gives a send another time, which its headers and a Live Activity's content speak of.
        self._rendered: dict[tuple[uuid.UUID, str], tuple[tuple[bytes, datetime], HeaderTemplate, bytes]] = {}

    def start(self) -> None:
        self._tell_of_the_end()
        self._start("production")

    def _tell_of_the_end(self) -> None:
        ends = self.credential_expires_at
        if ends is None:
            return
        left = ends - datetime.now(UTC)
        if left < WARN_BEFORE:
            log.warning(
                "apns_certificate_ends",
                extra={
                    "app": self._app,
                    "expires_at": ends.isoformat(),
                    "days_left": max(left.days, 0),
                    "hint": f"put a new one at apps.{self._app}.apns.certificate_file",
                },
            )

    def _start(self, environment: str) -> None:
        if environment not in self._started and not self._closed:
            self._started.add(environment)
            self._pools[environment].start()

    def close(self, grace: float) -> None:
        self._closed = True
        deadline = time.monotonic() + grace
        # A copy: closing a pool waits, and others run meanwhile.
        for environment in tuple(self._started):
            self._pools[environment].close(max(0.0, deadline - time.monotonic()))
        for pool in self._pools.values():
            conceal(pool)
        self._ends.conceal()

    def pool(self, environment: str) -> Pool:
        # Most apps have no sandbox devices: its connections are opened for the first of them.
        self._start(environment)
        return self._pools[environment]

    @property
    def credential_expires_at(self) -> datetime | None:
        """When the client certificate ends (UTC); None with a key, which does not."""
        return None if self._certificate is None else self._certificate.expires_at

    def _went_away(self, environment: str, event: GoAwayReceived) -> None:
        """The requests have their outcomes already; here it is about those to come. Called by the connection: no waiting."""
        effect = _CREDENTIAL.get(event.reason)
        if effect is Effect.REAUTHENTICATE:
            self._outdated[environment] = self._authorization.get(environment, b"")
        elif effect is not None:
            log.error(
                "apns_credential_refused_by_goaway",
                extra={
                    "app": self._app,
                    "reason": event.reason,
                    "hint": f"the settings in apps.{self._app}.apns",
                },
            )

    def format(self, message: Message) -> Format[Notification]:
        return compose.format_of(message)

    def burst(
        self,
        message: Message,
        tokens: Sequence[bytes],
        device_ids: Sequence[int],
        now: datetime,
        contents: Sequence[bytes] | None = None,
    ) -> Burst:
        self._check_certificate(now)
        common, body = self._render(message)
        return compose.burst(common, message, tokens, device_ids, body if contents is None else contents)

    def _check_certificate(self, now: datetime) -> None:
        """APNs refuses an expired one in the handshake, without a word: say it before."""
        expires_at = self.credential_expires_at
        if expires_at is not None and now >= expires_at:
            raise CredentialRefused(
                f"the certificate of app {self._app!r} expired at {expires_at:%Y-%m-%d %H:%M} UTC. Put a new one at"
                f" apps.{self._app}.apns.certificate_file, then: pushq resume"
            )

    def _current_authorization(self, environment: str) -> bytes:
        """The value of the ``authorization`` header; empty where a client certificate stands for it."""
        tokens = self._tokens.get(environment)
        if tokens is None:
            return b""
        outdated = self._outdated.pop(environment, b"")
        if outdated:
            tokens.expired(outdated)
        self._authorization[environment] = tokens.authorization()
        return self._authorization[environment]

    def _render(self, message: Message) -> tuple[HeaderTemplate, bytes]:
        authorization = self._current_authorization(message.environment)
        key, made_for = (message.send_id, message.environment), (authorization, message.starts_at)
        kept = self._rendered.get(key)
        if kept is None or kept[0] != made_for:
            common = compose.template(message, topic=self._settings.topic, authorization=authorization)
            kept = made_for, common, self.format(message).write(message.notification)
            self._rendered[key] = kept
            while len(self._rendered) > _KEPT_SENDS:
                del self._rendered[next(iter(self._rendered))]
        return kept[1], kept[2]

    def rehearse(self, message: Message, tokens: Sequence[bytes], contents: Sequence[bytes]) -> None:
        """APNs delivers what it takes."""

    def judge(self, answer: Answer, *, sent_at: datetime, now: datetime) -> Verdict:
        return judge(answer.status, answer.headers, answer.body, sent_at=sent_at, now=now)

    def reauthenticate(self, burst: Burst) -> None:
        stale = dict(burst.template.headers).get(b"authorization", b"")
        for tokens in set(self._tokens.values()):
            tokens.expired(stale)

    def explain(self, verdict: Verdict) -> str:
        table = f"apps.{self._app}.apns"
        look = {
            "InvalidProviderToken": f"{table}.key_file, key_id and team_id belong together",
            "BadTopic": f"{table}.topic is the app's bundle id",
            "DeviceTokenNotForTopic": f"{table}.topic is the bundle id of the app that the tokens come from",
            "BadDeviceToken": f"the tokens come from this app and from the environment of {table}.url",
            "TopicDisallowed": f"{table}.topic belongs to the team of the key",
            "FeatureNotEnabled": f"the broadcast capability is enabled for {table}.topic in the developer account",
            "TopicMismatch": f"{table}.topic belongs to the key or certificate",
            "BadCertificate": f"{table}.certificate_file is a push certificate of this app, and not revoked",
            "BadCertificateEnvironment": f"{table}.certificate_file is made for this environment",
            "BadEnvironmentKeyInToken": f"the key of {table} is made for this environment",
            "BadEnvironmentKeyIdInToken": f"the key of {table} is made for this environment",
        }.get(verdict.reason, f"the settings in {table}")
        return f"APNs refuses app {self._app!r} ({verdict.status} {verdict.reason}). Check that {look}, then: pushq resume"


def _origin(url: str, settings: ApnsSettings) -> Origin:
    parts = urlsplit(url)
    return Origin(
        parts.hostname or "",
        parts.port or 443,
        ca_file=settings.ca_file,
        client_cert=settings.certificate_file,
        client_key=settings.certificate_key_file,
        client_password=settings.certificate_password_file,
    )


def _retires(answer: Answer) -> bool:
    # Cheap before exact: the answer is parsed once, later, where it is judged.
    return answer.status != 410 and any(reason in answer.body for reason in _RETIRE)
