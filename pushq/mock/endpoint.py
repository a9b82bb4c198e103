"""One provider behind one port: its rules, its faults, its counts. Every engine asks ``decide``."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pushq.mock.exchange import MAX_BODY_BYTES, Answer, Cut, Effect, Request, Reset, Rules, Session, Verdict
from pushq.mock.faults import FaultTable, Strike
from pushq.mock.tally import Tally


@dataclass(frozen=True, slots=True)
class Latency:
    """Time from a complete request to its answer, uniform in ``seconds`` plus or minus ``spread`` (not below zero)."""

    seconds: float = 0.0
    spread: float = 0.0

    def draw(self, chance: float) -> float:
        """``chance``: uniform in [0, 1)."""
        return max(0.0, self.seconds + self.spread * (2 * chance - 1))


@dataclass(slots=True)
class Endpoint:
    """``recent`` holds the last requests for tests, or is None where nobody asks for them. ``max_body``: bytes of a body that are looked at."""

    rules: Rules
    tally: Tally
    faults: FaultTable
    latency: Latency = field(default_factory=Latency)
    recent: deque[Request] | None = None
    # Raised when good requests may have become bad for a reason outside a connection (credentials expired).
    generation: int = 0
    max_body: int = MAX_BODY_BYTES

    def decide(self, request: Request, session: Session, now: float) -> Verdict:
        """What becomes of a complete request. Counts it; a 200 that rings is counted here. ``now``: UNIX seconds."""
        rules, tally = self.rules, self.tally
        tally.requests += 1
        session.requests += 1
        if self.recent is not None:
            self.recent.append(request)
        refused = rules.admit(request, session, now)
        if refused is not None:
            return self._answered(refused, b"")
        token = rules.target(request)
        tally.check_wait(token, now)
        strike = self.faults.strike(rules.platform, token, session.requests, now)
        if strike is None:
            return self._answered(rules.consider(request, now), token)
        return self._struck(strike, request, token, now)

    def expire_credentials(self, now: float) -> None:
        self.rules.expire_credentials(now)
        self.generation += 1

    def _struck(self, strike: Strike, request: Request, token: bytes, now: float) -> Verdict:
        if strike.answered:
            if strike.answer is not None:
                answer = self.rules.word(strike.answer, request, now)
                # The client knows of it when it has the answer, at the earliest.
                until = strike.answer.wait_until(now + strike.delay_s + self.latency.draw(0.0))
                if until is not None:
                    self.tally.told_to_wait(token, until)
            else:
                answer = self.rules.consider(request, now)
            return self._answered(answer, token, strike.delay_s, strike.effect)
        rang = strike.processed and self.rules.consider(request, now).rings
        if rang:
            self.tally.ring(token)
        self.tally.unanswered[called(strike)] += 1
        return Verdict(None, strike.delay_s, strike.effect, token if rang else None)

    def _answered(
        self, answer: Answer, token: bytes, delay_s: float = 0.0, effect: Effect | None = None
    ) -> Verdict:
        key = str(answer.status) if answer.reason is None else f"{answer.status} {answer.reason}"
        self.tally.answers[key] += 1
        if answer.rings:
            self.tally.ring(token)
        return Verdict(answer, delay_s, effect, token if answer.rings else None)


def called(strike: Strike) -> str:
    """What a request without an answer is counted under."""
    match strike.effect:
        case None:
            return "stall"
        case Reset():
            return "rst"
        case Cut():
            return "cut"
        case _:
            return "goaway"
