"""Log lines: a constant event name and its fields, as JSON or for somebody at a terminal.

What a whole task is about (its send, its batch) is bound once, by the task's hooks (:mod:`pushq.tasks.hooks`), and stands on every
line that is written meanwhile, by whoever it is. Every greenlet begins with nothing bound. docs/logs.md lists the events.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import orjson

from pushq.redaction import Redactor, passwords
from pushq.settings import Settings

log = logging.getLogger("pushq.process")

#: The event of a line that a library wrote: its text is in ``message``.
LIBRARY: Final = "library_message"

_STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
    "data",  # Celery's: arguments of tasks, which have notifications in them
}

#: Celery's logger of messages that it cannot use.
_CONSUMER: Final = "celery.worker.consumer.consumer"
_PLACEHOLDER: Final = re.compile(r"%[rs]")

_bound: ContextVar[Mapping[str, object] | None] = ContextVar("pushq_log_fields", default=None)


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Put ``fields`` on every line that this thread, or greenlet, writes within the block."""
    before = _bound.get()
    _bound.set({**(before or {}), **fields})
    try:
        yield
    finally:
        _bound.set(before)


def begin(**fields: object) -> None:
    """The same until :func:`end`, for hooks that are called at a task's beginning and end."""
    _bound.set({**(_bound.get() or {}), **fields})


def end() -> None:
    """Bind nothing any more."""
    _bound.set(None)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What is bound and what the line itself brings; None is left out."""
    own = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return {key: value for key, value in {**(_bound.get() or {}), **own}.items() if value is not None}


class _Formatter(logging.Formatter):
    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def _event(self, record: logging.LogRecord) -> tuple[str, dict[str, object]]:
        fields = fields_of(record)
        if record.name == "pushq" or record.name.startswith("pushq."):
            return str(record.msg), fields
        try:
            message = _without_bodies(record)
        except Exception:  # noqa: BLE001 - arguments that do not fit the text, or cannot be shown: the library's mistake
            message = f"{record.msg!r} {_told(record.args)}"
        return LIBRARY, {"message": message, **fields}

    def _traceback(self, record: logging.LogRecord) -> str | None:
        if record.exc_info and record.exc_info[0] is not None:
            return self._redactor.text(self.formatException(record.exc_info))
        return None


class JsonFormatter(_Formatter):
    """One object a line: ``time`` (UTC), ``level``, ``logger``, ``event``, ``role``, ``pid``, and the fields.

    Args:
        role: what this process is, such as ``worker-apns``.
    """

    def __init__(self, redactor: Redactor, role: str) -> None:
        super().__init__(redactor)
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        event, fields = self._event(record)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
            "role": self._role,
            "pid": record.process,
        }
        for key, value in fields.items():
            line.setdefault(key, self._redactor.value(value))
        traceback = self._traceback(record)
        if traceback is not None:
            line["traceback"] = traceback
        try:
            return orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS).decode()
        except (
            TypeError
        ):  # an integer over 64 bits, half of a surrogate pair (as in names of files): json takes both
            return json.dumps(line, default=_told)


class ConsoleFormatter(_Formatter):
    """``12:00:01.234 INFO pushq.delivery batch_settled batch_no=3 send_id=...``; values with spaces are quoted."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        event, fields = self._event(record)
        time = self.formatTime(record, "%H:%M:%S") + f".{int(record.msecs):03d}"
        parts = [time, record.levelname, record.name, event]
        parts += [f"{key}={_shown(self._redactor.value(value))}" for key, value in fields.items()]
        traceback = self._traceback(record)
        return " ".join(parts) + (f"\n{traceback}" if traceback else "")


def _shown(value: object) -> str:
    """On one line: whoever writes into a field (a provider, a caller) must not be able to begin another line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    plain = isinstance(value, str) and text and text.isprintable() and not set(' "=') & set(text)
    return text if plain or not isinstance(value, str) else json.dumps(text, ensure_ascii=False)


def _without_bodies(record: logging.LogRecord) -> str:
    """Of what Celery says of a message that it cannot use, the first line: body and headers follow, notification and users among them."""
    text = record.msg
    if record.name != _CONSUMER or not isinstance(text, str) or "body" not in text:
        return record.getMessage()
    first = text.splitlines()[0]
    args = record.args if isinstance(record.args, tuple) else ()
    return first % args[: len(_PLACEHOLDER.findall(first))]


def _told(value: object) -> str:
    try:
        return repr(value)
    except Exception as exc:  # noqa: BLE001 - a line must not fail for what stands in it
        return f"({type(value).__name__}, whose repr raises {type(exc).__name__})"


class _Handler(logging.StreamHandler[TextIO]):
    """Of a line that cannot be written, logging's own handler prints message and arguments, past the redactor."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[0]
        with suppress(OSError, ValueError):  # nobody reads any more
            sys.stderr.write(
                f"pushq: a line of {record.name} was not written ({error.__name__ if error else ''})\n"
            )


def configure(settings: Settings, role: str, *, stream: TextIO | None = None) -> None:
    """Write every line of this process, those of libraries and of crashes included, to ``stream`` (default: standard error).

    Args:
        role: what this process is, such as ``worker-apns``.
    """
    stream = stream or sys.stderr
    style: Literal["json", "console"] | None = settings.log_format
    redactor = Redactor(passwords(settings))
    handler = _Handler(stream)
    console = (style or ("console" if stream.isatty() else "json")) == "console"
    handler.setFormatter(ConsoleFormatter(redactor) if console else JsonFormatter(redactor, role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pushq").setLevel(settings.log_level)
    # Not its DEBUG: that has the arguments of tasks.
    logging.getLogger("celery").setLevel("INFO" if settings.log_level == "DEBUG" else "WARNING")
    logging.getLogger("celery.beat").setLevel("WARNING")
    logging.captureWarnings(True)
    _catch_crashes()


def write_at_once(message: str, *_: object) -> None:
    """A library's line from within a signal handler, where no lock may be taken: past the handlers, in their format.

    Stands in for ``celery.apps.worker.safe_say``, which prints bare text.
    """
    record = logging.LogRecord("celery", logging.INFO, "", 0, message.strip(), (), None)
    handlers = logging.getLogger().handlers
    text = handlers[0].format(record) if handlers else message
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:
        return  # nobody reads any more; the process is about to end anyway


def _catch_crashes() -> None:
    """What ends a process, a thread or a greenlet without anybody catching it becomes a line as well."""
    sys.excepthook = _process_failed
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_failed
    if "gevent" in sys.modules:
        # gevent would print its own; see gevent.hub.Hub.print_exception.
        sys.modules["gevent"].get_hub().print_exception = _greenlet_failed


def _process_failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None, /) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("process_failed", exc_info=(kind, error, trace))


def _thread_failed(args: threading.ExceptHookArgs, /) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread is not None else None
        log.error(
            "thread_failed",
            extra={"thread_name": name},
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        )


def _unraisable(args: Any, /) -> None:
    error = args.exc_value
    log.error(
        "error_ignored",
        extra={"where": repr(args.object)},
        exc_info=(args.exc_type, error, args.exc_traceback) if error is not None else None,
    )


def _greenlet_failed(context: object, kind: Any, error: Any, trace: Any) -> None:
    log.error("greenlet_failed", extra={"greenlet": repr(context)}, exc_info=(kind, error, trace))
