"""What goes wrong with embedded servers, said so that the reader knows what to do next."""

from __future__ import annotations

from pathlib import Path

from pushq.errors import PushqError

#: Lines of a server's log that an error shows.
LOG_TAIL_LINES = 15


class EmbeddedError(PushqError):
    """An embedded server is missing or does not start.

    Attributes:
        advice: what the reader can do about it.
        log: the last lines of the server's log, or an empty string.
    """

    def __init__(self, problem: str, advice: str, log: str = "") -> None:
        super().__init__(problem, advice, log)
        self.problem = problem
        self.advice = advice
        self.log = log

    def __str__(self) -> str:
        shown = f"\nThe end of its log:\n{self.log}" if self.log else ""
        return f"{self.problem}{shown}\n{self.advice}"


def log_tail(path: Path) -> str:
    """The last lines of a log, indented; empty when there is none. Reads at most 64 KB."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-LOG_TAIL_LINES:])
