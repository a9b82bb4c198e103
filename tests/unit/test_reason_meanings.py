"""Who looks at a dead letter is told what its reason means."""

from __future__ import annotations

from pushq.providers.answers import Effect
from pushq.providers.apns import responses as apns
from pushq.providers.fcm import responses as fcm
from pushq.providers.hms import responses as hms
from pushq.providers.meanings import MEANINGS, meaning
from pushq.rendering.contents import PAYLOAD_TOO_LARGE, VALUE_MISSING


def test_what_ends_a_token_has_a_meaning() -> None:
    rules = {
        reason: rule for (_, reason), rule in (*apns.RULES.items(), *fcm.RULES.items()) if reason
    } | dict(hms.RULES)
    dead = {reason for reason, rule in rules.items() if rule.effect is Effect.TOKEN_DEAD}
    assert {"Unregistered", "UNREGISTERED", hms.ALL_INVALID} <= dead
    assert dead <= MEANINGS.keys()


def test_so_have_our_own_reasons_and_what_is_not_listed_has_none() -> None:
    assert all(map(meaning, (VALUE_MISSING, PAYLOAD_TOO_LARGE, "no_answer_closed")))
    assert meaning("BrandNew") == ""
