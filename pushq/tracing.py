"""Traces with OpenTelemetry: one for each send, from the call through planning and batches to the requests.

Off (the default) nothing of OpenTelemetry is imported, and every function here returns at its first line. On
(``PUSHQ_TRACING=true``, extra ``pushq[otel]``) spans leave by OTLP over HTTP, set up by OpenTelemetry's own variables
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``...), which its SDK reads. They wait in a queue of bounded length for a thread
that sends them: a collector that is slow or gone costs spans, never time. docs/tracing.md shows a trace.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal

from pushq.errors import SettingsError
from pushq.redaction import Redactor, passwords
from pushq.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger("pushq.tracing")

#: Span names. In an order in which one leads to the next.
CALL: Final = "pushq.call"
ACCEPT: Final = "pushq.accept"
PLAN: Final = "pushq.plan_shard"
DELIVER: Final = "pushq.deliver_batch"
REQUEST: Final = "pushq.request"
BURY: Final = "pushq.dead_letters"

#: The headers that carry a trace (W3C Trace Context), in messages and in the ledger.
HEADERS: Final = ("traceparent", "tracestate")
#: Seconds that the end of a process waits for spans to leave.
FLUSH_S: Final = 2.0
#: A collector that is gone is worth a line a minute.
COMPLAIN_S: Final = 60.0

Kind = Literal["internal", "consumer", "client"]

_tracer: Tracer | None = None
_redactor = Redactor()
_decided = False
_lock = threading.Lock()
_ending: threading.Event | None = None
_closer: threading.Thread | None = None
#: What a message about the send at hand carries.
_send: ContextVar[Mapping[str, str]] = ContextVar("pushq_send_trace")


def on() -> bool:
    """Whether this process traces."""
    return _tracer is not None


def configure(settings: Settings, service: str) -> None:
    """Begin to trace, if the settings want it; once per process.

    A tracer provider that the application has installed is used, and left alone.

    Args:
        service: ``service.name`` where the environment gives none.

    Raises:
        SettingsError: tracing is wanted, and OpenTelemetry is not installed or not set up in a way that works.
    """
    global _tracer, _redactor, _decided  # noqa: PLW0603 - one for the process, as its log
    with _lock:
        if not _decided:
            _redactor = Redactor(passwords(settings))
            _tracer = _open(service) if settings.tracing else None
            _decided = True


def _open(service: str) -> Tracer:
    try:
        api = importlib.import_module("opentelemetry.trace")
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        provider = api.get_tracer_provider()
        if not isinstance(provider, sdk.TracerProvider):
            provider = _own_provider(sdk, service)
    except ImportError as exc:
        raise SettingsError(
            f"PUSHQ_TRACING: found true, but {exc.name or 'OpenTelemetry'} is not installed; expected: pip install 'pushq[otel]',"
            " or the variable unset"
        ) from None
    tracer: Tracer = provider.get_tracer("pushq")
    return tracer


def _own_provider(sdk: Any, service: str) -> Any:
    global _ending, _closer  # noqa: PLW0603 - see configure
    resources = importlib.import_module("opentelemetry.sdk.resources")
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    logging.getLogger(otlp.__name__).addFilter(_Rarely(COMPLAIN_S, time.monotonic))
    logging.getLogger("opentelemetry.sdk._shared_internal").addFilter(_Rarely(COMPLAIN_S, time.monotonic))
    resource = resources.Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(resources.Resource({"service.name": service}))
    try:
        processor = export.BatchSpanProcessor(otlp.OTLPSpanExporter())
    except ValueError as exc:
        raise SettingsError(
            f"PUSHQ_TRACING: found OTEL_ variables that OpenTelemetry refuses ({exc})"
        ) from exc
    # Not at exit by the SDK: it would wait half a minute for a collector that is gone.
    provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    _ending = threading.Event()
    # Made now: a process that ends cannot start threads.
    _closer = threading.Thread(
        target=_close_when, args=(_ending, provider), name="pushq-tracing", daemon=True
    )
    _closer.start()
    atexit.register(shutdown)
    return provider


def _close_when(ending: threading.Event, provider: Any) -> None:
    ending.wait()
    provider.shutdown()


def shutdown(timeout_s: float = FLUSH_S) -> None:
    """Send the spans that still wait, for at most ``timeout_s`` seconds. Nothing to do while tracing is off."""
    global _tracer, _closer  # noqa: PLW0603 - see configure
    _tracer = None
    closer, _closer = _closer, None  # not again at exit: one wait is enough
    if _ending is not None and closer is not None:
        _ending.set()
        closer.join(timeout_s)


class _Rarely(logging.Filter):
    """Lets one line through per ``seconds``."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self._seconds, self._clock, self._next = seconds, clock, 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


