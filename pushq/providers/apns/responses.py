"""What APNs answers, row by row.

Sources: Apple, "Handling notification responses from APNs", and for broadcast channels "Handling error responses from Apple Push
Notification service"; the reason strings marked "wire" are seen in the field but not on those pages. Never listed as a dead token: anything a wrong topic, key or environment of ours can cause, except where ``guarded``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import orjson

from pushq.providers.answers import Effect, Rule, Scope, Verdict, retry_after

_R, _D, _X, _C = Effect.RETRY, Effect.TOKEN_DEAD, Effect.REJECTED, Effect.CONFIGURATION
_MESSAGE = Rule(_X, Scope.MESSAGE)
_CONFIG = Rule(_C, Scope.CREDENTIAL)
_CONFIG_CLOSE = Rule(_C, Scope.CREDENTIAL, retire=True)

RULES: Final[Mapping[tuple[int, str], Rule]] = {
    (400, "BadCollapseId"): _MESSAGE,
    (400, "BadDeviceToken"): Rule(_D, guarded=True),
    (400, "BadExpirationDate"): _MESSAGE,
    (400, "BadMessageId"): _MESSAGE,
    (400, "BadPriority"): _MESSAGE,
    (400, "BadTopic"): _CONFIG,
    (400, "DeviceTokenNotForTopic"): Rule(_D, guarded=True),
    (400, "DuplicateHeaders"): _MESSAGE,
    (400, "IdleTimeout"): Rule(_R, Scope.CONNECTION, retire=True),
    (400, "InvalidPushType"): _MESSAGE,
    (400, "MissingDeviceToken"): Rule(_X),
    (400, "MissingTopic"): _CONFIG,
    (400, "PayloadEmpty"): _MESSAGE,
    # A connection knows the team's topics from its first push: one that was added since needs a new connection.
    (400, "TopicDisallowed"): _CONFIG_CLOSE,
    (403, "BadCertificate"): _CONFIG_CLOSE,
    (403, "BadCertificateEnvironment"): _CONFIG_CLOSE,
    (403, "ExpiredProviderToken"): Rule(Effect.REAUTHENTICATE, Scope.CREDENTIAL, retire=True),
    (403, "Forbidden"): _CONFIG,
    (403, "InvalidProviderToken"): _CONFIG_CLOSE,
    (403, "MissingProviderToken"): _CONFIG,
    (403, "UnrelatedKeyIdInToken"): Rule(_R, Scope.CONNECTION, retire=True),
    (403, "BadEnvironmentKeyIdInToken"): _CONFIG_CLOSE,
    (403, "BadEnvironmentKeyInToken"): _CONFIG_CLOSE,  # wire
    (404, "BadPath"): _MESSAGE,
    (405, "MethodNotAllowed"): _MESSAGE,
    (410, "ExpiredToken"): Rule(_D),
    (410, "Unregistered"): Rule(_D),
    (413, "PayloadTooLarge"): _MESSAGE,
    (429, "TooManyProviderTokenUpdates"): Rule(_R, Scope.CONNECTION, min_wait_s=5.0, retire=True),
    (429, "TooManyRequests"): Rule(_R, min_wait_s=30.0),
    (500, "InternalServerError"): Rule(_R, Scope.PROVIDER, min_wait_s=1.0),
    (503, "ServiceUnavailable"): Rule(_R, Scope.PROVIDER, min_wait_s=1.0),
    (503, "Shutdown"): Rule(_R, Scope.CONNECTION, retire=True),
    # Broadcast channels and their management.
    (400, "FeatureNotEnabled"): _CONFIG,
    (400, "MissingChannelId"): _MESSAGE,
    (400, "BadChannelId"): _MESSAGE,
    (400, "ChannelNotRegistered"): _MESSAGE,
    (400, "BadRequestParams"): _MESSAGE,
    (400, "BadRequestPayload"): _MESSAGE,
    (400, "MissingPushType"): _MESSAGE,
    (400, "CannotCreateChannelConfig"): _CONFIG,
    (400, "MissingChannelQueueSize"): _MESSAGE,  # wire
    (403, "TopicMismatch"): _CONFIG,
}

#: For a reason that the table does not list, by hundreds of the status.
FALLBACK: Final[Mapping[int, Rule]] = {4: Rule(_X), 5: Rule(_R, Scope.PROVIDER, min_wait_s=1.0)}
_STRANGE: Final = Rule(_R, Scope.PROVIDER, min_wait_s=1.0)
#: Reasonless answers that still speak clearly.
_BARE: Final[Mapping[int, Rule]] = {410: Rule(_D), 429: Rule(_R, min_wait_s=30.0), 413: _MESSAGE}

#: Every reason that :func:`judge` can give.
REASONS: Final = frozenset(
    {word for _, word in RULES}
    | {f"status_{status}" for status in _BARE}
    | {f"other_{n}xx" for n in range(1, 10)}
)

#: Apple's clock and ours may differ; a registration this close to the timestamp is taken for the later of the two.
CLOCK_SKEW: Final = timedelta(seconds=5)


def judge(
    status: int, headers: Mapping[str, str], body: bytes, *, sent_at: datetime, now: datetime
) -> Verdict:
    """What an answer other than 200 means. Never raises, whatever the body.

    Args:
        sent_at: when the batch was sent: a token registered later than that is not condemned by this answer.
        now: for a Retry-After that is a date.
    """
    document: object = None
    # A body that is no JSON has no reason: the status alone decides.
    with suppress(orjson.JSONDecodeError):
        document = orjson.loads(body) if body else None
    fields = document if isinstance(document, dict) else {}
    word = fields.get("reason")
    known = RULES.get((status, word)) if isinstance(word, str) else None
    if known is not None and isinstance(word, str):
        rule, reason = known, word
    else:
        rule = _BARE.get(status) or FALLBACK.get(status // 100, _STRANGE)
        reason = f"status_{status}" if status in _BARE else f"other_{status // 100}xx"
    invalid_since = None
    if rule.effect is Effect.TOKEN_DEAD:
        invalid_since = _timestamp(fields.get("timestamp")) if status == 410 else None
        invalid_since = sent_at if invalid_since is None else invalid_since - CLOCK_SKEW
    asked = retry_after(headers, now) if rule.effect is Effect.RETRY else None
    return Verdict(
        effect=rule.effect,
        scope=rule.scope,
        reason=reason,
        status=status,
        wait_s=max(rule.min_wait_s, asked or 0.0),
        guarded=rule.guarded,
        retire=rule.retire,
        flow_control=rule.flow_control,
        doubtful=rule.doubtful,
        invalid_since=invalid_since,
        detail=str(word)[:100] if word is not None else "",
    )


def _timestamp(value: object) -> datetime | None:
    """Milliseconds since 1970 as a time; None for anything that is no plausible time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 4e12:
        return None
    return datetime.fromtimestamp(value / 1000, UTC)
