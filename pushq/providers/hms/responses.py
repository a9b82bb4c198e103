"""What HMS Push Kit answers, row by row.

Sources: Huawei, "Push Kit REST API: downlink message, response codes" (v1, v2) and "scenario-based messages, response parameters"
(v3). One answer speaks about all tokens of a request, or names those that it does not take. The business code decides, whatever
the HTTP status: Huawei does not say which of them go together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from pushq.http2 import Answer, Code, Reason
from pushq.providers.answers import Effect, Rule, Scope, Verdict, retry_after
from pushq.redaction import MASK

_R, _D, _X, _C = Effect.RETRY, Effect.TOKEN_DEAD, Effect.REJECTED, Effect.CONFIGURATION
_MESSAGE = Rule(_X, Scope.MESSAGE)
_CONFIG = Rule(_C, Scope.CREDENTIAL)
_RENEW = Rule(Effect.REAUTHENTICATE, Scope.CREDENTIAL)
_FLOW_CONTROL = Rule(_R, Scope.PROVIDER, min_wait_s=2.0, flow_control=True)
_SERVER = Rule(_R, Scope.PROVIDER, min_wait_s=1.0)
#: Everything from a wrong project to a phone that was updated causes it.
_BAD_TOKEN = Rule(_D, guarded=True)

ACCEPTED: Final = "80000000"
PARTLY: Final = "80100000"
ALL_INVALID: Final = "80300007"

#: By business code. What is left out here says that the request was taken.
RULES: Final[Mapping[str, Rule]] = {
    PARTLY: _BAD_TOKEN,  # of the tokens that it names
    "80100001": _MESSAGE,
    "80100002": _MESSAGE,
    "80100003": _MESSAGE,
    "80100004": _MESSAGE,
    "80100013": _MESSAGE,
    "80100016": _MESSAGE,
    "80100017": Rule(_R, Scope.PROVIDER, min_wait_s=10.0),
    "80100018": _MESSAGE,
    "80100022": _MESSAGE,
    "80200001": _RENEW,  # the credentials make it CONFIGURATION when a new token fares no better
    "80200003": _RENEW,
    "80200005": _RENEW,
    "80300002": _CONFIG,
    ALL_INVALID: _BAD_TOKEN,
    "80300008": _MESSAGE,
    "80300010": _MESSAGE,
    "80300011": _MESSAGE,
    "80300013": _CONFIG,
    "80300029": Rule(_R, Scope.PROVIDER, min_wait_s=60.0),
    "80300030": _MESSAGE,
    "80300036": _CONFIG,
    "80300037": _CONFIG,
    "80600003": Rule(_R, Scope.CREDENTIAL, min_wait_s=1.0),  # a second time, the client takes a new token
    "81000001": _SERVER,
}

#: Words with which v3 says why it does not take a token. The others of its words are about the set-up, whoever the token belongs to.
TOKEN_CAUSES: Final = frozenset({"tokenFormatError", "tokenPlatformNotSupport", "noRight"})
SETUP_CAUSES: Final = (
    "noPushTypeRight",
    "atomicUnableSendUnsubscribedMsg",
    "countryNotSupport",
    "disableSendHuaweiMsgBecauseOfPenalty",
    "differentImgVerifyPolicy",
    "appinfoError",
    "notSupportPlayVoice",
    "noRightToSendThisLiveNotificationEvent",
)

#: For a code that the table does not list, by its first three digits; then for an answer without a code, by status and class.
_BY_AREA: Final[Mapping[str, Rule]] = {
    "801": Rule(_X),
    "802": _RENEW,
    "803": Rule(_X),
    "806": _SERVER,
    "810": _SERVER,
}
BY_STATUS: Final[Mapping[int, Rule]] = {
    401: _RENEW,
    403: _CONFIG,
    404: _CONFIG,
    413: _MESSAGE,
    429: _FLOW_CONTROL,
    503: _FLOW_CONTROL,
}
FALLBACK: Final[Mapping[int, Rule]] = {4: _MESSAGE, 5: _SERVER}

#: A gateway that lost its server, and a server that broke down: nobody knows how far the message had come.
_UNKNOWN_STATUS: Final = frozenset({500, 502, 504})


@dataclass(frozen=True)
class Division:
    """What one answer says about the tokens of its request.

    Attributes:
        code: OK, ANSWERED or UNKNOWN, for every token that is not in ``answers``.
        answers: by index of the token, for :func:`judge`.
        reason: where the code is UNKNOWN.
    """

    code: Code
    answers: Mapping[int, Answer] = field(default_factory=dict)
    reason: str = ""


def divide(status: int, headers: Mapping[str, str], body: bytes, tokens: Sequence[bytes]) -> Division:
    """Say for each token whether it was taken. Never raises, whatever the body.

    A whole-request refusal is one Answer object for all of its tokens.
    """
    code, message = _parse(body)
    if code == ACCEPTED:
        return Division(Code.OK)
    if code == PARTLY:
        return _partial(status, message, tokens)
    doubtful = status in _UNKNOWN_STATUS or status // 100 not in (4, 5)
    if code in RULES or code[:3] in _BY_AREA or not doubtful:
        # The answer's own words, shortened: its length is Huawei's affair, and everybody keeps a copy of it.
        document = {"code": code, "msg": _shortened(message)} if code else None
        answer = Answer(status, headers, b"" if document is None else orjson.dumps(document))
        return Division(Code.ANSWERED, dict.fromkeys(range(len(tokens)), answer))
    return Division(
        Code.UNKNOWN, reason=f"status_{status}" if status in _UNKNOWN_STATUS else Reason.MALFORMED_ANSWER
    )


def _partial(status: int, message: str, tokens: Sequence[bytes]) -> Division:
    """Huawei's ``msg`` is a JSON document in a string: ``{"success":3,"failure":1,"illegal_tokens":["..."]}``."""
    try:
        document = orjson.loads(message)
        failures, listed = document["failure"], set(map(str.encode, document["illegal_tokens"]))
        # What can be read is not always written: orjson reads 1,024 levels and writes 254.
        rest = orjson.dumps({name: value for name, value in document.items() if name != "illegal_tokens"})
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        return Division(Code.UNKNOWN, reason=Reason.MALFORMED_ANSWER)
    answer = Answer(status, {}, orjson.dumps({"code": PARTLY, "msg": _shortened(rest.decode())}))
    illegal = {index: answer for index, token in enumerate(tokens) if token in listed}
    # As many as it says, or nobody knows who the others are.
    complete = type(failures) is int and len(illegal) == failures
    return (
        Division(Code.OK, illegal) if complete else Division(Code.UNKNOWN, illegal, Reason.MALFORMED_ANSWER)
    )


