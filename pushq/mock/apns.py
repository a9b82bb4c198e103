"""What APNs accepts and what it says, as pure rules.

https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns

The order of the checks is the one observed in the field: provider token, topic, device token, then the other headers and the
body. Where Apple's pages are silent the choice is noted beside it.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

import orjson

from pushq.mock.channel_registry import ChannelRegistry, Channels, channel_objection
from pushq.mock.exchange import Answer, AnswerSpec, Headers, Request, Session, StreamRule
from pushq.mock.provider_token import (
    CLOCK_SKEW_S,
    MAX_AGE_S,
    UPDATE_INTERVAL_S,
    ProviderToken,
    ProviderTokenVerifier,
)

DEVICE_PATH = "/3/device/"
BROADCAST_PATH = re.compile(r"/4/broadcasts/apps/([^/]+)")
MIN_TOKEN_DIGITS = 64
HEX_DIGITS = b"0123456789abcdefABCDEF"

# Tokens that speak for themselves, long enough that a random token never starts with one.
PRODUCTION_PREFIX = b"90d090d090d0"
SANDBOX_PREFIX = b"5a5a5a5a5a5a"

# Push type -> suffix of the topic. MDM's topic is a UID and cannot be derived from the bundle.
TOPIC_SUFFIX = {
    "alert": "",
    "background": "",
    "location": ".location-query",
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "mdm": "",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
    "widgets": ".push-type.widgets",
    "controls": ".push-type.controls",
}
# A TLS client certificate cannot send these.
TOKEN_ONLY = frozenset({"location"})
PRIORITIES = frozenset({"1", "5", "10"})
MAX_BODY = {"voip": 5120}
DEFAULT_MAX_BODY = 4096
MAX_BROADCAST_BODY = 5120
MAX_COLLAPSE_ID_BYTES = 64
CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
TOPIC = re.compile(r"[A-Za-z0-9._-]+")
SINGLE_HEADERS = frozenset(
    {
        "authorization",
        "apns-topic",
        "apns-id",
        "apns-expiration",
        "apns-priority",
        "apns-push-type",
        "apns-collapse-id",
        "apns-channel-id",
        "apns-request-id",
    }
)

STATUS = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "ExpiredProviderToken": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    # Broadcast channels
    "MissingChannelId": 400,
    "BadChannelId": 400,
    "ChannelNotRegistered": 400,
    "BadRequestParams": 400,
    "BadRequestPayload": 400,
    "MissingPushType": 400,
    "CannotCreateChannelConfig": 400,
    "TopicMismatch": 403,
}


@dataclass(slots=True)
class ApnsSession(Session):
    """``spoiled`` is the reason that every further request on this connection gets."""

    token: ProviderToken | None = None
    token_since: float = 0.0
    spoiled: str | None = None


def stream_rule(granted: int) -> StreamRule:
    return StreamRule(
        initial=1,
        granted=granted,
        violation_code=7,
        violation_debug=b"Maximum active streams violated for this endpoint",
    )


def well_formed(token: bytes) -> bool:
    """Device tokens are hex of no fixed length; Live Activity tokens have 160 digits."""
    return len(token) >= MIN_TOKEN_DIGITS and not len(token) % 2 and not token.translate(None, HEX_DIGITS)


class ApnsRules:
    """One environment of APNs.

    Args:
        environment: ``production`` or ``sandbox``.
        verifier: knows the key that clients must sign with.
        bundle_ids: apps of the team.
        dead_prefix: tokens that start with it are answered 410 Unregistered with the present time.
        streams: MAX_CONCURRENT_STREAMS after the first accepted credential.

    Attributes:
        channels: the broadcast channels of the environment.
    """

    platform = "apns"

    def __init__(
        self,
        environment: str,
        verifier: ProviderTokenVerifier,
        bundle_ids: tuple[str, ...],
        dead_prefix: bytes,
        streams: int,
    ) -> None:
        self.sandbox = environment == "sandbox"
        self.streams = stream_rule(streams)
        self.dead_prefix = dead_prefix
        self.foreign_prefix = PRODUCTION_PREFIX if self.sandbox else SANDBOX_PREFIX
        self.channels = ChannelRegistry()
        self._verifier = verifier
        self._bundle_ids = bundle_ids
        self._expired_until = float("-inf")

    def open_session(self) -> ApnsSession:
        return ApnsSession()

    def admit(self, request: Request, session: ApnsSession, now: float) -> Answer | None:
        reason = self._objection(request, session, now)
        if reason is not None:
            return self._refuse(reason, request)
        session.credential_accepted = True
        return None

    def target(self, request: Request) -> bytes:
        if not request.path.startswith(DEVICE_PATH):
            return f"channel:{request.value('apns-channel-id') or ''}".encode("latin-1", "replace")
        return request.path.removeprefix(DEVICE_PATH).encode("latin-1", "replace")

    def consider(self, request: Request, now: float) -> Answer:
        broadcast = BROADCAST_PATH.fullmatch(request.path)
        if broadcast is not None:
            reason = _broadcast_objection(request, self.channels.of(broadcast[1]))
            return (
                Answer(200, self._identity(request), rings=True)
                if reason is None
                else self._refuse(reason, request)
            )
        token = self.target(request)
        if not token:
            return self._refuse("MissingDeviceToken", request)
        if not well_formed(token) or token.startswith(self.foreign_prefix):
            return self._refuse("BadDeviceToken", request)
        if token.startswith(self.dead_prefix):
            return self._refuse("Unregistered", request, timestamp_ms=int(now * 1000))
        reason = _header_objection(request) or _body_objection(request)
        if reason is not None:
            return self._refuse(reason, request)
        return Answer(200, self._identity(request), rings=True)

    def word(self, spec: AnswerSpec, request: Request, now: float) -> Answer:
        timestamp = int((now + spec.timestamp_offset_s) * 1000) if spec.status == 410 else None
        plain = self._refuse(spec.reason, request, timestamp_ms=timestamp, status=spec.status)
        if spec.status == 200:
            plain = Answer(200, self._identity(request), rings=True)
        body = plain.body if spec.body is None else spec.body
        return Answer(spec.status, (*plain.headers, *spec.extra_headers()), body, spec.reason, plain.rings)

    def expire_credentials(self, now: float) -> None:
        self._expired_until = now

    def _objection(self, request: Request, session: ApnsSession, now: float) -> str | None:
        if request.method != "POST":
            return "MethodNotAllowed"
        broadcast = BROADCAST_PATH.fullmatch(request.path)
        if broadcast is None and not request.path.startswith(DEVICE_PATH):
            return "BadPath"
        names = [name for name, _ in request.headers if name in SINGLE_HEADERS]
        if len(names) != len(set(names)):
            return "DuplicateHeaders"
        refused = self.credential_objection(request, session, now)
        if refused is not None:
            return refused
        if broadcast is not None:
            return self.bundle_objection(broadcast[1], session)
        return self._topic_objection(request, session)

    def credential_objection(self, request: Request, session: ApnsSession, now: float) -> str | None:
        """What is wrong with the provider token; nothing where the client has shown a certificate, which stands for it."""
        if session.certificate is not None:
            session.good_until = session.certificate.expires_at
            return None
        if session.spoiled is not None:
            # Once a token expired, or was replaced too soon, the connection stays unusable (pushy; Apple staff).
            return session.spoiled
        authorization = request.value("authorization")
        if authorization is None:
            return "MissingProviderToken"
        scheme, _, text = authorization.partition(" ")
        token = self._verifier.verify(text) if scheme == "bearer" else None
        if token is None or token.issued_at > now + CLOCK_SKEW_S:
            return "InvalidProviderToken"
        if now - token.issued_at > MAX_AGE_S or token.issued_at <= self._expired_until:
            session.spoiled = "ExpiredProviderToken"
        elif session.token is not None and session.token.text != token.text:
            if now - session.token_since < UPDATE_INTERVAL_S:
                session.spoiled = "TooManyProviderTokenUpdates"
            session.generation += 1
        if session.spoiled is not None:
            session.generation += 1
            return session.spoiled
        if session.token is None or session.token.text != token.text:
            session.token, session.token_since = token, now
            session.good_until = token.issued_at + MAX_AGE_S
        return None

    def bundle_objection(self, bundle: str, session: ApnsSession) -> str | None:
        """What is wrong with the bundle id in the path of a channel's request."""
        ours = self._bundles(session)
        if bundle in ours:
            return None
        return "TopicDisallowed" if any(bundle.startswith(f"{each}.") for each in ours) else "TopicMismatch"

    def _bundles(self, session: ApnsSession) -> tuple[str, ...]:
        """Apps that the credential speaks for: a certificate for one, a key for all of the team."""
        return self._bundle_ids if session.certificate is None else (session.certificate.user_id,)

    def _topic_objection(self, request: Request, session: ApnsSession) -> str | None:
        certificate = session.certificate
        topic = request.value("apns-topic")
        if topic is None:
            if certificate is None:
                return "MissingTopic"
            topic = certificate.user_id
        if not TOPIC.fullmatch(topic):
            return "BadTopic"
        # Without a push type APNs cannot tell which suffix belongs: any of the team's is accepted.
        push_type = request.value("apns-push-type")
        if certificate is not None and push_type in TOKEN_ONLY:
            return "TopicDisallowed"
        suffixes = TOPIC_SUFFIX.values() if push_type not in TOPIC_SUFFIX else (TOPIC_SUFFIX[push_type],)
        bundles = self._bundles(session)
        if any(topic == bundle + suffix for bundle in bundles for suffix in suffixes):
            return None
        ours = any(topic == bundle or topic.startswith(f"{bundle}.") for bundle in bundles)
        return "DeviceTokenNotForTopic" if ours else "TopicDisallowed"

    def _identity(self, request: Request) -> Headers:
        if BROADCAST_PATH.fullmatch(request.path):
            asked = request.value("apns-request-id") or str(uuid.uuid4())
            return (("apns-request-id", asked), ("apns-unique-id", str(uuid.uuid4())))
        given = request.value("apns-id")
        known = given is not None and CANONICAL_UUID.fullmatch(given) is not None
        apns_id = given if known and given is not None else str(uuid.uuid4())
        unique: Headers = (("apns-unique-id", str(uuid.uuid4())),) if self.sandbox else ()
        return (("apns-id", apns_id), *unique)

    def _refuse(
        self, reason: str | None, request: Request, timestamp_ms: int | None = None, status: int | None = None
    ) -> Answer:
        said: dict[str, object] = {} if reason is None else {"reason": reason}
        if timestamp_ms is not None:
            said["timestamp"] = timestamp_ms
        body = orjson.dumps(said) if said else b""
        kind: Headers = (("content-type", "application/json"),) if said else ()
        code = STATUS[reason] if status is None and reason is not None else status
        assert code is not None
        return Answer(code, (*self._identity(request), *kind), body, reason)


