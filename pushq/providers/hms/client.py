"""One app's access to HMS Push Kit: its credentials, its connections, its requests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import redis

from pushq.app_settings import HmsSettings
from pushq.http2 import Answer, Burst, HeaderTemplate, Proxy
from pushq.notification import Notification
from pushq.providers.answers import Effect, Verdict
from pushq.providers.client import Message
from pushq.providers.credential_metrics import CredentialMetrics
from pushq.providers.dialling import Dialling
from pushq.providers.hms import compose, request
from pushq.providers.hms.burst import Request, TokenBurst
from pushq.providers.hms.credentials import open_credentials
from pushq.providers.hms.pool import HmsPool
from pushq.providers.hms.responses import ALL_INVALID, PARTLY, judge
from pushq.providers.pool_metrics import PoolMetrics, conceal, expose
from pushq.rendering.contents import Format

_KEPT_SENDS: Final = 64
#: Huawei's own OAuth service failed a request of ours. Soon after, it is taken at its word; later it is another failure.
OAUTH_FAILED: Final = "80600003"
_SOON_S: Final = 60.0


@dataclass(frozen=True)
class _Rendered:
    """What the requests of a send have in common."""

    authorization: bytes
    template: HeaderTemplate
    content: bytes
    per_request: int


class HmsClient:
    """See :class:`pushq.providers.client.ProviderClient`."""

    platform = "hms"

    def __init__(
        self,
        app: str,
        settings: HmsSettings,
        client: redis.Redis,
        *,
        request_timeout_s: float,
        proxy: Proxy | None = None,
    ) -> None:
        self._app, self._settings = app, settings
        self.chunk: int | None = settings.tokens_per_request
        self._credentials = open_credentials(app, settings, client, clock=time.time, proxy=proxy)
        self._pool = HmsPool(
            f"hms/{app}",
            settings.url,
            Dialling(settings.url, settings.ca_file, proxy),
            max_connections=settings.max_connections,
            request_timeout_s=request_timeout_s,
            idle_close_s=settings.idle_close_seconds,
            observer=PoolMetrics(),
        )
        expose(self._pool)
        self._ends = CredentialMetrics(app, "hms")
        self._ends.token(self._credentials.kind, self._credentials.ends_at)
        self._ends.certificate("ca", settings.ca_file)
        self._rendered: dict[uuid.UUID, _Rendered] = {}
        self._judged: tuple[Answer, datetime, Verdict] | None = None
        self._oauth_failed_at = float("-inf")

    def start(self) -> None:
        """Connections are opened for the first requests: a lane more or less is a matter of milliseconds."""

    def close(self, grace: float) -> None:
        self._pool.close(grace)
        self._credentials.close()
        conceal(self._pool)
        self._ends.conceal()

    def pool(self, environment: str) -> HmsPool:
        # Test messages are an option of the message, not an environment of the token.
        return self._pool

    def format(self, message: Message) -> Format[Notification]:
        return compose.format_of(message, self._settings.api)

    def burst(
        self,
        message: Message,
        tokens: Sequence[bytes],
        device_ids: Sequence[int],
        now: datetime,
        contents: Sequence[bytes] | None = None,
    ) -> Burst:
        rendered = self._render(message)
        groups: dict[bytes, Sequence[int]] = {}
        if contents is None:
            groups[rendered.content] = range(len(tokens))
        else:
            # Who gets the same shares a request: all of one language, or of one name.
            together: dict[bytes, list[int]] = {}
            for index, content in enumerate(contents):
                together.setdefault(content, []).append(index)
            groups.update(together)
        step = rendered.per_request
        return TokenBurst(
            rendered.template,
            len(tokens),
            [
                self._request(indices[start : start + step], tokens, content)
                for content, indices in groups.items()
                for start in range(0, len(indices), step)
            ],
        )

    def rehearse(
        self, message: Message, tokens: Sequence[bytes], contents: Sequence[bytes]
    ) -> TokenBurst | None:
        api = self._settings.api
        if api == "v3":
            return None
        requests = [
            Request([index], [token], request.body(api, content, [token], validate_only=True))
            for index, (token, content) in enumerate(zip(tokens, contents, strict=True))
        ]
        return TokenBurst(self._render(message).template, len(tokens), requests)

    def _request(self, indices: Sequence[int], tokens: Sequence[bytes], content: bytes) -> Request:
        named = [tokens[index] for index in indices]
        return Request(indices, named, request.body(self._settings.api, content, named))

    def _render(self, message: Message) -> _Rendered:
        authorization = self._credentials.authorization()
        kept = self._rendered.get(message.send_id)
        if kept is not None and kept.authorization == authorization:
            return kept
        notification, settings = message.notification, self._settings
        template = compose.template(
            message, api=settings.api, path_id=settings.path_id, authorization=authorization
        )
        kept = _Rendered(
            authorization,
            template,
            self.format(message).write(notification),
            request.tokens_per_request(notification, settings.api, settings.tokens_per_request),
        )
        self._rendered[message.send_id] = kept
        while len(self._rendered) > _KEPT_SENDS:
            del self._rendered[next(iter(self._rendered))]
        return kept

    def judge(self, answer: Answer, *, sent_at: datetime, now: datetime) -> Verdict:
        # A refusal of a whole request is one object for all of its devices.
        last = self._judged
        if last is not None and last[0] is answer and last[1] == sent_at:
            return last[2]
        verdict = judge(answer, sent_at=sent_at, now=now)
        if verdict.reason == OAUTH_FAILED:
            verdict = self._escalate(verdict)
        self._judged = answer, sent_at, verdict
        return verdict

    def _escalate(self, verdict: Verdict) -> Verdict:
        """Once it may be Huawei's affair, again it may be our token."""
        before, self._oauth_failed_at = self._oauth_failed_at, monotonic()
        if verdict.wait_s < self._oauth_failed_at - before < _SOON_S:
            return replace(verdict, effect=Effect.REAUTHENTICATE)
        return verdict

    def reauthenticate(self, burst: Burst) -> None:
        refused = [judge(answer, sent_at=_LONG_AGO, now=_LONG_AGO) for answer in burst.answers.values()]
        code = next((v.reason for v in refused if v.effect is not Effect.TOKEN_DEAD), "401")
        self._credentials.refused(dict(burst.template.headers)[b"authorization"], code)

    def explain(self, verdict: Verdict) -> str:
        table = f"apps.{self._app}.hms"
        code, _, cause = verdict.reason.partition("_")
        look = {
            "80300002": "Push Kit is enabled for the app, and for the region of its users, in AppGallery Connect, and the id in the"
            f" path ({self._settings.path_id}) is of the app or project that the tokens come from",
            "80300013": "the receipt address is registered in AppGallery Connect",
            "80300036": f"this machine's clock is right: the service account's token of {table} seems to last over a day",
            "80300037": "AppGallery Connect shows no penalty for the app",
            ALL_INVALID: f"{table} names the app that the tokens come from, and an api that their phones understand (v3: HarmonyOS 5"
            " and later, v1 and v2: all before)",
            PARTLY: f"{table} names the app that the tokens come from, and an api that their phones understand",
            "status": f"{table}.url, api and {'app_id' if self._settings.api == 'v1' else 'project_id'} are right",
        }.get(code, f"the settings in {table} are right")
        if cause and code in (ALL_INVALID, PARTLY):
            look = f"AppGallery Connect lets the app send this ({cause}), and {look}"
        detail = f": {verdict.detail}" if verdict.detail else ""
        return f"HMS refuses app {self._app!r} ({verdict.status} {verdict.reason}{detail}). Check that {look}, then: pushq resume"


_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
