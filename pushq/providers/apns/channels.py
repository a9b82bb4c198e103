"""Broadcast channels of APNs: create, look at, delete and list them.

Source: Apple, "Sending channel management requests to APNs". An app has at most 10,000 of them in each environment; a channel's id is
bound to its environment, and a deleted one never comes back. Sending to one is an ordinary send (``audience={"channel": ...}``).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import httpx
import orjson

from pushq.app_settings import ApnsSettings
from pushq.errors import PushqError
from pushq.http2 import ClientCertificate, Proxy
from pushq.providers.dialling import Dialling
from pushq.providers.target import parse_channel

TIMEOUT_S: Final = 15.0

_HINTS: Final = {
    "FeatureNotEnabled": "the broadcast capability is enabled for the bundle id in the developer account",
    "CannotCreateChannelConfig": "fewer than 10,000 channels exist: delete those that are no longer used",
    "ChannelNotRegistered": "the channel exists in this environment: pushq apns channels list",
    "BadChannelId": "the id is what pushq apns channels create printed",
    "TopicMismatch": "the key or certificate belongs to the team of the bundle id",
    "TopicDisallowed": "topic in the configuration is the bundle id, without a suffix",
    "InvalidProviderToken": "key_file, key_id and team_id belong together",
}


class ChannelRefused(PushqError):
    """APNs does not do what was asked of a channel.

    Attributes:
        status, reason: of its answer.
    """

    def __init__(self, doing: str, status: int, reason: str) -> None:
        hint = _HINTS.get(reason)
        super().__init__(
            f"APNs refuses to {doing} ({status} {reason or 'without a reason'})"
            + (f". Check that {hint}" if hint else "")
        )
        self.status, self.reason = status, reason


class ChannelsUnreachable(PushqError):
    """No answer came: the channel may have been made, or deleted, all the same."""


@dataclass(frozen=True)
class Channel:
    """A broadcast channel.

    Attributes:
        stores: whether APNs keeps the newest message, for at most eight hours, for phones that are offline.
    """

    id: str
    stores: bool


class Channels:
    """The channels of one app in one environment. Close it after use.

    Args:
        environment: ``production`` or ``sandbox``.
        authorization: gives the value of the ``authorization`` header; None where ``certificate`` stands for it.
    """

    def __init__(
        self,
        settings: ApnsSettings,
        environment: str,
        *,
        authorization: Callable[[], bytes] | None,
        certificate: ClientCertificate | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self._url = settings.manage_url if environment == "production" else settings.sandbox_manage_url
        self._base = f"{self._url}/1/apps/{settings.topic}"
        self._authorization = authorization
        dialling = Dialling(self._url, settings.ca_file, proxy, certificate=certificate)
        self._client = dialling.client(TIMEOUT_S, http2=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def create(self, *, stores: bool) -> Channel:
        """Make a channel. Its id is what the app subscribes to.

        Args:
            stores: keep the newest message for phones that are offline; without, Apple allows more messages an hour.

        Raises:
            ChannelRefused, ChannelsUnreachable
        """
        body = orjson.dumps({"message-storage-policy": int(stores), "push-type": "LiveActivity"})
        answer = self._ask("create a channel", "POST", "channels", 201, content=body)
        found = answer.headers.get("apns-channel-id", "")
        if not found:
            raise ChannelRefused("name the channel that it made", answer.status_code, "no apns-channel-id")
        return Channel(found, stores)

    def read(self, channel_id: str) -> Channel:
        """Raises InvalidRequest, ChannelRefused, ChannelsUnreachable."""
        answer = self._ask("show the channel", "GET", "channels", 200, channel_id=channel_id)
        return Channel(channel_id, _member(answer, "message-storage-policy") == 1)

    def delete(self, channel_id: str) -> None:
        """Delete a channel for good. Messages that APNs has stored for it may still be delivered.

        Raises:
            InvalidRequest, ChannelRefused, ChannelsUnreachable
        """
        self._ask("delete the channel", "DELETE", "channels", 204, channel_id=channel_id)

    def list(self) -> list[str]:
        """The ids of all channels of the app in this environment.

        Raises:
            ChannelRefused, ChannelsUnreachable
        """
        answer = self._ask("list the channels", "GET", "all-channels", 200)
        found = _member(answer, "channels")
        return [str(each) for each in found] if isinstance(found, list) else []

    def _ask(
        self,
        doing: str,
        method: str,
        place: str,
        expected: int,
        *,
        channel_id: str | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        headers = {"apns-request-id": str(uuid.uuid4())}
        if channel_id is not None:
            headers["apns-channel-id"] = parse_channel(channel_id, "channel")
        if content is not None:
            headers["content-type"] = "application/json"
        if self._authorization is not None:
            headers["authorization"] = self._authorization().decode()
        try:
            answer = self._client.request(method, f"{self._base}/{place}", headers=headers, content=content)
        except (httpx.HTTPError, OSError) as exc:
            raise ChannelsUnreachable(
                f"No answer from {self._url} ({type(exc).__name__}) to the request to {doing}. Check that it can be reached"
                " (pushq doctor), and what there is: pushq apns channels list"
            ) from exc
        if answer.status_code != expected:
            raise ChannelRefused(doing, answer.status_code, str(_member(answer, "reason") or "")[:60])
        return answer


def _member(answer: httpx.Response, key: str) -> object:
    try:
        document = orjson.loads(answer.content) if answer.content else None
    except orjson.JSONDecodeError:
        return None
    return document.get(key) if isinstance(document, dict) else None
