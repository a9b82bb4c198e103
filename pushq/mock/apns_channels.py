"""Broadcast channels of APNs, and the host that manages them, as pure rules.

https://developer.apple.com/documentation/usernotifications/sending-channel-management-requests-to-apns
https://developer.apple.com/documentation/usernotifications/handling-error-responses-from-apns
"""

from __future__ import annotations

import base64
import re
import secrets
import uuid

import orjson

from pushq.mock.apns import STATUS, ApnsRules, ApnsSession
from pushq.mock.channel_registry import Channels, channel_objection
from pushq.mock.exchange import Answer, AnswerSpec, Headers, Request, StreamRule

MANAGE_PATH = re.compile(r"/1/apps/([^/]+)/(channels|all-channels)")
MAX_CHANNELS = 10_000
JSON_TYPE: Headers = (("content-type", "application/json"),)


class ChannelRules:
    """The management host of one environment.

    Args:
        apns: the environment itself: knows the credentials and holds the channels.
    """

    platform = "channels"
    streams = StreamRule(100, 100, 7, b"Maximum active streams violated for this endpoint")

    def __init__(self, apns: ApnsRules) -> None:
        self._apns = apns

    def open_session(self) -> ApnsSession:
        return ApnsSession()

    def admit(self, request: Request, session: ApnsSession, now: float) -> Answer | None:
        path = MANAGE_PATH.fullmatch(request.path)
        if path is None:
            return self._refuse("BadPath", request)
        allowed = {"GET"} if path[2] == "all-channels" else {"GET", "POST", "DELETE"}
        if request.method not in allowed:
            return self._refuse("MethodNotAllowed", request)
        reason = self._apns.credential_objection(request, session, now)
        reason = reason or self._apns.bundle_objection(path[1], session)
        if reason is not None:
            return self._refuse(reason, request)
        session.credential_accepted = True
        return None

    def target(self, request: Request) -> bytes:
        return (request.value("apns-channel-id") or "").encode("latin-1", "replace")

    def consider(self, request: Request, now: float) -> Answer:
        path = MANAGE_PATH.fullmatch(request.path)
        assert path is not None  # admit saw to it
        channels = self._apns.channels.of(path[1])
        if path[2] == "all-channels":
            return Answer(200, (*_identity(request), *JSON_TYPE), orjson.dumps({"channels": list(channels)}))
        if request.method == "POST":
            return self._create(request, channels)
        channel_id = request.value("apns-channel-id")
        reason = channel_objection(channel_id, channels)
        if reason is not None or channel_id is None:
            return self._refuse(reason or "MissingChannelId", request)
        if request.method == "DELETE":
            del channels[channel_id]
            return Answer(204, _identity(request))
        said = {"message-storage-policy": channels[channel_id], "push-type": "LiveActivity"}
        return Answer(200, (*_identity(request), *JSON_TYPE), orjson.dumps(said))

    def word(self, spec: AnswerSpec, request: Request, now: float) -> Answer:
        if spec.status < 300:
            return self.consider(request, now)
        plain = self._refuse(spec.reason, request, spec.status)
        body = plain.body if spec.body is None else spec.body
        return Answer(spec.status, (*plain.headers, *spec.extra_headers()), body, spec.reason)

    def expire_credentials(self, now: float) -> None:
        self._apns.expire_credentials(now)

    def _create(self, request: Request, channels: Channels) -> Answer:
        try:
            wanted = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            return self._refuse("BadRequestPayload", request)
        if not isinstance(wanted, dict) or set(wanted) - {"message-storage-policy", "push-type"}:
            return self._refuse("BadRequestParams", request)
        if "push-type" not in wanted:
            return self._refuse("MissingPushType", request)
        if wanted["push-type"] != "LiveActivity":
            return self._refuse("InvalidPushType", request)
        policy = wanted.get("message-storage-policy")
        if isinstance(policy, bool) or policy not in (0, 1):
            return self._refuse("BadRequestParams", request)
        if len(channels) >= MAX_CHANNELS:
            return self._refuse("CannotCreateChannelConfig", request)
        channel_id = base64.b64encode(secrets.token_bytes(16)).decode()
        channels[channel_id] = policy
        return Answer(201, (*_identity(request), ("apns-channel-id", channel_id)))

    def _refuse(self, reason: str | None, request: Request, status: int | None = None) -> Answer:
        body = b"" if reason is None else orjson.dumps({"reason": reason})
        code = STATUS[reason] if status is None and reason is not None else status
        assert code is not None
        return Answer(code, (*_identity(request), *JSON_TYPE), body, reason)


def _identity(request: Request) -> Headers:
    return (("apns-request-id", request.value("apns-request-id") or str(uuid.uuid4())),)
