"""One app's access to FCM: its access token, its connections, its requests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import repeat
from typing import Final
from urllib.parse import urlsplit

import redis

from pushq.app_settings import FcmSettings
from pushq.http2 import Answer, Burst, HeaderTemplate, Origin, Pool, PoolSettings, Proxy
from pushq.notification import Notification
from pushq.providers.answers import Verdict
from pushq.providers.client import Message
from pushq.providers.credential_metrics import CredentialMetrics
from pushq.providers.fcm import compose
from pushq.providers.fcm.credentials import AccessTokens
from pushq.providers.fcm.responses import judge
from pushq.providers.pool_metrics import PoolMetrics, conceal, expose
from pushq.rendering.contents import Format

#: FCM's back end takes 100 at once and answers the next one with GOAWAY (firebase-admin-node caps itself at the same figure).
MAX_STREAMS: Final = 100
#: Google's front end punishes frequent pings with ENHANCE_YOUR_CALM (field report codedge-llc/pigeon 81).
PING_AFTER_S: Final = 60.0
_KEPT_SENDS: Final = 64


class FcmClient:
    """See :class:`pushq.providers.client.ProviderClient`."""

    platform = "fcm"
    chunk: int | None = None

    def __init__(
        self,
        app: str,
        settings: FcmSettings,
        client: redis.Redis,
        *,
        request_timeout_s: float,
        proxy: Proxy | None = None,
    ) -> None:
        self._app, self._settings = app, settings
        self._tokens = AccessTokens(app, settings, client, time.time, proxy)
        parts = urlsplit(settings.url)
        self._pool = Pool(
            f"fcm/{app}",
            Origin(parts.hostname or "", parts.port or 443, ca_file=settings.ca_file),
            PoolSettings(
                min_connections=settings.min_connections,
                max_connections=settings.max_connections,
                max_streams=MAX_STREAMS,
                stream_ceiling=1.0,
                request_timeout_s=request_timeout_s,
                first_request_alone=False,
                ping_after_s=PING_AFTER_S,
                idle_close_s=settings.idle_close_seconds,
                # 100 requests each: many are needed, and Google does not mind as Apple does.
                open_spacing_s=0.05,
            ),
            proxy=proxy,
            observer=PoolMetrics(),
        )
        expose(self._pool)
        self._ends = CredentialMetrics(app, "fcm")
        self._ends.token("access_token", self._tokens.ends_at)
        self._ends.certificate("ca", settings.ca_file)
        self._template: tuple[bytes, HeaderTemplate] | None = None
        self._rendered: dict[uuid.UUID, bytes] = {}

    def start(self) -> None:
        self._pool.start()

    def close(self, grace: float) -> None:
        self._pool.close(grace)
        conceal(self._pool)
        self._ends.conceal()
        self._tokens.close()

    def pool(self, environment: str) -> Pool:
        return self._pool

    def format(self, message: Message) -> Format[Notification]:
        return compose.format_of(message)

    def burst(
        self,
        message: Message,
        tokens: Sequence[bytes],
        device_ids: Sequence[int],
        now: datetime,
        contents: Iterable[bytes] | None = None,
    ) -> Burst:
        if contents is None:
            contents = repeat(self._render(message), len(tokens))
        return compose.burst(self._common(), tokens, contents, target=message.target)

    def rehearse(self, message: Message, tokens: Sequence[bytes], contents: Sequence[bytes]) -> Burst:
        return compose.burst(self._common(), tokens, contents, target=message.target, validate_only=True)

    def _common(self) -> HeaderTemplate:
        authorization = self._tokens.authorization()
        if self._template is None or self._template[0] != authorization:
            self._template = (
                authorization,
                compose.template(project_id=self._settings.project_id, authorization=authorization),
            )
        return self._template[1]

    def _render(self, message: Message) -> bytes:
        content = self._rendered.get(message.send_id)
        if content is None:
            content = self._rendered[message.send_id] = self.format(message).write(message.notification)
            while len(self._rendered) > _KEPT_SENDS:
                del self._rendered[next(iter(self._rendered))]
        return content

    def judge(self, answer: Answer, *, sent_at: datetime, now: datetime) -> Verdict:
        return judge(answer.status, answer.headers, answer.body, sent_at=sent_at, now=now)

    def reauthenticate(self, burst: Burst) -> None:
        self._tokens.expired(dict(burst.template.headers)[b"authorization"])

    def explain(self, verdict: Verdict) -> str:
        table = f"apps.{self._app}.fcm"
        look = {
            403: f"the FCM API is enabled and the service account of {table} may send messages",
            404: f"{table}.project_id is right",
        }.get(verdict.status, f"the settings in {table} are right")
        if verdict.guarded:
            look = f"the tokens come from an app of the project in {table}.project_id"
        detail = f": {verdict.detail}" if verdict.detail else ""
        return f"FCM refuses app {self._app!r} ({verdict.status} {verdict.reason}{detail}). Check that {look}, then: pushq resume"
