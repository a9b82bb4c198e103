"""Subscribing registrations to FCM's topics, a thousand in a request.

Source: Firebase, "Manage topic subscriptions on the server" (and firebase-admin, which calls the same). The calls go to the Instance
ID service. A public client reports that Google ends it on 2027-09-29; this module is all that knows of it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Protocol, Self

import httpx
import orjson

from pushq.app_settings import FcmSettings
from pushq.errors import PushqError
from pushq.http2 import Proxy
from pushq.providers.answers import retry_after
from pushq.providers.client import CredentialRefused
from pushq.providers.dialling import Dialling
from pushq.providers.fcm.request import FID_PREFIX, parse_topic

log = logging.getLogger("pushq.fcm")

#: What one request may name (B7 of Firebase's limits).
MAX_REGISTRATIONS: Final = 1000
TIMEOUT_S: Final = 30.0
TRIES: Final = 4
#: Before the second try; it doubles. FCM: never under 10 s, and 60 s after a 429 that names no time.
FIRST_WAIT_S: Final = 10.0
QUOTA_WAIT_S: Final = 60.0
#: A registration by Firebase installation id: the service knows registration tokens only.
NOT_A_TOKEN: Final = "INSTALLATION_ID"  # noqa: S105


class TopicsRefused(PushqError):
    """FCM does not do what was asked for a topic: nobody of this request was changed."""


class TopicsUnavailable(PushqError):
    """The service did not answer, or asked to come later, too often. What was done before stays done; repeating it does no harm."""


class Authorizes(Protocol):
    """Hands out access tokens, as :class:`pushq.providers.fcm.credentials.AccessTokens` does."""

    def authorization(self) -> bytes: ...
    def expired(self, stale: bytes) -> None: ...


@dataclass
class TopicChange:
    """What became of the registrations.

    Attributes:
        changed: those that are subscribed (or no longer are) now.
        failed: how many for each reason: ``NOT_FOUND`` (the token is dead), ``INVALID_ARGUMENT``, ``TOO_MANY_TOPICS``...
    """

    changed: int = 0
    failed: Counter[str] = field(default_factory=Counter)


class Topics:
    """Topic subscriptions of one Firebase project. Close it after use.

    Args:
        sleep, clock: waiting, and the present time (UTC); injected so that tests need not wait.
    """

    def __init__(
        self,
        app: str,
        settings: FcmSettings,
        tokens: Authorizes,
        *,
        proxy: Proxy | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._app, self._url, self._tokens = app, settings.iid_url, tokens
        self._client = Dialling(settings.iid_url, settings.ca_file, proxy).client(TIMEOUT_S, http2=False)
        self._sleep, self._clock = sleep, clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def subscribe(self, topic: str, registrations: Iterable[str]) -> TopicChange:
        """See :meth:`change`."""
        return self.change(topic, registrations, subscribe=True)

    def unsubscribe(self, topic: str, registrations: Iterable[str]) -> TopicChange:
        """See :meth:`change`."""
        return self.change(topic, registrations, subscribe=False)

    def change(
        self,
        topic: str,
        registrations: Iterable[str],
        *,
        subscribe: bool,
        progress: Callable[[TopicChange], None] = lambda _: None,
    ) -> TopicChange:
        """Subscribe registrations to a topic, or end that. Repeating it does no harm.

        Args:
            registrations: registration tokens; read a thousand at a time, so an iterator may stand for millions.
            progress: is called after each request.

        Raises:
            InvalidRequest: the topic's name is none.
            TopicsRefused, TopicsUnavailable, CredentialRefused, CredentialUnavailable: what came before stays done.
        """
        parse_topic(topic, "topic")
        change = TopicChange()
        for chunk in _chunks(registrations, MAX_REGISTRATIONS):
            known = [each for each in chunk if not each.startswith(FID_PREFIX.decode())]
            change.failed[NOT_A_TOKEN] += len(chunk) - len(known)
            if known:
                for error in self._request(topic, known, subscribe=subscribe):
                    if error is None:
                        change.changed += 1
                    else:
                        change.failed[error] += 1
            progress(change)
        change.failed = +change.failed
        return change

    def _request(self, topic: str, registrations: Sequence[str], *, subscribe: bool) -> list[str | None]:
        """An error for each registration; None: done."""
        url = f"{self._url}/iid/v1:{'batchAdd' if subscribe else 'batchRemove'}"
        body = orjson.dumps({"to": f"/topics/{topic}", "registration_tokens": list(registrations)})
        renewed, said, wait = False, "", 0.0
        for number in range(TRIES):
            if wait:
                self._sleep(wait)
            wait = FIRST_WAIT_S * 2**number
            authorization = self._tokens.authorization()
            answer = self._post(url, body, authorization)
            if answer is None:
                said = "no answer"
                continue
            if answer.status_code == 200:
                return _results(answer, len(registrations))
            said = f"{answer.status_code} {_error(answer)}"
            if answer.status_code == 401 and not renewed:
                self._tokens.expired(authorization)
                renewed, wait = True, 0.0
            elif answer.status_code == 429 or answer.status_code >= 500:
                asked = retry_after(answer.headers, self._clock())
                default = QUOTA_WAIT_S if answer.status_code == 429 else wait
                wait = default if asked is None else asked
                log.warning("fcm_topics_wait", extra={"app": self._app, "answer": said, "wait_s": wait})
            elif answer.status_code in (401, 403):
                raise CredentialRefused(
                    f"FCM refuses app {self._app!r} ({said}). Check that the service account of apps.{self._app}.fcm may manage"
                    " topics (role: Firebase Cloud Messaging API Admin)"
                )
            else:
                raise TopicsRefused(f"FCM refuses the change of topic {topic!r} ({said})")
        raise TopicsUnavailable(f"FCM's topic service gives no useful answer ({said}); try again later")

    def _post(self, url: str, body: bytes, authorization: bytes) -> httpx.Response | None:
        headers = {
            "authorization": authorization.decode(),
            "access_token_auth": "true",
            "content-type": "application/json",
        }
        try:
            return self._client.post(url, content=body, headers=headers)
        except (httpx.HTTPError, OSError) as exc:
            log.warning("fcm_topics_no_answer", extra={"app": self._app, "error": type(exc).__name__})
            return None


def _chunks(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _results(answer: httpx.Response, count: int) -> list[str | None]:
    document = _document(answer)
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, list) or len(results) != count:
        raise TopicsRefused(
            "FCM's topic service answered 200 with something else than one result for each token"
        )
    return [
        None
        if not (error := result.get("error") if isinstance(result, dict) else "UNKNOWN")
        else str(error)[:60]
        for result in results
    ]


def _error(answer: httpx.Response) -> str:
    document = _document(answer)
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        error = error.get("status") or error.get("message")
    return str(error or "")[:100]


def _document(answer: httpx.Response) -> object:
    try:
        return orjson.loads(answer.content) if answer.content else None
    except orjson.JSONDecodeError:
        return None
