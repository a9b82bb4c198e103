"""How many tasks one `pushq worker` process takes off the broker a second, on RabbitMQ and on Redis.

Example: .venv/bin/python -m benchmarks.consume_rate --broker rabbitmq --rounds 1 --json

Starts private servers, publishes messages of a task that does nothing, then starts `pushq worker core` with the project's own
settings and measures in the worker, from the first execution to the last:

    quiet    without events (PUSHQ_EVENTS unset)
    events   with the events that Flower needs (PUSHQ_EVENTS=true)
    flower   the same, and Flower itself runs beside it and reads them
    trap     RabbitMQ only: as `events`, but with Celery's default heartbeat, to show what the project's settings are for

Printed are tasks/s of wall time (the median of the rounds) and per CPU second of the worker; on a busy machine the second is the
steadier one. Then, how fast pushq publishes orders for delivery, with the broker confirming each. Exit code 1 when `flower` or
`events` is not above 500 tasks/s on RabbitMQ or 300 on Redis.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from celery import Celery

from benchmarks.broker_child import TASK
from pushq.app import MAINTENANCE, configuration
from pushq.embedded import Services
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.sandbox import Sandbox
from pushq.embedded.server import free_port
from pushq.ledger import schema
from pushq.settings import load

ROOT: Final = Path(__file__).resolve().parents[1]
BROKERS: Final = ("rabbitmq", "redis")
MODES: Final = ("quiet", "events", "flower", "trap")
#: Tasks a second that one process must exceed with events on.
WANTED: Final = {"rabbitmq": 500, "redis": 300}
#: The trap takes about ten a second, after a first handful.
TRAP_MESSAGES: Final = 120
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.02
LOG_TAIL_BYTES: Final = 3000


class RunFailed(Exception):
    """A process ended early or took too long; the message ends with what it logged."""


@dataclass(frozen=True)
class Bench:
    """Where one broker is measured.

    Attributes:
        environment: the PUSHQ_ variables.
        folder: for logs and reports.
        limit_s: seconds that one round may take to drain.
    """

    broker: str
    environment: Mapping[str, str]
    folder: Path
    limit_s: float

    def consume(self, mode: str, messages: int) -> dict[str, float]:
        environment = {**self.environment, "PUSHQ_EVENTS": "false" if mode == "quiet" else "true"}
        with ExitStack() as stack:
            if mode == "flower":
                stack.enter_context(self._flower(environment))
            self._fill(environment, messages)
            report, ready = self._fresh("report.json"), self._fresh("ready")
            arguments = ["serve", str(messages), str(report), "--ready", str(ready)]
            arguments += ["--heartbeat"] if mode == "trap" else []
            module = ["-m", "benchmarks.broker_child", *arguments]
            worker = stack.enter_context(self._process("worker", module, environment))
            self._await("worker", worker, ready.exists, START_TIMEOUT_S)
            self._await("worker", worker, report.exists, self.limit_s)
            found: dict[str, float] = json.loads(report.read_text())
        gaps = messages - 1
        return {"per_second": gaps / found["seconds"], "per_cpu_second": gaps / found["cpu_seconds"]}

    def publish(self, orders: int) -> float:
        """Orders a second, confirmed."""
        report = self._fresh("published.json")
        module = ["-m", "benchmarks.broker_child", "publish", str(orders), str(report)]
        with self._process("publisher", module, self.environment) as process:
            self._await("publisher", process, lambda: process.poll() == 0, self.limit_s)
        found = json.loads(report.read_text())
        if found["published"] != orders:
            raise RunFailed(
                f"{found['published']} of {orders} orders were published:\n{self._tail('publisher')}"
            )
        return float(orders / found["seconds"])

    def _fill(self, environment: Mapping[str, str], messages: int) -> None:
        """Publish without waiting for confirmations: how they got there is not what is measured."""
        app = Celery("benchmark", set_as_current=False)
        app.conf.update(configuration(load(environment)))
        if self.broker == "rabbitmq":
            app.conf.broker_transport_options = {
                **app.conf.broker_transport_options,
                "confirm_publish": False,
            }
        try:
            with app.producer_pool.acquire(block=True, timeout=10) as producer:
                for _ in range(messages):
                    app.send_task(TASK, queue=MAINTENANCE, producer=producer)
        finally:
            app.close()

    @contextmanager
    def _flower(self, environment: Mapping[str, str]) -> Iterator[None]:
        port = free_port()
        module = ["-m", "celery", "-A", "pushq.app", "flower", "--address=127.0.0.1", f"--port={port}"]
        with self._process("flower", module, {**environment, "FLOWER_UNAUTHENTICATED_API": "true"}) as flower:

            def answers() -> bool:
                try:
                    # Also makes Flower connect to the broker, if it has not yet.
                    url = f"http://127.0.0.1:{port}/api/workers"
                    return httpx.get(url, timeout=5.0, trust_env=False).status_code == 200
                except httpx.HTTPError:
                    return False

            self._await("flower", flower, answers, START_TIMEOUT_S)
            yield

    @contextmanager
    def _process(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PUSHQ_")}
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=inherited | dict(environment),
                cwd=ROOT,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await(
        self, name: str, process: subprocess.Popen[bytes], done: Callable[[], bool], seconds: float
    ) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            code = process.poll()
            if code is not None and not done():
                raise RunFailed(f"{self.broker}: {name} ended with code {code}:\n{self._tail(name)}")
            if time.monotonic() > deadline:
                raise RunFailed(f"{self.broker}: {name} took more than {seconds:g} s:\n{self._tail(name)}")
            time.sleep(POLL_S)

    def _fresh(self, name: str) -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        return path

    def _tail(self, name: str) -> str:
        content = (self.folder / f"{name}.log").read_bytes()[-LOG_TAIL_BYTES:]
        return content.decode(errors="replace") or "(it logged nothing)"


@contextmanager
def benches(brokers: Sequence[str], limit_s: float) -> Iterator[list[Bench]]:
    """Servers for the block, and one bench for each broker."""
    with ExitStack() as stack:
        services = stack.enter_context(Services())
        rabbitmq: RabbitMqServer | None = None
        if "rabbitmq" in brokers:
            rabbitmq = RabbitMqServer(stack.enter_context(Sandbox()))
            rabbitmq.start()
        schema.upgrade(services.database_url)
        found = []
        for broker in brokers:
            folder = services.folder / f"benchmark-{broker}"
            folder.mkdir(mode=0o700)
            key = folder / "unused.json"
            key.write_text("{}")
            config = folder / "pushq.toml"
            # A worker wants an app; core never opens its key.
            config.write_text(
                f'[apps.bench.fcm]\nproject_id = "benchmark"\nservice_account_file = "{key.name}"\n'
            )
            environment = {
                **services.environment(),
                "PUSHQ_CONFIG": str(config),
                "PUSHQ_LOG_LEVEL": "WARNING",
            }
            if broker == "rabbitmq" and rabbitmq is not None:
                vhost = f"benchmark-{secrets.token_hex(4)}"
                rabbitmq.add_vhost(vhost)
                environment["PUSHQ_BROKER_URL"] = rabbitmq.url(vhost)
            found.append(Bench(broker, environment, folder, limit_s))
        yield found


def measure(options: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """Run all rounds. Returns the figures by broker and mode."""
    result: dict[str, Any] = {"messages": options.messages, "rounds": options.rounds, "brokers": {}}
    with benches(options.broker or BROKERS, options.limit) as every:
        for bench in every:
            rates: dict[str, list[dict[str, float]]] = {}
            modes = [
                mode for mode in options.mode or MODES if not (mode == "trap" and bench.broker == "redis")
            ]
            for number in range(options.rounds):
                for mode in modes:
                    if mode == "trap" and number:
                        continue  # it is slow, and once is enough to see the factor
                    found = bench.consume(mode, TRAP_MESSAGES if mode == "trap" else options.messages)
                    rates.setdefault(mode, []).append(found)
                    say(f"{bench.broker:9} {mode:7} round {number + 1}: {found['per_second']:7.0f} tasks/s")
            published = [bench.publish(options.orders) for _ in range(options.rounds)]
            result["brokers"][bench.broker] = {
                "consume": {mode: _median(values) for mode, values in rates.items()},
                "publish_per_second": round(statistics.median(published), 1),
            }
    return result


def _median(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {
        "per_second": round(statistics.median(one["per_second"] for one in rounds), 1),
        "per_cpu_second": round(statistics.median(one["per_cpu_second"] for one in rounds), 1),
        "rounds": [round(one["per_second"], 1) for one in rounds],
    }


def failures(result: Mapping[str, Any]) -> list[str]:
    """One line for each rate that is not above what is wanted."""
    return [
        f"{broker} {mode}: {figures['consume'][mode]['per_second']:.0f} tasks/s, wanted more than {WANTED[broker]}"
        for broker, figures in result["brokers"].items()
        for mode in ("events", "flower")
        if mode in figures["consume"] and figures["consume"][mode]["per_second"] <= WANTED[broker]
    ]


def table(result: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'broker':9} {'mode':7} {'tasks/s':>9} {'per CPU s':>10}  times the trap"]
    for broker, figures in result["brokers"].items():
        consume = figures["consume"]
        trap = consume.get("trap", {}).get("per_second")
        for mode, found in consume.items():
            ratio = f"{found['per_second'] / trap:.0f}" if trap and mode != "trap" else ""
            lines.append(
                f"{broker:9} {mode:7} {found['per_second']:9.0f} {found['per_cpu_second']:10.0f}  {ratio}"
            )
    lines += [
        f"{broker:9} orders published and confirmed: {figures['publish_per_second']:.0f}/s"
        for broker, figures in result["brokers"].items()
    ]
    return "\n".join(lines)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected a whole number of at least 1")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=positive, default=3000, help="for one round (default: 3000)")
    parser.add_argument("--rounds", type=positive, default=3, help="of which the median counts (default: 3)")
    parser.add_argument("--orders", type=positive, default=500, help="published in one round (default: 500)")
    parser.add_argument("--broker", action="append", choices=BROKERS, help="only this one; may be repeated")
    parser.add_argument("--mode", action="append", choices=MODES, help="only this one; may be repeated")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one round (default: 120)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    options = parser.parse_args()
    try:
        result = measure(options, lambda line: print(line, file=sys.stderr, flush=True))
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result) if options.json else table(result))
    missed = failures(result)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
