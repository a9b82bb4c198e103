"""Every row of APNs' answers, written down here a second time: from Apple's pages, not from the table that is tested."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from pushq.providers.answers import Effect, Scope, Verdict
from pushq.providers.apns.responses import RULES, judge

SENT = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
NOW = SENT + timedelta(seconds=2)


class Row(NamedTuple):
    """One answer and what it means.

    Attributes:
        effect: what becomes of the recipient.
        scope: whom it is about: the recipient (the batch goes on), the message (the send stops), the credential (everything waits for
            an operator, or for a new credential), the connection or the provider.
        guarded: a wrong set-up of ours causes it too.
        retires: the connection takes no further requests.
        wait_s: not again before.
    """

    status: int
    reason: str
    effect: Effect
    scope: Scope
    guarded: bool = False
    retires: bool = False
    wait_s: float = 0.0


DEAD, REJECTED, RETRY = Effect.TOKEN_DEAD, Effect.REJECTED, Effect.RETRY
REAUTH, CONFIG = Effect.REAUTHENTICATE, Effect.CONFIGURATION
ONE, MESSAGE, CREDENTIAL = Scope.RECIPIENT, Scope.MESSAGE, Scope.CREDENTIAL
CONNECTION, PROVIDER = Scope.CONNECTION, Scope.PROVIDER

#: "Handling notification responses from APNs", in the page's order.
NOTIFICATIONS = [
    Row(400, "BadCollapseId", REJECTED, MESSAGE),
    Row(400, "BadDeviceToken", DEAD, ONE, guarded=True),
    Row(400, "BadExpirationDate", REJECTED, MESSAGE),
    Row(400, "BadMessageId", REJECTED, MESSAGE),
    Row(400, "BadPriority", REJECTED, MESSAGE),
    Row(400, "BadTopic", CONFIG, CREDENTIAL),
    Row(400, "DeviceTokenNotForTopic", DEAD, ONE, guarded=True),
    Row(400, "DuplicateHeaders", REJECTED, MESSAGE),
    Row(400, "IdleTimeout", RETRY, CONNECTION, retires=True),
    Row(400, "InvalidPushType", REJECTED, MESSAGE),
    Row(400, "MissingDeviceToken", REJECTED, ONE),
    Row(400, "MissingTopic", CONFIG, CREDENTIAL),
    Row(400, "PayloadEmpty", REJECTED, MESSAGE),
    # The connection knows the topics of its first push: after the topic was added it takes a new one.
    Row(400, "TopicDisallowed", CONFIG, CREDENTIAL, retires=True),
    Row(403, "BadCertificate", CONFIG, CREDENTIAL, retires=True),
    Row(403, "BadCertificateEnvironment", CONFIG, CREDENTIAL, retires=True),
    Row(403, "ExpiredProviderToken", REAUTH, CREDENTIAL, retires=True),
    Row(403, "Forbidden", CONFIG, CREDENTIAL),
    Row(403, "InvalidProviderToken", CONFIG, CREDENTIAL, retires=True),
    Row(403, "MissingProviderToken", CONFIG, CREDENTIAL),
    Row(403, "UnrelatedKeyIdInToken", RETRY, CONNECTION, retires=True),
    # The page's spelling, and that of the wire.
    Row(403, "BadEnvironmentKeyIdInToken", CONFIG, CREDENTIAL, retires=True),
    Row(403, "BadEnvironmentKeyInToken", CONFIG, CREDENTIAL, retires=True),
    Row(404, "BadPath", REJECTED, MESSAGE),
    Row(405, "MethodNotAllowed", REJECTED, MESSAGE),
    Row(410, "ExpiredToken", DEAD, ONE),
    Row(410, "Unregistered", DEAD, ONE),
    Row(413, "PayloadTooLarge", REJECTED, MESSAGE),
    Row(429, "TooManyProviderTokenUpdates", RETRY, CONNECTION, retires=True, wait_s=5.0),
    Row(429, "TooManyRequests", RETRY, ONE, wait_s=30.0),
    Row(500, "InternalServerError", RETRY, PROVIDER, wait_s=1.0),
    Row(503, "ServiceUnavailable", RETRY, PROVIDER, wait_s=1.0),
    Row(503, "Shutdown", RETRY, CONNECTION, retires=True),
]
#: "Handling error responses from Apple Push Notification service": what channels add.
CHANNELS = [
    Row(400, "FeatureNotEnabled", CONFIG, CREDENTIAL),
    Row(400, "MissingChannelId", REJECTED, MESSAGE),
    Row(400, "BadChannelId", REJECTED, MESSAGE),
    Row(400, "ChannelNotRegistered", REJECTED, MESSAGE),
    Row(400, "BadRequestParams", REJECTED, MESSAGE),
    Row(400, "BadRequestPayload", REJECTED, MESSAGE),
    Row(400, "MissingPushType", REJECTED, MESSAGE),
    Row(400, "MissingChannelQueueSize", REJECTED, MESSAGE),  # seen on the wire only
    Row(400, "CannotCreateChannelConfig", CONFIG, CREDENTIAL),
    Row(403, "TopicMismatch", CONFIG, CREDENTIAL),
]
ROWS = NOTIFICATIONS + CHANNELS


def verdict(status: int, reason: str | None, headers: dict[str, str] | None = None) -> Verdict:
    body = b"" if reason is None else json.dumps({"reason": reason}).encode()
    return judge(status, headers or {}, body, sent_at=SENT, now=NOW)


def test_the_table_has_these_rows_and_no_others() -> None:
    assert sorted(RULES) == sorted((row.status, row.reason) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status}-{row.reason}")
def test_a_row(row: Row) -> None:
    found = verdict(row.status, row.reason)
    assert (found.effect, found.scope, found.guarded, found.retire, found.wait_s) == (
        row.effect,
        row.scope,
        row.guarded,
        row.retires,
        row.wait_s,
    )
    assert (found.status, found.reason, found.doubtful, found.flow_control) == (
        row.status,
        row.reason,
        False,
        False,
    )
    # Only a dead token has a time since when; without Apple's own it is that of the sending.
    assert found.invalid_since == (SENT if row.effect is DEAD else None)


@pytest.mark.parametrize(
    ("status", "reason", "effect", "scope", "wait_s", "called"),
    [
        (400, "SomethingNew", REJECTED, ONE, 0.0, "other_4xx"),
        (418, None, REJECTED, ONE, 0.0, "other_4xx"),
        (500, "SomethingNew", RETRY, PROVIDER, 1.0, "other_5xx"),
        (599, None, RETRY, PROVIDER, 1.0, "other_5xx"),
        (302, None, RETRY, PROVIDER, 1.0, "other_3xx"),
        (410, None, DEAD, ONE, 0.0, "status_410"),
        (413, None, REJECTED, MESSAGE, 0.0, "status_413"),
        (429, None, RETRY, ONE, 30.0, "status_429"),
        # A known word with another status is another answer.
        (400, "Unregistered", REJECTED, ONE, 0.0, "other_4xx"),
    ],
)
def test_what_is_not_listed_falls_to_its_class(
    status: int, reason: str | None, effect: Effect, scope: Scope, wait_s: float, called: str
) -> None:
    found = verdict(status, reason)
    assert (found.effect, found.scope, found.wait_s, found.reason) == (effect, scope, wait_s, called)
    assert not found.guarded
    assert not found.retire


@pytest.mark.parametrize("row", [row for row in ROWS if row.effect is RETRY], ids=lambda row: row.reason)
def test_retry_after_lengthens_a_wait_and_never_shortens_it(row: Row) -> None:
    assert verdict(row.status, row.reason, {"retry-after": "120"}).wait_s == 120.0
    assert verdict(row.status, row.reason, {"retry-after": "0"}).wait_s == row.wait_s


@pytest.mark.parametrize("row", [row for row in ROWS if row.effect is not RETRY], ids=lambda row: row.reason)
def test_retry_after_means_nothing_where_nothing_is_repeated(row: Row) -> None:
    assert verdict(row.status, row.reason, {"retry-after": "120"}).wait_s == 0.0