#: Every reason that :func:`judge` can give.
REASONS: Final = frozenset(
    {
        *RULES,
        *(f"{code}_{cause}" for code in (PARTLY, ALL_INVALID) for cause in (*SETUP_CAUSES, *TOKEN_CAUSES)),
        *(f"other_{area}" for area in _BY_AREA),
        *(f"status_{status}" for status in BY_STATUS),
        *(f"other_{n}xx" for n in range(1, 10)),
    }
)


def judge(answer: Answer, *, sent_at: datetime, now: datetime) -> Verdict:
    """What an answer means for one token that was not taken. Never raises, whatever the body."""
    status = answer.status
    code, message = _parse(answer.body)
    cause = _cause(message) if code in (PARTLY, ALL_INVALID) else ""
    if cause and cause not in TOKEN_CAUSES:
        # Of single tokens it keeps them, and the others went out; of all of them it is the set-up.
        rule = Rule(_C, Scope.RECIPIENT) if code == PARTLY else _CONFIG
        reason = f"{code}_{cause}"
    elif code in RULES:
        rule, reason = RULES[code], f"{code}_{cause}" if cause else code
    elif code:
        rule = _BY_AREA.get(code[:3], FALLBACK.get(status // 100, _SERVER))
        reason = f"other_{code[:3]}" if code[:3] in _BY_AREA else f"other_{status // 100}xx"
    elif status in BY_STATUS:
        rule, reason = BY_STATUS[status], f"status_{status}"
    else:
        rule, reason = FALLBACK.get(status // 100, _SERVER), f"other_{status // 100}xx"
    asked = retry_after(answer.headers, now) if rule.effect is Effect.RETRY else None
    return Verdict(
        effect=rule.effect,
        scope=rule.scope,
        reason=reason,
        status=status,
        wait_s=max(rule.min_wait_s, asked or 0.0),
        guarded=rule.guarded,
        flow_control=rule.flow_control,
        invalid_since=sent_at if rule.effect is Effect.TOKEN_DEAD else None,
        detail=message[:200],
    )


def _parse(body: bytes) -> tuple[str, str]:
    """Business code and message; two empty texts where there is none (an HTML page from a gateway, an empty body)."""
    try:
        document: Any = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(document, dict):
        return "", ""
    code, message = document.get("code"), document.get("msg")
    return code if isinstance(code, str) else "", message if isinstance(message, str) else ""


#: What may be a device token among Huawei's words, which are shorter or have no digits.
_TOKEN: Final = re.compile(r"[\w:-]{64,}|(?=[\w:-]*\d)[\w:-]{20,}")


def _shortened(message: str) -> str:
    """Its beginning without tokens, and in any case its cause: thousands of tokens may stand before it.

    People read it, in the ledger and in logs; a token that is cut short has no shape that a log could know it by.
    """
    cause, text = _cause(message), message[:400]
    if token := _TOKEN.search(message, 0, 464):
        text = f"{text[: token.start()]}{MASK}"
    return f"{cause}: {text}" if cause not in text else text


def _cause(message: str) -> str:
    """The word of v3 for what is wrong with tokens; longer words first, for one is the beginning of another."""
    return next((word for word in (*SETUP_CAUSES, *sorted(TOKEN_CAUSES)) if word in message), "")
