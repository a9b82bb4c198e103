"""Answers waiting for their time and for the client's flow-control window, released in lots."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pushq.mock import frames
from pushq.mock.engine import TICK_S


@dataclass(slots=True, eq=False)
class Bucket:
    """Answers that fall due together: ``answers`` are complete frames of one stream each, ``tokens`` (parallel) what was counted
    as accepted with it, ``data`` the sum of their DATA bytes."""

    answers: list[bytes] = field(default_factory=list)
    tokens: list[bytes | None] = field(default_factory=list)
    data: int = 0


class DueAnswers:
    """The unsent answers of one connection; times are monotonic seconds."""

    def __init__(self) -> None:
        self.window = frames.DEFAULT_WINDOW
        # Owed in front of the next header block after the client lowered HEADER_TABLE_SIZE.
        self.owes_size_update = False
        self._buckets: dict[int, Bucket] = {}
        #: Answers that the window holds up, with the tokens that were counted.
        self._blocked: deque[tuple[bytes, bytes | None]] = deque()

    def __len__(self) -> int:
        return len(self._blocked) + sum(len(bucket.answers) for bucket in self._buckets.values())

    @property
    def waiting(self) -> bool:
        return bool(self._buckets or self._blocked)

    def rest(self, tick: float) -> float:
        """See :meth:`pushq.mock.engine.Engine.rest`."""
        if self._blocked or not self._buckets:
            return 0.0
        return max(0.0, min(self._buckets) * TICK_S - tick)

    def bucket(self, due: float) -> Bucket:
        """Where an answer goes that falls due then; it leaves with the first tick at or after ``due``."""
        key = int(due / TICK_S) + 1
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket()
        return bucket

    def add(self, due: float, answer: bytes, rang: bytes | None) -> None:
        bucket = self.bucket(due)
        bucket.answers.append(answer)
        bucket.tokens.append(rang)
        bucket.data += frames.data_bytes(answer)

    def release(self, tick: float) -> list[bytes]:
        """What is due and fits into the window."""
        out: list[bytes] = []
        reached = tick / TICK_S
        for key in sorted(key for key in self._buckets if key <= reached):
            bucket = self._buckets.pop(key)
            if not self._blocked and bucket.data <= self.window:
                self.window -= bucket.data
                out += bucket.answers
            else:
                self._blocked.extend(zip(bucket.answers, bucket.tokens, strict=True))
        while self._blocked:
            answer, _ = self._blocked[0]
            need = frames.data_bytes(answer)
            if need > self.window:
                break
            self.window -= need
            out.append(answer)
            self._blocked.popleft()
        if self.owes_size_update:
            self._pay_size_update(out)
        return out

    def cancel(self, stream: int) -> bool:
        """The client does not want this answer any more. Whether there was one."""
        for bucket in self._buckets.values():
            for position, answer in enumerate(bucket.answers):
                if _stream_of(answer) == stream:
                    bucket.data -= frames.data_bytes(answer)
                    del bucket.answers[position], bucket.tokens[position]
                    return True
        for position, (answer, _) in enumerate(self._blocked):
            if _stream_of(answer) == stream:
                del self._blocked[position]
                return True
        return False

    def retract(self, last: int) -> list[bytes]:
        """Drop the answers of streams above ``last``; returns the tokens that had been counted."""
        counted: list[bytes] = []
        for bucket in self._buckets.values():
            pairs = list(zip(bucket.answers, bucket.tokens, strict=True))
            counted += [token for answer, token in pairs if token is not None and _stream_of(answer) > last]
            kept = [(answer, token) for answer, token in pairs if _stream_of(answer) <= last]
            bucket.answers, bucket.tokens = [answer for answer, _ in kept], [token for _, token in kept]
            bucket.data = sum(map(frames.data_bytes, bucket.answers))
        blocked = list(self._blocked)
        counted += [token for answer, token in blocked if token is not None and _stream_of(answer) > last]
        self._blocked = deque(pair for pair in blocked if _stream_of(pair[0]) <= last)
        return counted

    def _pay_size_update(self, out: list[bytes]) -> None:
        for position, answer in enumerate(out):
            if answer[3] == frames.HEADERS:
                out[position] = frames.with_size_update(answer)
                self.owes_size_update = False
                return


def _stream_of(answer: bytes) -> int:
    number: int = frames.WORD.unpack_from(answer, 5)[0]
    return number
