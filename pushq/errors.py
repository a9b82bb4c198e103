"""One root for every error pushq raises, so that callers can catch all of them with one name.

Provider answers are values (see ``pushq.providers``), never exceptions: an exception means that there was no answer, or that
the fault is ours or the caller's.
"""

from __future__ import annotations


class PushqError(Exception):
    """Root of all errors that pushq raises on purpose."""


class SettingsError(PushqError):
    """A setting is missing or wrong. The message names the setting, what was found and what is expected."""


class InvalidRequest(PushqError, ValueError):
    """A caller's input is wrong. Nothing was stored or sent.

    Attributes:
        field: dotted name of the offending field, such as ``notification.data.price``.
        found: short description of what was found.
        expected: what is allowed.
    """

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(field, found, expected)
        self.field = field
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.field}: found {self.found}; expected {self.expected}"


class ServiceUnavailable(PushqError):
    """A service that pushq needs cannot be reached.

    Attributes:
        service: ``PostgreSQL``, ``Redis`` or ``broker``.
        setting: the environment variable that says where it is.
    """

    def __init__(self, service: str, setting: str, detail: str) -> None:
        super().__init__(service, setting, detail)
        self.service = service
        self.setting = setting
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.service} cannot be reached ({self.detail}). Check that it runs and that {self.setting} is right."


def kind(value: object) -> str:
    """How an error message calls a value of the wrong type."""
    if value is None:
        return "nothing"
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
