"""What a second worker process adds while a broadcast runs, when concurrency and not the CPU is the limit.

    python -m benchmarks.second_worker [--latency-ms 300] [--connections 8] [--seconds 10] [--rounds 3] [--json]

In each round one FCM worker delivers a broadcast; its rate is what the provider accepts over some seconds. Then a second worker is started,
as an operator would, and the rate is taken again once it delivers at full speed. Limit of one process: connections x 100 streams / latency.
The CPU's share is printed beside it: where it comes near all cores, the ratio says something about the machine, not about pushq.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.ground import Ground
from benchmarks.machine import machine
from pushq import control
from pushq.database import Database
from pushq.demo.fleet import Fleet
from pushq.embedded import Services
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.ledger.schema import upgrade
from pushq.mock import MockProcess
from pushq.service_urls import ServiceUrl

STREAMS = 100
#: Connections are opened one after the other, and the first batches are all leased at once: neither is the steady state.
SETTLE_S = 6.0
START_TIMEOUT_S = 90.0
#: A second worker counts as delivering when it holds this share of the connections that one process may have.
OPEN_SHARE = 0.9


@dataclass(frozen=True)
class Window:
    """Requests a second that the provider accepted, and the share of all cores that was busy, and that of each worker in cores."""

    rate: float
    machine_cpu: float
    workers_cpu: list[float]


@dataclass(frozen=True)
class Round:
    one: Window
    two: Window

    @property
    def ratio(self) -> float:
        return self.two.rate / self.one.rate


@contextmanager
def opened(latency_ms: float, connections: int, *, rabbitmq: bool) -> Iterator[Ground]:
    with ExitStack() as stack:
        services = stack.enter_context(Services())
        folder = services.folder / "pushq"
        folder.mkdir(mode=0o700)
        upgrade(ServiceUrl(services.database_url))
        mock = stack.enter_context(MockProcess(folder / "mock", latency_ms=latency_ms))
        environment = {**services.environment(), "PUSHQ_CONFIG": str(_limited(mock.config_file, connections))}
        if rabbitmq:
            broker = RabbitMqServer(services.sandbox)
            broker.start()
            environment["PUSHQ_BROKER_URL"] = broker.url()
        database = Database(ServiceUrl(services.database_url), pool_size=3, application_name="benchmark")
        stack.callback(database.close)
        fleet = stack.enter_context(Fleet(environment, folder, workers=("core", "fcm")))
        yield Ground(environment, mock, database, fleet)


def _limited(config: Path, connections: int) -> Path:
    """A copy of the apps' file in which a process may have so many connections to FCM."""
    head, table, rest = config.read_text().partition("[apps.shop.fcm]\n")
    limited = config.with_name("limited.toml")
    limited.write_text(
        f"{head}{table}max_connections = {connections}\n{re.sub(r'max_connections = .*', '', rest)}"
    )
    return limited


def measure(ground: Ground, names: list[str], seconds: float) -> Window:
    pids = ground.fleet.pids()
    processes = [psutil.Process(pids[name]) for name in names]
    for process in processes:
        process.cpu_percent()
    psutil.cpu_percent()
    before, started = _accepted(ground), time.monotonic()
    time.sleep(seconds)
    after, ended = _accepted(ground), time.monotonic()
    return Window(
        (after - before) / (ended - started),
        psutil.cpu_percent() / 100,
        [process.cpu_percent() / 100 for process in processes],
    )


def _accepted(ground: Ground) -> int:
    count: int = ground.mock.stats()["platforms"]["fcm"]["accepted"]
    return count


def _connections(ground: Ground) -> int:
    count: int = ground.mock.stats()["platforms"]["fcm"]["connections"]["open"]
    return count


def _until_open(ground: Ground, connections: float) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while _connections(ground) < connections:
        ground.fleet.check_alive()
        if time.monotonic() > deadline:
            raise SystemExit(f"{_connections(ground)} connections are open, expected {connections:g}")
        time.sleep(0.1)
    time.sleep(SETTLE_S)


def one_round(ground: Ground, connections: int, seconds: float) -> Round:
    send_id = ground.send("--platform", "fcm")
    _until_open(ground, OPEN_SHARE * connections)
    one = measure(ground, ["fcm"], seconds)
    ground.fleet.spawn("fcm", name="second")
    ground.fleet.await_ready()
    _until_open(ground, OPEN_SHARE * 2 * connections)
    two = measure(ground, ["fcm", "second"], seconds)
    state = ground.scalar("SELECT state FROM sends WHERE id = :id", id=send_id)
    if state not in {"planning", "sending"}:
        raise SystemExit(f"the send was {state} before the end of the measurement: more --devices")
    control.cancel(send_id, database=ground.database)
    ground.fleet.end("second")
    ground.finished(send_id, START_TIMEOUT_S)
    return Round(one, two)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency-ms", type=float, default=300.0)
    parser.add_argument("--connections", type=int, default=8, help="max_connections of one process")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rabbitmq", action="store_true", help="as the broker, in the place of Redis")
    parser.add_argument(
        "--devices",
        type=int,
        help="default: what twice the limit can do in the time of a round, and half as much again",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    limit = arguments.connections * STREAMS / (arguments.latency_ms / 1000)
    devices = arguments.devices or int(limit * 1.5 * (arguments.seconds * 3 + SETTLE_S * 3 + 20))
    ran_on = machine()
    with opened(arguments.latency_ms, arguments.connections, rabbitmq=arguments.rabbitmq) as ground:
        ground.add_devices("fcm", devices, first=1)
        rounds = []
        for number in range(arguments.rounds):
            rounds.append(one_round(ground, arguments.connections, arguments.seconds))
            if not arguments.json:
                one, two = rounds[-1].one, rounds[-1].two
                print(
                    f"round {number + 1}: one worker {one.rate:,.0f}/s, two {two.rate:,.0f}/s, ratio {rounds[-1].ratio:.2f}"
                    f"   (CPU of the machine {one.machine_cpu:.0%}, {two.machine_cpu:.0%};"
                    f" of the workers {one.workers_cpu[0]:.2f}, {' + '.join(f'{cpu:.2f}' for cpu in two.workers_cpu)} cores)"
                )
    ratio = statistics.median(each.ratio for each in rounds)
    if arguments.json:
        found = {
            "machine": ran_on,
            "broker": "rabbitmq" if arguments.rabbitmq else "redis",
            "latency_ms": arguments.latency_ms,
            "connections": arguments.connections,
            "limit_of_one_process": round(limit),
            "rounds": [asdict(each) | {"ratio": round(each.ratio, 3)} for each in rounds],
            "ratio": round(ratio, 3),
        }
        print(json.dumps(found))
        return
    print(
        f"median of {len(rounds)}: {ratio:.2f} times as fast with a second worker; limit of one process {limit:,.0f}/s"
    )
    print(f"{ran_on['cpu']}, {ran_on['cores']} cores, load average before {ran_on['load_average']}")


if __name__ == "__main__":
    main()
