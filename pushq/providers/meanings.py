"""What the reasons of dead letters mean, for people. What is to be done about each is decided elsewhere, by each provider's table of rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: By the provider's word (APNs' reasons, FCM's error codes, HMS' result codes) or by ours.
MEANINGS: Final[Mapping[str, str]] = {
    # APNs: Handling notification responses from APNs
    "Unregistered": "the app is gone from the device",
    "ExpiredToken": "the token is out of date",
    "BadDeviceToken": "no token of this environment: wrong, or sandbox and production mixed up",
    "DeviceTokenNotForTopic": "the token belongs to another app",
    "TopicDisallowed": "pushes to this bundle id are not allowed",
    "BadTopic": "the bundle id is wrong",
    "MissingTopic": "the bundle id is missing",
    "PayloadTooLarge": "the message is too large",
    "PayloadEmpty": "the message is empty",
    "BadExpirationDate": "the time of expiry is wrong",
    "BadCollapseId": "the collapse id is too long",
    "InvalidPushType": "the push type does not go with the message",
    "InvalidProviderToken": "Apple does not take the key",
    "ExpiredProviderToken": "the provider token is too old",
    "TooManyRequests": "too many messages to one device within a short time",
    "TooManyProviderTokenUpdates": "new provider tokens were made too often",
    "InternalServerError": "an error at the provider",
    "ServiceUnavailable": "the provider was not available",
    "Shutdown": "the provider was restarting",
    # FCM: ErrorCode of the HTTP v1 API
    "UNREGISTERED": "the app is gone from the device, or the token is out of date",
    "SENDER_ID_MISMATCH": "the token belongs to another Firebase project",
    "INVALID_ARGUMENT": "the token or the message is malformed",
    "QUOTA_EXCEEDED": "too many messages: to the device, to the topic or of the project",
    "UNAVAILABLE": "the provider was overloaded",
    "INTERNAL": "an error at the provider",
    "THIRD_PARTY_AUTH_ERROR": "Firebase has no valid key for Apple or the web",
    # HMS: result codes of the downlink message API
    "80100000": "the token is not valid any more",
    "80300007": "the token is not valid any more",
    "80100001": "a parameter is wrong",
    "80100003": "the message's structure is wrong",
    "80100004": "the time of expiry is over",
    "80100016": "the text is held to be sensitive",
    "80200001": "Huawei does not take the credential",
    "80200003": "the access token is too old",
    "80300002": "the app may not send to this token",
    "80300008": "the message is too large",
    "80300011": "the app has no right to high priority",
    "81000001": "an error at the provider",
    # Ours
    "value_missing": "the message asks for a value that is not known of this device",
    "payload_too_large": "filled in for this device, the message is too large",
    "no_answer_worker_lost": "the worker was lost before the answer came",
    "no_answer_journal_lost": "the worker and its journal were lost before the answer came",
}


def meaning(reason: str) -> str:
    """In a few words; empty where there are none."""
    found = MEANINGS.get(reason, "")
    return found or (
        "the connection was lost before the answer came" if reason.startswith("no_answer_") else ""
    )
