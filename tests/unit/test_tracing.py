"""Tracing in a process of its own each time: off it costs nothing, on it never waits for a collector."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pushq.delivery.spans import summary
from pushq.http2 import Answer, Burst, HeaderTemplate
from pushq.http2.burst import Code


def run(code: str, **environment: str) -> str:
    """What a Python process prints; warnings are errors there, too."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHQ_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(params=["refused", "silent"])
def gone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a collector that is not there, or that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


EVERYTHING = """
import sys
sys.modules["opentelemetry"] = None  # any import of it fails
from pushq import tracing
from pushq.settings import load
from pushq.tasks import deliver, entry, hooks, plan, runtime
hooks.connect()
{configure}
with tracing.call("id", "broadcast", load) as headers:
    pass
span = tracing.start(tracing.DELIVER, parent=dict(traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"))
tracing.note(recipients=1)
print(headers, span, tracing.send_headers())
tracing.shutdown()
"""


@pytest.mark.parametrize("configure", ["", "tracing.configure(load(), 'pushq-apns')"])
def test_off_nothing_of_opentelemetry_is_imported(configure: str) -> None:
    """Neither in an application that calls nor in a worker. (redis-py imports parts of it, where they are installed.)"""
    assert run(EVERYTHING.format(configure=configure)) == "{} None {}"


def test_on_without_the_extra_is_an_error_that_says_what_to_install() -> None:
    code = """
import sys
sys.modules["opentelemetry.sdk"] = None
from pushq import send_broadcast
from pushq.errors import SettingsError
try:
    send_broadcast.delay({"title": "x"}, {"segments": ["all"]})
except SettingsError as error:
    print(error)
"""
    said = run(code, PUSHQ_TRACING="true", PUSHQ_BROKER_URL="redis://127.0.0.1:1/0")
    assert said.startswith("PUSHQ_TRACING: found true, but opentelemetry.sdk")
    assert "pip install 'pushq[otel]'" in said


def test_a_collector_that_is_gone_costs_spans_and_no_time(gone: str) -> None:
    """Many more spans than the queue holds, while nothing leaves. The process ends by itself, without waiting for the exporter's ten seconds."""
    code = """
import logging, time
from pushq import tracing
from pushq.settings import load
lines = []
class Keep(logging.Handler):
    def emit(self, record): lines.append(record.name)
logging.getLogger().addHandler(Keep())
tracing.configure(load(), "pushq-apns")
(processor,) = tracing._tracer.span_processor._span_processors
ending = time.monotonic() + 1.5
while time.monotonic() < ending:
    for _ in range(1000):
        tracing.end(tracing.start(tracing.REQUEST, requests=500), accepted=500)
waiting = len(processor._batch_processor._queue)
tracing.shutdown(0.5)
print(waiting <= 256, len(lines) <= 2, tracing.on())
"""
    said = run(
        code,
        PUSHQ_TRACING="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=gone,
        OTEL_BSP_MAX_QUEUE_SIZE="256",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="128",
    )
    assert said == "True True False"


def test_the_standard_variables_are_followed() -> None:
    code = """
from pushq import tracing
from pushq.settings import load
tracing.configure(load(), "pushq-apns")
span = tracing.start(tracing.DELIVER, batch_no=1)
print(span.resource.attributes["service.name"], span.resource.attributes["team"]) if span.is_recording() else print("unsampled")
"""
    on = {"PUSHQ_TRACING": "true", "OTEL_RESOURCE_ATTRIBUTES": "team=growth"}
    assert run(code, **on) == "pushq-apns growth"
    assert run(code, **on, OTEL_SERVICE_NAME="mine") == "mine growth"
    assert run(code, **on, OTEL_TRACES_SAMPLER="always_off") == "unsampled"
    assert run(code, **on, OTEL_SDK_DISABLED="true") == "unsampled"


def test_an_unsampled_send_stays_unsampled() -> None:
    """The decision is made once, at the call, and travels."""
    code = """
from pushq import tracing
from pushq.settings import load
tracing.configure(load(), "pushq-apns")
span = tracing.start(tracing.DELIVER, parent={"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-00"})
print(span.is_recording(), tracing.carried_by(span)["traceparent"][:35], tracing.carried_by(span)["traceparent"][-2:])
"""
    assert run(code, PUSHQ_TRACING="true") == f"False 00-{'1' * 32} 00"


def test_a_summary_counts_and_names_nobody() -> None:
    burst = Burst(
        HeaderTemplate(b"/3/device/", ((b"apns-topic", b"x"),)),
        6,
        targets=[b"%d" % n for n in range(6)],
        bodies=b"{}",
    )
    burst.codes[:] = bytes([Code.OK, Code.OK, Code.ANSWERED, Code.NOT_SENT, Code.UNKNOWN, Code.IN_FLIGHT])
    burst.answers[2] = Answer(410, {}, b"{}")
    burst.queued_at, burst.first_written_at = 1.0, 1.25
    assert summary(burst) == {
        "accepted": 2,
        "refused": 1,
        "not_sent": 1,
        "unknown": 2,
        "status.410": 1,
        "queued_s": 0.25,
    }
