"""Transactional calls over HTTP at a steady rate: how long the answers take, and whether everybody is reached who was accepted.

    python -m benchmarks.web_load --rate 300 --seconds 60 --keep
    python -m benchmarks.web_load --write

`--keep` puts the figures into benchmarks/web_load.json, a run for each broker and rate, and `--write` those into RESULTS.md. Everything is private and on this machine: PostgreSQL, Redis, the mock providers with 80 ms latency, one core, one APNs and one FCM worker, and
one `pushq web`, behind which the workers stand back (`--nice`). The calls begin at their times whether or not earlier ones were answered, so that a slow answer shows as latency and not as a
lower rate. Every accepted send is looked for in the ledger and counted at the mock.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.machine import machine, versions
from benchmarks.results import replace_section
from pushq.database import Database
from pushq.demo.stack import Stack
from pushq.ledger.timings import transactional_ends
from pushq.loadtest import broadcast
from pushq.loadtest.processes import Watch
from pushq.loadtest.quantiles import summary
from pushq.service_urls import ServiceUrl

ROOT: Final = Path(__file__).resolve().parents[1]
JSON_FILE: Final = ROOT / "benchmarks" / "web_load.json"
RESULTS_FILE: Final = ROOT / "benchmarks" / "RESULTS.md"
PACKAGES: Final = ("pushq", "fastapi", "uvicorn", "httptools", "celery", "kombu", "redis", "gevent")
PLATFORMS = ("apns", "fcm")
ROLES: Final = ("web", "core", "apns", "fcm", "postgresql", "redis", "rabbitmq", "mock", "caller")
CONNECTIONS = 64
END_S = 60.0


class Door:
    """Kept connections to `pushq web`; each answers one request at a time."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._host, self._port, self._key = host, port, key
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection(self._host, self._port))

    async def close(self) -> None:
        while not self._free.empty():
            _, writer = self._free.get_nowait()
            writer.close()
            await writer.wait_closed()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        reader, writer = await self._free.get()
        try:
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Bearer {self._key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
        finally:
            self._free.put_nowait((reader, writer))


async def load(address: str, key: str, rate: float, seconds: float, users: int) -> dict[str, Any]:
    """Call; returns the latencies in seconds, the statuses and the users by send."""
    where = urlsplit(address)
    door = Door(where.hostname or "127.0.0.1", where.port or 80, key)
    await door.open()
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    called: dict[str, int] = {}
    choose = random.Random(1)

    async def call(number: int, due: float) -> None:
        user = choose.randint(1, users)
        body = {
            "user_ids": [user],
            "notification": {"title": "Your code", "body": f"{number:06d}"},
            "app": broadcast.APP,
        }
        status, answer = await door.post("/v1/notifications", json.dumps(body).encode())
        latencies.append(time.monotonic() - due)
        statuses[status] += 1
        if status == 202:
            called[json.loads(answer)["send_id"]] = user

    begin, running = time.monotonic(), set[asyncio.Task[None]]()
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(call(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.wait_for(asyncio.gather(*running), END_S)
    await door.close()
    return {"latencies": latencies, "statuses": statuses, "called": called}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    plan = broadcast.Plan(devices=options.devices, platforms=PLATFORMS, dead_ratio=0.0)
    settings = {"PUSHQ_LOG_LEVEL": "WARNING", "PUSHQ_WEB_KEY_RATE": "100000"}
    with Stack(workers=(), rabbitmq=options.broker == "rabbitmq", settings=settings) as stack:
        os.environ.update(stack.environment)
        database = Database(ServiceUrl(stack.environment["PUSHQ_DATABASE_URL"]), pool_size=2)
        users = broadcast._load(stack, plan, lambda text: print(text, file=sys.stderr, flush=True))
        for kind in ("core", *PLATFORMS):
            stack.fleet.spawn(kind, "--nice", str(options.nice))
        stack.fleet.await_ready()
        created = subprocess.run(
            [sys.executable, "-m", "pushq", "keys", "create", "load", "--scope", "send", "--json"],
            stdout=subprocess.PIPE,
            check=True,
            timeout=60,
        )
        made = json.loads(created.stdout)
        web = subprocess.Popen(
            [sys.executable, "-m", "pushq", "web", "--port", "0", "--json", "--parent-pid", str(os.getpid())],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a service of its own, as all others here; Linux shares processors between sessions
        )
        try:
            assert web.stdout is not None
            address = json.loads(web.stdout.readline())["address"]
            asyncio.run(
                load(address, made["key"], 20, 3, users)
            )  # code that is run for the first time is slow
            time.sleep(1)
            before = sum(sum(stack.mock.accepted(name).values()) for name in PLATFORMS)
            known = sum(map(len, transactional_ends(database)))
            watch = Watch({**stack.pids(), "web": web.pid, "caller": os.getpid()}, alone=("caller",))
            found = asyncio.run(load(address, made["key"], options.rate, options.seconds, users))
            accepted = len(found["called"])
            deadline = time.monotonic() + END_S
            while True:
                ended, failed = transactional_ends(database)
                if len(ended) + failed.total() - known >= accepted or time.monotonic() > deadline:
                    break
                time.sleep(0.5)
            watch.look()
            devices = Counter(one.user_id for one in broadcast.devices(plan))
            expected = sum(devices[user] for user in found["called"].values())
            reached = sum(sum(stack.mock.accepted(name).values()) for name in PLATFORMS) - before
            cpu = {name: one.cpu_s for name, one in watch.usage().items()}
            return {
                "rate": options.rate,
                "seconds": options.seconds,
                "broker": options.broker,
                "nice": options.nice,
                "statuses": dict(found["statuses"]),
                "answer_ms": {k: round(v * 1000, 1) for k, v in summary(found["latencies"]).items()},
                "settled_ms": {k: round(v * 1000, 1) for k, v in summary(ended[known:]).items()},
                "accepted": accepted,
                "ended": len(ended) + failed.total() - known,
                "devices_expected": expected,
                "devices_reached": reached,
                "cpu_s": cpu,
                "cpu_ms_per_call": round(sum(v or 0 for v in cpu.values()) / max(accepted, 1) * 1000, 2),
            }
        finally:
            web.terminate()
            web.wait(30)
            if web.stdout is not None:
                web.stdout.close()
            database.close()


def keep(report: dict[str, Any], load_before: float) -> None:
    """Put a run's figures into the file, in the place of an earlier one of its kind."""
    document = json.loads(JSON_FILE.read_text()) if JSON_FILE.exists() else {"runs": {}}
    document["machine"] = {key: value for key, value in machine().items() if key != "load_average"}
    document["versions"] = versions(PACKAGES)
    name = f"{report['broker']}, {report['rate']:g} a second" + (
        "" if report["nice"] else ", none stand back"
    )
    document["runs"][name] = {
        "day": dt.datetime.now(dt.UTC).date().isoformat(),
        "load_average_before": load_before,
        "report": report,
    }
    JSON_FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def markdown(document: Mapping[str, Any]) -> str:
    """The section of RESULTS.md."""
    here, runs = document["machine"], document["runs"]
    lines = [
        "## Calls over HTTP",
        "",
        f"- {here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB; {here['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in document["versions"].items()),
        "",
        "`POST /v1/notifications`, one user each, at a steady rate: PostgreSQL, the broker, the mock providers (80 ms), a core, an APNs and an FCM worker, `pushq web`",
        "and the caller share the two cores; the workers stand back behind the door (`--nice 10`) where nothing else is said. Milliseconds from when the call was due: to the answer 202, and to the settled outcome. Accepted ones are looked for in the",
        "ledger, their devices counted at the providers.",
        "",
        "| broker, rate | seconds | 202 | others | answer p50 | p95 | p99 | p99.9 | settled p50 | p99 | accepted and ended | devices reached | of | CPU ms a call | load before |",
        "|---|" + "---:|" * 14,
    ]
    for name, run in runs.items():
        report = run["report"]
        answer, settled = report["answer_ms"], report["settled_ms"]
        others = sum(report["statuses"].values()) - report["statuses"].get("202", 0)
        lines.append(
            f"| {name} | {report['seconds']:g} | {report['statuses'].get('202', 0):,} | {others} | {answer['p50']:.0f} | {answer['p95']:.0f} "
            f"| {answer['p99']:.0f} | {answer['p99.9']:.0f} | {settled['p50']:.0f} | {settled['p99']:.0f} | {report['ended']:,} "
            f"| {report['devices_reached']:,} | {report['devices_expected']:,} | {report['cpu_ms_per_call']:.1f} "
            f"| {run['load_average_before']:.1f} |"
        )
    lines += ["", "| CPU s | " + " | ".join(ROLES) + " |", "|---|" + "---:|" * len(ROLES)]
    for name, run in runs.items():
        cpu = run["report"]["cpu_s"]
        lines.append(
            f"| {name} | " + " | ".join(f"{cpu[role]:.1f}" if role in cpu else "" for role in ROLES) + " |"
        )
    lines += ["", "- `python -m benchmarks.web_load --rate RATE --seconds 60 --broker BROKER --keep`"]
    return "\n".join(lines)


def write() -> None:
    section = markdown(json.loads(JSON_FILE.read_text()))
    RESULTS_FILE.write_text(replace_section(RESULTS_FILE.read_text(), "web_load", section))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--devices", type=int, default=20_000)
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis")
    parser.add_argument(
        "--nice", type=int, default=10, help="How far the workers stand back behind the door; 0: not at all."
    )
    parser.add_argument("--keep", action="store_true", help="Keep the figures, too.")
    parser.add_argument(
        "--write", action="store_true", help="Measure nothing; write what was kept into RESULTS.md."
    )
    options = parser.parse_args()
    if options.write:
        write()
        return
    load_before = float(machine()["load_average"])
    report = json.loads(json.dumps(measure(options)))
    print(json.dumps(report, indent=2))
    if options.keep:
        keep(report, load_before)


if __name__ == "__main__":
    main()