@contextmanager
def call(send_id: object, kind: str, settings: Callable[[], Settings]) -> Iterator[dict[str, str]]:
    """The call of an application, around its publication; yields the headers that the message is to carry.

    A span of the application that is current is its parent.

    Args:
        settings: read once, at the first call of a process that nobody has configured.
    """
    if not _decided:
        configure(settings(), "pushq-caller")
    if _tracer is None:
        yield {}
        return
    api = _api()
    with _tracer.start_as_current_span(
        CALL,
        kind=api.SpanKind.PRODUCER,
        attributes={"pushq.send_id": str(send_id), "pushq.kind": kind},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield carried_by(span)
        except BaseException as exc:
            fail(span, exc)
            raise


def start(
    name: str, *, kind: Kind = "internal", parent: Mapping[str, str] | None = None, **attributes: Any
) -> Span | None:
    """Begin a span; None while tracing is off. Whoever begins it ends it.

    Args:
        parent: headers, as :func:`carried_by` makes them; default: the current span.
        attributes: ``pushq.`` goes before each name.
    """
    if _tracer is None:
        return None
    context = _propagator().extract(dict(parent)) if parent else None
    return _tracer.start_span(
        name, context=context, kind=_api().SpanKind[kind.upper()], attributes=_named(attributes)
    )


def enter(span: Span) -> object:
    """Make ``span`` the current one of this greenlet, until :func:`leave` is given what this returns."""
    return importlib.import_module("opentelemetry.context").attach(_api().set_span_in_context(span))


def leave(token: object) -> None:
    importlib.import_module("opentelemetry.context").detach(token)


def note(**attributes: Any) -> None:
    """Add attributes to the current span."""
    if _tracer is not None:
        _api().get_current_span().set_attributes(_named(attributes))


def fail(span: Span, error: BaseException | str) -> None:
    """Mark a span as failed. Of an exception only its type: its text may hold what is nobody's business."""
    name = error if isinstance(error, str) else type(error).__name__
    span.set_attribute("error.type", name)
    span.set_status(_api().StatusCode.ERROR, name)


def end(span: Span, **attributes: Any) -> None:
    span.set_attributes(_named(attributes))
    span.end()


def trace_id(span: Span) -> str:
    """As logs show it: 32 hex digits."""
    return f"{span.get_span_context().trace_id:032x}"


def carried_by(span: Span) -> dict[str, str]:
    """The W3C headers that make what follows a part of this span's trace."""
    headers: dict[str, str] = {}
    _propagator().inject(headers, context=_api().set_span_in_context(span))
    return headers


def carried_in(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """The W3C headers among those of a message."""
    return {name: str(headers[name]) for name in HEADERS if name in headers} if headers else {}


def set_send(headers: Mapping[str, str]) -> None:
    """What messages about the send at hand, and its row, are to carry."""
    _send.set(headers)


def send_headers() -> dict[str, str]:
    """See :func:`set_send`; empty while tracing is off."""
    return dict(_send.get({})) if _tracer is not None else {}


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"pushq.{name}": _redactor.value(value) for name, value in attributes.items() if value is not None
    }


def _api() -> Any:
    return importlib.import_module("opentelemetry.trace")


def _propagator() -> Any:
    return importlib.import_module(
        "opentelemetry.trace.propagation.tracecontext"
    ).TraceContextTextMapPropagator()
