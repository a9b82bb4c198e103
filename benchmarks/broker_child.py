"""What consume_rate.py starts as processes of their own: a pushq worker that knows one more task, and a publisher of orders.

The worker is the command ``pushq worker core`` itself, with its settings and its options; only the task that does nothing is
added, and, to show the trap of Celery's default, its heartbeat.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

TASK = "benchmark.noop"
#: What Celery sets when nobody says otherwise.
DEFAULT_HEARTBEAT_S = 120


def serve(messages: int, report: Path, ready: Path, *, heartbeat: bool) -> None:
    """Run the worker; write ``report`` when ``messages`` of the task have run, and go on until SIGTERM."""
    from gevent import monkey  # noqa: PLC0415

    # As pushq.cli does for `worker`: before anything that opens a socket is imported.
    monkey.patch_all()
    from pushq.app import app  # noqa: PLC0415
    from pushq.cli import main  # noqa: PLC0415

    count, first, cpu = 0, 0.0, 0.0

    def noop() -> None:
        nonlocal count, first, cpu
        count += 1
        if count == 1:
            first, cpu = time.perf_counter(), time.process_time()
        if count == messages:
            seconds, used = time.perf_counter() - first, time.process_time() - cpu
            draft = report.with_suffix(".draft")
            draft.write_text(json.dumps({"seconds": seconds, "cpu_seconds": used}))
            draft.replace(report)  # appears complete

    app.task(name=TASK)(noop)
    if heartbeat:
        app.conf.broker_heartbeat = DEFAULT_HEARTBEAT_S
    sys.argv = ["pushq", "worker", "core", "--ready-file", str(ready)]
    main()


def publish_orders(orders: int, report: Path) -> None:
    """Publish ``orders`` of delivery with the function that the workers use; write how long it took."""
    import uuid  # noqa: PLC0415

    import pushq.tasks  # noqa: F401, PLC0415 - registers the tasks
    from pushq.ledger.orders import DeliverBatch  # noqa: PLC0415
    from pushq.tasks.publish import publish  # noqa: PLC0415

    send = uuid.uuid4()
    # The first ones connect and declare the queue.
    publish(DeliverBatch(send, batch_no, "apns", False) for batch_no in range(10))
    started = time.perf_counter()
    published = publish(DeliverBatch(send, batch_no, "apns", False) for batch_no in range(orders))
    seconds = time.perf_counter() - started
    report.write_text(json.dumps({"seconds": seconds, "published": published}))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("serve", "publish"))
    parser.add_argument("messages", type=int)
    parser.add_argument("report", type=Path)
    parser.add_argument("--ready", type=Path)
    parser.add_argument("--heartbeat", action="store_true")
    options: Any = parser.parse_args(arguments)
    if options.mode == "serve":
        serve(options.messages, options.report, options.ready, heartbeat=options.heartbeat)
    else:
        publish_orders(options.messages, options.report)


if __name__ == "__main__":
    main()
