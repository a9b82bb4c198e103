"""A burst whose requests name many devices each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pushq.http2 import Answer, Burst, Code, HeaderTemplate, Reason


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: the devices that it names, by their index in the burst, and its body."""

    indices: Sequence[int]
    tokens: Sequence[bytes]
    body: bytes


class TokenBurst(Burst):
    """Requests of several devices each; codes, answers and reasons are by device, as in every burst.

    Attributes:
        requests: together they name each device once.
    """

    __slots__ = ("_taken", "requests")

    def __init__(self, template: HeaderTemplate, count: int, requests: Sequence[Request]) -> None:
        super().__init__(template, count, bodies=b"")
        self.requests = requests
        #: Requests that a connection has, or had.
        self._taken = 0

    @property
    def exchanges(self) -> int:
        return len(self.requests)

    def take(self) -> Request | None:
        """For the pool: the next request, in flight from now on; None when there is no more."""
        if self._taken >= len(self.requests):
            return None
        request = self.requests[self._taken]
        self._taken += 1
        self._set(request, Code.IN_FLIGHT)
        return request

    def finish(
        self, request: Request, code: Code, *, answers: Mapping[int, Answer] | None = None, reason: str = ""
    ) -> None:
        """For the pool: what became of a request that was taken.

        Args:
            code: of all its devices but those in ``answers``, which were ANSWERED; there by index in the request.
            reason: where the code is NOT_SENT, REFUSED or UNKNOWN.
        """
        indices = request.indices
        self._set(request, code)
        for at, answer in (answers or {}).items():
            self.codes[indices[at]] = Code.ANSWERED
            self.answers[indices[at]] = answer
        if reason:
            self.reasons.update(
                (index, reason) for at, index in enumerate(indices) if not answers or at not in answers
            )
        self.settle(len(indices))

    def cancel(self, reason: str = Reason.CANCELLED) -> None:
        left = self.requests[self._taken :]
        self._taken = len(self.requests)
        withdrawn = 0
        for request in left:
            self._set(request, Code.NOT_SENT)
            self.reasons.update(dict.fromkeys(request.indices, reason))
            withdrawn += len(request.indices)
        if withdrawn:
            if self._cancelled is not None:
                self._cancelled(withdrawn)
            self.settle(withdrawn)

    def _set(self, request: Request, code: Code) -> None:
        indices = request.indices
        if isinstance(indices, range) and indices.step == 1:
            self.codes[indices.start : indices.stop] = bytes((code,)) * len(indices)
        else:
            for index in indices:
                self.codes[index] = code
