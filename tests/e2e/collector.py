"""A collector of traces, as pushq meets it: OTLP over HTTP, protobuf, on loopback."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class ReceivedSpan:
    """One span; ids in hex, ``parent`` empty for a root, attributes by name, ``service`` of its resource, times in seconds."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start: float
    end: float
    failed: bool
    attributes: dict[str, Any] = field(default_factory=dict)


class Collector:
    """Listens while a ``with`` block runs. What an exporter sends twice counts once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers = threading.Event()
        self._answers.set()
        self._spans: dict[tuple[str, str], ReceivedSpan] = {}
        self.requests = 0
        self.bodies = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
                collector._take(body)
                collector._answers.wait()
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                with suppress(OSError):  # an exporter that has given up
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the name is http.server's

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.set()
        self._server.shutdown()
        self._server.server_close()  # waits for the handlers
        self._thread.join()

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Take what comes, and answer nobody before the end of the block."""
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        found = [
            ReceivedSpan(
                service=_values(group.resource.attributes).get("service.name", ""),
                name=span.name,
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                start=span.start_time_unix_nano / 1e9,
                end=span.end_time_unix_nano / 1e9,
                failed=span.status.code == span.status.STATUS_CODE_ERROR,
                attributes=_values(span.attributes),
            )
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self.requests += 1
            self.bodies += body
            self._spans.update({(span.trace, span.id): span for span in found})

    def spans(self, trace: str | None = None) -> list[ReceivedSpan]:
        with self._lock:
            return [span for span in self._spans.values() if trace in (None, span.trace)]

    def until(
        self, reached: Callable[[list[ReceivedSpan]], bool], timeout: float = 30.0
    ) -> list[ReceivedSpan]:
        """Wait for spans; fails with those that came."""
        deadline = time.monotonic() + timeout
        while not reached(spans := self.spans()):
            assert time.monotonic() < deadline, "\n".join(map(str, spans))
            time.sleep(0.05)
        return spans


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
