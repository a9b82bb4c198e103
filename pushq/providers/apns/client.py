"""One app's access to APNs: its token, its connections, its requests."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

import redis

from pushq.http2 import Answer, Burst, GoAwayReceived, HeaderTemplate, Origin, Pool, PoolSettings, Proxy
from pushq.notification import Notification
from pushq.providers.answers import Effect, Scope, Verdict
from pushq.providers.apns import request
from pushq.providers.apns.credentials import ProviderTokens, load_key
from pushq.providers.apns.responses import RULES, judge
from pushq.providers.client import Message
from pushq.providers.pool_metrics import PoolMetrics, conceal, expose
from pushq.rendering.contents import Format
from pushq.settings import ApnsSettings

log = logging.getLogger("pushq.apns")

_RETIRE = tuple(reason.encode() for (_, reason), rule in RULES.items() if rule.retire)
#: Reasons that speak of the credential, wherever they stand: in an answer, or in a GOAWAY instead of one.
_CREDENTIAL = {reason: rule.effect for (_, reason), rule in RULES.items() if rule.scope is Scope.CREDENTIAL}
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
        self._tokens = ProviderTokens(settings, load_key(settings, app), client, time.time)
        pool_settings = PoolSettings(
            min_connections=settings.min_connections,
            max_connections=settings.max_connections,
            idle_close_s=settings.idle_close_seconds,
            request_timeout_s=request_timeout_s,
        )
        self._pools = {
            "production": Pool(
                f"apns/{app}",
                _origin(settings.url, settings),
                pool_settings,
                proxy=proxy,
                retire_on=_retires,
                on_goaway=self._went_away,
                observer=PoolMetrics(),
            ),
            "sandbox": Pool(
                f"apns/{app}/sandbox",
                _origin(settings.sandbox_url, settings),
                pool_settings,
                proxy=proxy,
                retire_on=_retires,
                on_goaway=self._went_away,
                observer=PoolMetrics(),
            ),
        }
        for pool in self._pools.values():
            expose(pool)
        self._started: set[str] = set()
        self._closed = False
        self._authorization = b""  # used last
        self._outdated = b""  # one for whose age APNs closed a connection
        self._rendered: dict[uuid.UUID, tuple[bytes, HeaderTemplate, bytes]] = {}

    def start(self) -> None:
        self._start("production")

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

    def pool(self, environment: str) -> Pool:
        # Most apps have no sandbox devices: its connections are opened for the first of them.
        self._start(environment)
        return self._pools[environment]

    def _went_away(self, event: GoAwayReceived) -> None:
        """The requests have their outcomes already; here it is about those to come. Called by the connection: no waiting."""
        effect = _CREDENTIAL.get(event.reason)
        if effect is Effect.REAUTHENTICATE:
            self._outdated = self._authorization
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
        return Format(request.payload, lambda filled: len(request.payload(filled)), request.MAX_PAYLOAD_BYTES)

    def burst(
        self,
        message: Message,
        tokens: Sequence[bytes],
        device_ids: Sequence[int],
        now: datetime,
        contents: Sequence[bytes] | None = None,
    ) -> Burst:
        template, body = self._render(message)
        send_id = message.send_id
        return Burst(
            template,
            len(tokens),
            targets=tokens,
            bodies=body if contents is None else contents,
            values=[(request.apns_id(send_id, device),) for device in device_ids],
        )

    def _render(self, message: Message) -> tuple[HeaderTemplate, bytes]:
        if self._outdated:
            self._tokens.expired(self._outdated)
            self._outdated = b""
        self._authorization = authorization = self._tokens.authorization()
        kept = self._rendered.get(message.send_id)
        if kept is None or kept[0] != authorization:
            expires_at = 0 if message.notification.ttl == 0 else int(message.expires_at.timestamp())
            headers = request.headers(
                message.notification,
                topic=self._settings.topic,
                authorization=authorization,
                expires_at=expires_at,
                collapse_id=message.collapse_id,
            )
            template = HeaderTemplate(
                request.PATH_PREFIX, headers, varying=(b"apns-id",), unindexed=request.UNINDEXED
            )
            kept = authorization, template, request.payload(message.notification)
            self._rendered[message.send_id] = kept
            while len(self._rendered) > _KEPT_SENDS:
                del self._rendered[next(iter(self._rendered))]
        return kept[1], kept[2]

    def judge(self, answer: Answer, *, sent_at: datetime, now: datetime) -> Verdict:
        return judge(answer.status, answer.headers, answer.body, sent_at=sent_at, now=now)

    def reauthenticate(self, burst: Burst) -> None:
        self._tokens.expired(dict(burst.template.headers)[b"authorization"])

    def explain(self, verdict: Verdict) -> str:
        table = f"apps.{self._app}.apns"
        look = {
            "InvalidProviderToken": f"{table}.key_file, key_id and team_id belong together",
            "BadTopic": f"{table}.topic is the app's bundle id",
            "DeviceTokenNotForTopic": f"{table}.topic is the bundle id of the app that the tokens come from",
            "BadDeviceToken": f"the tokens come from this app and from the environment of {table}.url",
            "TopicDisallowed": f"{table}.topic belongs to the team of the key",
            "BadEnvironmentKeyInToken": f"the key of {table} is made for this environment",
            "BadEnvironmentKeyIdInToken": f"the key of {table} is made for this environment",
        }.get(verdict.reason, f"the settings in {table}")
        return f"APNs refuses app {self._app!r} ({verdict.status} {verdict.reason}). Check that {look}, then: pushq resume"


def _origin(url: str, settings: ApnsSettings) -> Origin:
    parts = urlsplit(url)
    return Origin(parts.hostname or "", parts.port or 443, ca_file=settings.ca_file)


def _retires(answer: Answer) -> bool:
    # Cheap before exact: the answer is parsed once, later, where it is judged.
    return answer.status != 410 and any(reason in answer.body for reason in _RETIRE)
