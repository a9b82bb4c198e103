"""FCM's error bodies: the words for each error code, and the shapes seen in the field.

https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
https://firebase.google.com/docs/cloud-messaging/error-codes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
APNS_ERROR = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"

# HTTP status -> google.rpc.Code
RPC_STATUS: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}

# errorCode -> message. The texts of the 429 and the 503 are ours: no sample was found.
MESSAGES: Mapping[str, str] = {
    "INVALID_ARGUMENT": "Request contains an invalid argument.",
    "UNREGISTERED": "Requested entity was not found.",
    "SENDER_ID_MISMATCH": "SenderId mismatch",
    "THIRD_PARTY_AUTH_ERROR": "Auth error from APNS or Web Push Service",
    "QUOTA_EXCEEDED": "Sending quota exceeded.",
    "INTERNAL": "Internal error encountered.",
    "UNAVAILABLE": "The service is currently unavailable.",
}


def error_code(code: str) -> dict[str, object]:
    return {"@type": FCM_ERROR, "errorCode": code}


def apns_error(status: int, reason: str) -> dict[str, object]:
    return {"@type": APNS_ERROR, "statusCode": status, "reason": reason}


def violation(field: str, description: str) -> dict[str, object]:
    return {"@type": BAD_REQUEST, "fieldViolations": [{"field": field, "description": description}]}


def quota_failure(description: str) -> dict[str, object]:
    return {"@type": QUOTA_FAILURE, "violations": [{"subject": "", "description": description}]}


def _quota(description: str) -> tuple[int, str, bytes]:
    """The reference says that a QuotaFailure tells the three quotas apart; what stands in it is ours, after its headings."""
    details = error_code("QUOTA_EXCEEDED"), quota_failure(description)
    return 429, "QUOTA_EXCEEDED", error_body(429, MESSAGES["QUOTA_EXCEEDED"], *details)


def error_body(status: int, message: str, *details: Mapping[str, Any]) -> bytes:
    """The body of an error; without details the list is left out, as in the real answers."""
    error: dict[str, object] = {
        "code": status,
        "message": message,
        "status": RPC_STATUS.get(status, "UNKNOWN"),
    }
    if details:
        error["details"] = list(details)
    return orjson.dumps({"error": error}, option=orjson.OPT_INDENT_2)


_HTML_502 = (
    b"<!DOCTYPE html>\n<html lang=en>\n<title>Error 502 (Server Error)!!1</title>\n"
    b"<p><b>502.</b> <ins>The server encountered a temporary error.</ins>\n</html>\n"
)

_DATA_VALUE = "Invalid value at 'message.data[0].value' (TYPE_STRING), 12"

# Letter -> (HTTP status, reason it is counted under, body), for faults that want exactly this shape.
SHAPES: Mapping[str, tuple[int, str | None, bytes]] = {
    "a": (
        400,
        "INVALID_ARGUMENT",
        error_body(
            400,
            "The registration token is not a valid FCM registration token",
            error_code("INVALID_ARGUMENT"),
        ),
    ),
    "b": (
        400,
        "INVALID_ARGUMENT",
        error_body(
            400,
            MESSAGES["INVALID_ARGUMENT"],
            error_code("INVALID_ARGUMENT"),
            violation("message.token", "Invalid registration token"),
        ),
    ),
    "c": (400, None, error_body(400, _DATA_VALUE, violation("message.data[0].value", _DATA_VALUE))),
    "d": (
        400,
        "INVALID_ARGUMENT",
        error_body(
            400,
            "Recipient of the message is not set.",
            violation("message", "Recipient of the message is not set."),
            error_code("INVALID_ARGUMENT"),
        ),
    ),
    "e": (400, None, error_body(400, MESSAGES["INVALID_ARGUMENT"])),
    "f": (404, "UNREGISTERED", error_body(404, MESSAGES["UNREGISTERED"], error_code("UNREGISTERED"))),
    "g": (
        400,
        "INVALID_ARGUMENT",
        error_body(
            400,
            "APNs device token is disabled.",
            error_code("INVALID_ARGUMENT"),
            apns_error(410, "Unregistered"),
        ),
    ),
    "h": (
        403,
        "SENDER_ID_MISMATCH",
        error_body(403, MESSAGES["SENDER_ID_MISMATCH"], error_code("SENDER_ID_MISMATCH")),
    ),
    "i": (
        401,
        "THIRD_PARTY_AUTH_ERROR",
        error_body(
            401,
            MESSAGES["THIRD_PARTY_AUTH_ERROR"],
            error_code("THIRD_PARTY_AUTH_ERROR"),
            apns_error(403, "InvalidProviderToken"),
        ),
    ),
    "j": (500, "INTERNAL", error_body(500, MESSAGES["INTERNAL"], error_code("INTERNAL"))),
    "k": (502, None, _HTML_502),
    "l": _quota("Message rate exceeded"),
    "m": _quota("Device message rate exceeded"),
    "n": _quota("Topic message rate exceeded"),
}
