"""Answers with words that no provider's table lists: they fall to their status class, are counted, and each word is logged once."""

from __future__ import annotations

import logging
from typing import Final

from pushq import metrics
from pushq.providers.answers import Verdict

log = logging.getLogger("pushq.providers")

#: How the reasons of such verdicts begin.
PREFIX: Final = "other_"
#: Words that are remembered; a provider that says something else each time must not fill memory, nor the log.
MAX_WORDS: Final = 200

_logged: set[tuple[str, int, str]] = set()


def note(app: str, platform: str, verdict: Verdict) -> None:
    """Take note of a verdict if its answer is not listed."""
    if not verdict.reason.startswith(PREFIX):
        return
    metrics.unlisted_answers.labels(app, platform, verdict.reason).inc()
    word = platform, verdict.status, verdict.detail
    if word in _logged or len(_logged) >= MAX_WORDS:
        return
    _logged.add(word)
    log.warning(
        "answer_not_listed",
        extra={
            "app": app,
            "platform": platform,
            "status": verdict.status,
            "detail": verdict.detail,
            "treated_as": f"{verdict.effect} ({verdict.reason})",
        },
    )
