"""HMS behind its port: a request concerns many devices, so faults, waits and counts are looked at for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pushq.mock.endpoint import Endpoint, called
from pushq.mock.exchange import Answer, Request, Session, Verdict
from pushq.mock.faults import Strike
from pushq.mock.hms import MAX_BODY_BYTES, PARTIAL, Addressed, HmsRules
from pushq.mock.tally import Tally

_SEPARATOR = b"\n"


class HmsTally(Tally):
    """Counts by device; ``requests`` and ``answers`` count requests. What is taken back is all devices of a request."""

    def retract(self, token: bytes, *, answered: bool = True) -> None:
        for each in token.split(_SEPARATOR):
            super().retract(each, answered=False)
        if answered:
            self.answers["200"] -= 1


@dataclass(slots=True)
class HmsEndpoint(Endpoint):
    """See :class:`Endpoint`. A fault that says ``80100000`` strikes single devices, every other one the whole request."""

    max_body: int = MAX_BODY_BYTES

    def decide(self, request: Request, session: Session, now: float) -> Verdict:
        rules = self.rules
        assert isinstance(rules, HmsRules)
        self.tally.requests += 1
        session.requests += 1
        if self.recent is not None:
            self.recent.append(request)
        refused = rules.admit(request, session, now)
        if refused is not None:
            return self._answered(refused, b"")
        found = rules.read(request)
        if found.objection is not None:
            return self._answered(found.objection, b"")
        tokens = found.tokens
        whole, struck = self._strikes(tokens, session, now)
        illegal = [token for token in tokens if token in struck or not rules.takes(token)]
        if whole is None:
            return self._said(rules.respond(tokens, illegal), found, illegal)
        if not whole.answered:
            rang = self._ring(found, illegal) if whole.processed else None
            self.tally.unanswered[called(whole)] += 1
            return Verdict(None, whole.delay_s, whole.effect, rang)
        if whole.answer is None:
            return self._said(rules.respond(tokens, illegal), found, illegal, whole)
        told = rules.word(whole.answer, request, now)
        until = whole.answer.wait_until(now + whole.delay_s + self.latency.draw(0.0))
        if until is not None:
            for token in tokens:
                self.tally.told_to_wait(token, until)
        return self._said(told, found, illegal, whole)

    def _strikes(
        self, tokens: Sequence[bytes], session: Session, now: float
    ) -> tuple[Strike | None, set[bytes]]:
        """The first fault that strikes the whole request, and the devices that faults make illegal."""
        whole: Strike | None = None
        struck: set[bytes] = set()
        for token in tokens:
            self.tally.check_wait(token, now)
        if not self.faults.prefixes(self.rules.platform):
            return None, struck
        for token in tokens:
            strike = self.faults.strike(self.rules.platform, token, session.requests, now)
            if strike is None:
                continue
            if strike.answer is not None and strike.answer.reason == PARTIAL:
                struck.add(token)
            elif whole is None:
                whole = strike
        return whole, struck

    def _said(
        self, answer: Answer, found: Addressed, illegal: Sequence[bytes], strike: Strike | None = None
    ) -> Verdict:
        rang = self._ring(found, illegal) if answer.rings else None
        silent = Answer(answer.status, answer.headers, answer.body, answer.reason)
        verdict = self._answered(silent, b"")
        if strike is None:
            return Verdict(verdict.answer, rang=rang)
        return Verdict(verdict.answer, strike.delay_s, strike.effect, rang)

    def _ring(self, found: Addressed, illegal: Sequence[bytes]) -> bytes | None:
        """Count the devices that are reached; returns them for :meth:`HmsTally.retract`."""
        if found.only_checked:
            return None
        left_out = frozenset(illegal)
        reached = [token for token in found.tokens if token not in left_out]
        for token in reached:
            self.tally.ring(token)
        return _SEPARATOR.join(reached) if reached else None