def _header_objection(request: Request) -> str | None:
    apns_id = request.value("apns-id")
    if apns_id is not None and not CANONICAL_UUID.fullmatch(apns_id):
        return "BadMessageId"
    push_type = request.value("apns-push-type")
    if push_type is not None and push_type not in TOPIC_SUFFIX:
        return "InvalidPushType"
    priority = request.value("apns-priority")
    if priority is not None and priority not in PRIORITIES:
        return "BadPriority"
    if push_type == "background" and (priority or "10") == "10":
        return "BadPriority"
    expiration = request.value("apns-expiration")
    if expiration is not None and not (expiration.isascii() and expiration.isdigit()):
        return "BadExpirationDate"
    collapse_id = request.value("apns-collapse-id")
    if collapse_id is not None and len(collapse_id.encode("latin-1")) > MAX_COLLAPSE_ID_BYTES:
        return "BadCollapseId"
    return None


def _broadcast_objection(request: Request, channels: Channels) -> str | None:
    """APNs validates the channel after the credential, then the rest."""
    channel_id = request.value("apns-channel-id")
    objection = channel_objection(channel_id, channels)
    if objection is not None or channel_id is None:
        return objection
    push_type = request.value("apns-push-type")
    if push_type is None:
        return "MissingPushType"
    if push_type.lower() != "liveactivity":
        return "InvalidPushType"
    # Both headers are required here.
    if request.value("apns-priority") not in PRIORITIES:
        return "BadPriority"
    expiration = request.value("apns-expiration") or ""
    if not (expiration.isascii() and expiration.isdigit()):
        return "BadExpirationDate"
    if channels[channel_id] == 0 and expiration != "0":
        return "BadExpirationDate"
    if request.size > MAX_BROADCAST_BODY:
        return "PayloadTooLarge"
    return _payload_objection(request)


def _body_objection(request: Request) -> str | None:
    if request.size > MAX_BODY.get(request.value("apns-push-type") or "alert", DEFAULT_MAX_BODY):
        return "PayloadTooLarge"
    return _payload_objection(request)


def _payload_objection(request: Request) -> str | None:
    # Apple lists no reason for a body that is not a JSON object; the nearest one is used.
    try:
        payload = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return "PayloadEmpty"
    return None if isinstance(payload, dict) and payload else "PayloadEmpty"
