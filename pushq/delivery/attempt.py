"""One attempt at a batch: outcomes, verdicts and what has to be tried again, collected while answers come in.

No I/O here: :mod:`pushq.delivery.run` feeds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from pushq.http2 import NO_CONNECTION, Answer, Burst, Code
from pushq.ledger.batches import DeadLetter
from pushq.ledger.outcomes import Outcome
from pushq.limits.guard import Counts, Ruling, overwhelming
from pushq.providers.answers import Effect, Scope, Verdict

Judge = Callable[[Answer], Verdict]

#: Before the reason of a dead letter: refused, but nothing proves that it is not our set-up that is wrong.
UNPROVEN: Final = "guarded_unproven_"


#: So many that blame either the token or the message, or each a message of its own, and nobody who was reached: it is the message.
ENOUGH_DOUBTS: Final = 100


def _codes(**outcomes: Outcome) -> bytes:
    table = bytearray(256)
    for name, outcome in outcomes.items():
        table[Code[name]] = outcome
    return bytes(table)


#: What a request's code says about its recipient, before any answer is judged.
_LEAST_ONCE: Final = _codes(OK=Outcome.ACCEPTED)
_MOST_ONCE: Final = _codes(
    QUEUED=Outcome.CLAIMED,
    IN_FLIGHT=Outcome.CLAIMED,
    OK=Outcome.ACCEPTED,
    ANSWERED=Outcome.CLAIMED,
    UNKNOWN=Outcome.UNKNOWN,
)


#: Requests that were written, and so were a try.
_TRIED: Final = bytes(
    int(code in (Code.IN_FLIGHT, Code.OK, Code.ANSWERED, Code.UNKNOWN)) for code in range(256)
)
#: Surely not processed, or not yet handed over.
_UNPROCESSED: Final = frozenset({Code.QUEUED, Code.NOT_SENT, Code.REFUSED})


class Failure(NamedTuple):
    """Why a recipient is to be tried again.

    Attributes:
        wait_s: how long the provider wants this recipient left alone.
        counts: whether it was an attempt: a refused credential says nothing about a recipient.
    """

    reason: str
    status: int | None
    wait_s: float = 0.0
    counts: bool = True


@dataclass
class _Part:
    """A burst and the positions of its requests in the batch."""

    burst: Burst
    positions: Sequence[int]
    judged: int = 0
    handed: int = 0
    seen: bytes = b""
    accepted: int = 0
    finished: bool = False


@dataclass
class Attempt:
    """Collects what happens to the recipients of one batch in one attempt.

    Attributes:
        outcomes: one byte per recipient; CLAIMED stands for handed over and unanswered (at_most_once only).
        trusted: rejections that a wrong set-up could cause are taken for true.
        failures: why a recipient is to be tried again, by position.
        guarded: rejections that a wrong set-up could cause, by position. Until :meth:`rule` their recipients count as pending:
            a rejection proves that nothing was delivered.
        answered, failed: requests with an answer; those with one of 5xx that is no flow control, with none, or without a connection.
            The caller sets them back as it reports them.
        handed, final, errors: requests that were written and have ended, recipients with a final answer, and answers by their reason;
            set back by the caller as well.
        hold_off_s: the longest pause that the provider asked of everybody; set back by the caller as well.
        halted: a verdict that makes sending the rest pointless: a refused set-up, a refused message, or one of too many guarded
            rejections.
        reauthenticate: a burst whose credential was refused as expired.
        not_sent: why requests were never written, or surely not processed.
        personal: recipients get messages of their own, so that what became of one says nothing about another's.
        blamed: how often the message was refused that was its recipient's own, and the first of these verdicts.
    """

    outcomes: bytearray
    at_most_once: bool
    trusted: bool = False
    failures: dict[int, Failure] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    guarded: dict[int, Verdict] = field(default_factory=dict)
    answered: int = 0
    failed: int = 0
    handed: int = 0
    final: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    hold_off_s: float = 0.0
    halted: Verdict | None = None
    reauthenticate: Burst | None = None
    not_sent: str | None = None
    personal: bool = False
    blamed: tuple[int, Verdict] | None = None
    _parts: list[_Part] = field(default_factory=list)
    _doubtful: dict[int, Verdict] = field(default_factory=dict)
    _throttled: list[float] = field(default_factory=list)

    def pending(self) -> list[int]:
        """Positions that have no final outcome."""
        if not any(self.outcomes):
            return list(range(len(self.outcomes)))
        return [i for i, outcome in enumerate(self.outcomes) if outcome <= Outcome.CLAIMED]

    def add(self, burst: Burst, positions: Sequence[int]) -> None:
        self._parts.append(_Part(burst, positions))

    def refuse(self, refused: Mapping[int, str]) -> None:
        """No request is made for these recipients: by position, why not."""
        for position, reason in refused.items():
            self.outcomes[position] = Outcome.REJECTED
            self.dead.append(DeadLetter(position, Outcome.REJECTED, None, reason, None))

    def open_bursts(self) -> list[Burst]:
        return [part.burst for part in self._parts if not part.finished]

    def cancel(self, reason: str) -> None:
        """What is not yet written stays unsent."""
        for burst in self.open_bursts():
            burst.cancel(reason)

    def collect(self, judge: Judge) -> list[tuple[int, bytes]]:
        """Take in what has been answered since the last call; returns the changed spans of ``outcomes`` for the journal."""
        spans: list[tuple[int, bytes]] = []
        for part in self._parts:
            if not part.finished:
                part.finished = part.burst.wait(0)
                spans += self._take(part, judge)
                if part.finished:
                    # Else the messages of all batches in hand stay in memory, those in flight or not.
                    part.burst.forget()
        ended = not self.open_bursts()
        self._weigh_doubts(ended=ended)
        self._settle_throttling(ended=ended)
        return spans

    def _take(self, part: _Part, judge: Judge) -> Iterator[tuple[int, bytes]]:
        codes = bytes(part.burst.codes)
        # A burst that has just ended is always looked at: its last codes may have been seen before it said so.
        if not part.finished and codes == part.seen and part.judged == len(part.burst.answers):
            return
        part.seen = codes
        accepted = codes.count(Code.OK)
        self.answered += accepted - part.accepted
        self.final += accepted - part.accepted
        part.accepted = accepted
        handed = accepted + codes.count(Code.ANSWERED) + codes.count(Code.UNKNOWN)
        self.handed += handed - part.handed
        part.handed = handed
        values = codes.translate(_MOST_ONCE if self.at_most_once else _LEAST_ONCE)
        positions = part.positions
        first, last = positions[0], positions[-1] + 1
        if last - first == len(positions):
            self.outcomes[first:last] = values
        else:
            for position, value in zip(positions, values, strict=True):
                self.outcomes[position] = value
        for letter in self.dead:
            # The translation above knows nothing of answers judged before.
            self.outcomes[letter.position] = letter.outcome
        for position in (*self.guarded, *self._doubtful):
            self.outcomes[position] = Outcome.PENDING
        if part.finished:
            self._note_unanswered(part, codes)
        if part.burst.answers:
            self._judge(part, judge)
        yield first, bytes(self.outcomes[first:last])

    def _note_unanswered(self, part: _Part, codes: bytes) -> None:
        for code in (Code.NOT_SENT, Code.REFUSED, Code.UNKNOWN):
            index = codes.find(code)
            while index >= 0:
                reason = part.burst.reasons.get(index, "unknown")
                if code is Code.UNKNOWN:
                    self.failed += 1
                    position = part.positions[index]
                    if self.at_most_once:
                        self.dead.append(
                            DeadLetter(position, Outcome.UNKNOWN, None, f"no_answer_{reason}", None)
                        )
                    else:
                        self.failures[position] = Failure(f"no_answer_{reason}", None)
                else:
                    self.not_sent = reason
                    self.failed += reason in NO_CONNECTION
                index = codes.find(code, index + 1)

    def _judge(self, part: _Part, judge: Judge) -> None:
        answers = list(part.burst.answers.items())
        for index, answer in answers[part.judged :]:
            verdict = judge(answer)
            # Who asks for less is well, whatever the status (HMS: 503).
            broken = answer.status >= 500 and not verdict.flow_control
            self.answered += not broken
            self.failed += broken
            self.errors[verdict.reason] += 1
            self._apply(part.positions[index], verdict, part.burst)
        part.judged = len(answers)
        if self.at_most_once:
            # An answer that invites a repetition proves that nothing was delivered.
            for position in self.failures:
                if self.outcomes[position] == Outcome.CLAIMED:
                    self.outcomes[position] = Outcome.PENDING
        if self.guarded and self.halted is None and not self.trusted and overwhelming(self.counts()):
            self.halted = next(iter(self.guarded.values()))

    def _apply(self, position: int, verdict: Verdict, burst: Burst) -> None:
        effect = verdict.effect
        if verdict.doubtful:
            self.outcomes[position] = Outcome.PENDING
            self.failures.pop(position, None)
            self._doubtful[position] = verdict
        elif effect is Effect.TOKEN_DEAD and verdict.guarded:
            self.outcomes[position] = Outcome.PENDING
            self.failures.pop(position, None)
            self.guarded[position] = verdict
        elif effect is Effect.TOKEN_DEAD:
            self._bury(position, Outcome.TOKEN_DEAD, verdict)
        elif effect is Effect.REJECTED or (
            effect is Effect.CONFIGURATION and verdict.scope is Scope.RECIPIENT
        ):
            self._bury(position, Outcome.REJECTED, verdict)
            if verdict.scope is Scope.MESSAGE:
                self._blame(verdict)
        elif effect is Effect.CONFIGURATION:
            self.failures[position] = Failure(verdict.reason, verdict.status, counts=False)
            self.halted = self.halted or verdict
        elif effect is Effect.REAUTHENTICATE:
            self.failures[position] = Failure(verdict.reason, verdict.status, verdict.wait_s, counts=False)
            self.reauthenticate = burst
        else:
            self.failures[position] = Failure(verdict.reason, verdict.status, verdict.wait_s)
            if verdict.flow_control:
                self.hold_off_s = max(self.hold_off_s, verdict.wait_s)
            elif verdict.status == 429 and verdict.scope is Scope.PROVIDER:
                self._throttled.append(verdict.wait_s)

    def _weigh_doubts(self, *, ended: bool) -> None:
        """Send nothing more where many agree, or all have ended, and nobody got the message."""
        if (
            self._doubtful
            and not self.proven
            and not self.personal
            and (ended or len(self._doubtful) >= ENOUGH_DOUBTS)
        ):
            self.halted = self.halted or next(iter(self._doubtful.values()))

    @property
    def in_doubt(self) -> bool:
        """Whether answers wait for :meth:`settle_doubts`."""
        return bool(self._doubtful)

    @property
    def proven(self) -> bool:
        """Whether the provider took the same message for others of this batch."""
        return not self.personal and Outcome.ACCEPTED in self.outcomes

    def settle_doubts(self, *, proven: bool) -> None:
        """Blame the tokens where the same message was taken for others, else the message; one that is a recipient's own, alone.

        Args:
            proven: what :attr:`proven` says, or that it was so in another batch of the send.
        """
        doubts, self._doubtful = self._doubtful, {}
        if doubts and proven and self.halted is not None and self.halted.doubtful:
            self.halted = None
        for position, verdict in doubts.items():
            if proven:
                self.guarded[position] = replace(
                    verdict, effect=Effect.TOKEN_DEAD, scope=Scope.RECIPIENT, guarded=True, doubtful=False
                )
                continue
            self._bury(position, Outcome.REJECTED, replace(verdict, invalid_since=None))
            self._blame(verdict)

    def _blame(self, verdict: Verdict) -> None:
        """The message was refused: everybody's, or the one that was this recipient's own."""
        if not self.personal:
            self.halted = self.halted or verdict
        elif self.blamed is None:
            self.blamed = 1, verdict
        else:
            self.blamed = self.blamed[0] + 1, self.blamed[1]

    @property
    def all_blamed(self) -> Verdict | None:
        """Why nobody's own message is likely to be taken: so many were refused, and nobody of this batch was reached.

        Not looked at before the batch ends: what one language says wrong must not hold up those who read another.
        """
        if self.blamed is None or self.blamed[0] < ENOUGH_DOUBTS or Outcome.ACCEPTED in self.outcomes:
            return None
        return self.blamed[1]

    def _settle_throttling(self, *, ended: bool) -> None:
        """One 429 among answers that were accepted is about that device; several, or nothing else, are about everybody."""
        if len(self._throttled) > 1 or (self._throttled and ended and not self.counts().accepted):
            self.hold_off_s = max(self.hold_off_s, *self._throttled)
            # Reported; the next one is not alone.
            self._throttled = [0.0]

    def _bury(self, position: int, outcome: Outcome, verdict: Verdict) -> None:
        self.final += 1
        self.outcomes[position] = outcome
        self.failures.pop(position, None)
        self.dead.append(DeadLetter(position, outcome, verdict.status, verdict.reason, verdict.invalid_since))

    @property
    def smooth(self) -> bool:
        """Whether everybody has a final outcome, nobody a dead letter, and nothing is left to decide."""
        return not (
            self.dead
            or self.failures
            or self.guarded
            or self._doubtful
            or self.blamed
            or self.halted
            or self.reauthenticate
            or self.not_sent
            or min(self.outcomes) <= Outcome.CLAIMED
        )

    def tries(self, before: bytes) -> bytes:
        """How often each recipient has been tried by now.

        Args:
            before: the same, as of the beginning of this attempt.
        """
        tries = bytearray(before)
        for part in self._parts:
            tried = part.burst.codes.translate(_TRIED)
            first, last = part.positions[0], part.positions[-1] + 1
            if last - first == len(tried) and not any(before[first:last]):
                tries[first:last] = tried
                continue
            for position, more in zip(part.positions, tried, strict=True):
                tries[position] = min(before[position] + more, 255)
        for position, failure in self.failures.items():
            if not failure.counts:
                tries[position] = before[position]
        return bytes(tries)

    def abandon(self, reason: str, judge: Judge) -> list[tuple[int, bytes]]:
        """Wait no longer for what is in flight: it may have been processed. Returns spans as :meth:`collect` does."""
        spans: list[tuple[int, bytes]] = []
        for part in self._parts:
            if part.finished:
                continue
            # What came in since the last look counts. No wait() here: it lets others run, and they change the codes.
            part.finished = True
            first, last = part.positions[0], part.positions[-1] + 1
            list(self._take(part, judge))
            self.handed += part.seen.count(Code.IN_FLIGHT)
            for position, code in zip(part.positions, part.seen, strict=True):
                if not self.at_most_once:
                    if code == Code.IN_FLIGHT:
                        self.failures[position] = Failure(f"no_answer_{reason}", None, counts=False)
                elif self.outcomes[position] == Outcome.CLAIMED and code not in _UNPROCESSED:
                    self.outcomes[position] = Outcome.UNKNOWN
                    self.dead.append(DeadLetter(position, Outcome.UNKNOWN, None, f"no_answer_{reason}", None))
            spans.append((first, bytes(self.outcomes[first:last])))
        return spans

    def end_pending(self, positions: Sequence[int], ending: Outcome, reason: str | None = None) -> None:
        """Give recipients that will not be tried again their final outcome, and a dead letter each.

        Args:
            reason: for those that no failure speaks about; default: the outcome's own name.
        """
        for position in positions:
            failure = self.failures.pop(position, None) or Failure(reason or ending.name.lower(), None)
            self.outcomes[position] = ending
            self.dead.append(DeadLetter(position, ending, failure.status, failure.reason, None))

    def counts(self) -> Counts:
        """How the provider has answered so far."""
        accepted = sum(part.accepted for part in self._parts)
        return Counts(accepted + sum(part.judged for part in self._parts), accepted, len(self.guarded))

    def rule(self, ruling: Ruling) -> None:
        """Give the recipients of guarded rejections what the guard decided about them."""
        for position, verdict in self.guarded.items():
            if ruling is Ruling.BELIEVE:
                self._bury(position, Outcome.TOKEN_DEAD, verdict)
            elif ruling is Ruling.KEEP:
                unproven = replace(verdict, reason=UNPROVEN + verdict.reason, invalid_since=None)
                self._bury(position, Outcome.REJECTED, unproven)
            elif ruling is Ruling.AGAIN:
                self.failures[position] = Failure(UNPROVEN + verdict.reason, verdict.status)
            else:
                self.failures[position] = Failure(verdict.reason, verdict.status, counts=False)
        self.guarded.clear()
