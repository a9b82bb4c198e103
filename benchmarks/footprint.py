"""What a device, a batch and a process cost: bytes in PostgreSQL and Redis, connections, memory, and CPU time by process.

    python -m benchmarks.footprint [--devices 400000] [--rabbitmq] [--json]

All of it is counted, not timed: a busy machine makes the CPU times somewhat longer and changes nothing else. docs/scaling.md reckons
with these figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil
import redis

from benchmarks.ground import Ground
from benchmarks.machine import machine
from pushq.database import Database
from pushq.demo.stack import Stack
from pushq.service_urls import ServiceUrl
from tests.chaos.crew import clean_environment

TIMEOUT_S = 900.0
SAMPLE_EVERY_S = 0.25
#: One device in so many has a dead token.
DEAD = 50

Figures = dict[str, float]


def table_bytes(ground: Ground, table: str) -> int:
    """A table with its partitions, indexes and TOAST."""
    size = ground.scalar(
        "SELECT pg_total_relation_size(CAST(:table AS regclass)) + coalesce((SELECT sum(pg_total_relation_size(relid))"
        " FROM pg_partition_tree(CAST(:table AS regclass)) WHERE relid <> CAST(:table AS regclass)), 0)::bigint",
        table=table,
    )
    return int(size)


def cpu_seconds(pids: Mapping[str, int]) -> Figures:
    """Of each process with its children: PostgreSQL's backends are such."""
    found = {}
    for name, pid in pids.items():
        seconds = 0.0
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system
        found[name] = seconds
    return found


@contextmanager
def highest(ground: Ground, memory: redis.Redis) -> Iterator[Figures]:
    """The most of each thing that there was at some moment of the block."""
    urls = {name: urlsplit(ground.environment[f"PUSHQ_{name.upper()}_URL"]) for name in ("database", "redis")}
    ports = {name: url.port or 0 for name, url in urls.items()}
    found: Figures = {}
    over = threading.Event()

    def note(name: str, value: float) -> None:
        found[name] = max(found.get(name, 0), value)

    def watch() -> None:
        while not over.wait(SAMPLE_EVERY_S):
            note("redis_mb", memory.info("memory")["used_memory"] / 1e6)
            for name, pid in ground.fleet.pids().items():
                process = psutil.Process(pid)
                note(f"{name}_memory_mb", process.memory_info().rss / 1e6)
                remote = [
                    each.raddr[1] for each in process.net_connections(kind="tcp") if len(each.raddr) == 2
                ]
                for server, port in ports.items():
                    note(f"{name}_connections_{server}", remote.count(port))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def count(ground: Ground, stack: Stack, devices: int) -> dict[str, Figures]:
    memory = redis.Redis.from_url(ground.environment["PUSHQ_REDIS_URL"])
    empty = table_bytes(ground, "device_tokens")
    dead = devices // DEAD
    half = devices // 2
    for platform, first in (("apns", 1), ("fcm", half + 1)):
        ground.add_devices(platform, half - dead // 2, first=first)
        ground.add_devices(platform, dead // 2, first=first + half - dead // 2, dead=True)
    stored: Figures = {"device_bytes_postgresql": (table_bytes(ground, "device_tokens") - empty) / devices}
    before = memory.info("memory")["used_memory"]
    subprocess.run(
        [sys.executable, "-m", "pushq", "cache", "warm"],
        env=clean_environment() | ground.environment,
        stdout=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=True,
    )
    cached = memory.info("memory")["used_memory"]
    stored["device_bytes_redis"] = (cached - before) / devices

    tables = ("send_batches", "dead_letters")
    sizes = {table: table_bytes(ground, table) for table in tables}
    cpu = cpu_seconds(stack.pids())
    with highest(ground, memory) as most:
        send = ground.finished(ground.send(), TIMEOUT_S)
    spent = {name: seconds - cpu[name] for name, seconds in cpu_seconds(stack.pids()).items()}
    batches = sum(platform["batches"] for platform in send.platforms.values())
    letters = ground.scalar("SELECT count(*) FROM dead_letters WHERE send_id = :id", id=send.id)
    stored["recipient_bytes_postgresql"] = (
        table_bytes(ground, "send_batches") - sizes["send_batches"]
    ) / devices
    stored["dead_letter_bytes_postgresql"] = (
        table_bytes(ground, "dead_letters") - sizes["dead_letters"]
    ) / letters
    stored["batches"] = batches
    most["redis_mb_beside_the_cache"] = most.pop("redis_mb") - cached / 1e6
    memory.close()
    return {
        "stored": {name: round(value, 1) for name, value in stored.items()},
        "most_at_a_time": {name: round(value, 1) for name, value in sorted(most.items())},
        "cpu_seconds_per_million": {name: round(value / devices * 1e6, 1) for name, value in spent.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--devices", type=int, default=400_000, help="half of them APNs, half FCM, one in 50 dead"
    )
    parser.add_argument("--rabbitmq", action="store_true", help="as the broker, in the place of Redis")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ran_on = machine()
    with Stack(rabbitmq=arguments.rabbitmq) as stack:
        database = Database(
            ServiceUrl(stack.environment["PUSHQ_DATABASE_URL"]), pool_size=3, application_name="benchmark"
        )
        try:
            found = count(
                Ground(stack.environment, stack.mock, database, stack.fleet), stack, arguments.devices
            )
        finally:
            database.close()
    if arguments.json:
        broker = "rabbitmq" if arguments.rabbitmq else "redis"
        print(json.dumps({"machine": ran_on, "broker": broker, "devices": arguments.devices, **found}))
        return
    for title, figures in found.items():
        print(title)
        for name, value in figures.items():
            print(f"  {name:36} {value:>12,.1f}")
    print(f"{ran_on['cpu']}, {ran_on['cores']} cores, load average before {ran_on['load_average']}")


if __name__ == "__main__":
    main()
