"""How well a fleet keeps to its limit: several processes, one bucket in Redis, counted by who receives.

Example: .venv/bin/python -m benchmarks.fleet_rate --per-minute 60000 --seconds 80

Each process asks its gate as delivery does: several batches at once, up to 500 requests per question, waiting as long as it is told; one
lane of each process asks for single transactional sends. What is granted is spent after a random time of up to what the arithmetic
allows (pushq/limits/bucket.py), and every spending is a message to this process, which notes when it comes. Then the number of
requests in every window of 60 s is counted. Exit code 1 when any window holds more than the limit, or the mean rate is not within 2 % of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import selectors
import socket
import struct
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Final

from pushq.app_settings import AppSettings, FcmSettings
from pushq.embedded.redis import RedisServer
from pushq.embedded.sandbox import Sandbox
from pushq.limits.bucket import WAY_S, WINDOW_S
from pushq.limits.gate import FleetGate
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl

APP: Final = "shop"
CHUNK: Final = 500
BATCHES: Final = 4
WANTED_ERROR: Final = 0.02
MESSAGE: Final = struct.Struct("!I")


def gate(redis_url: str, per_minute: int, folder: Path) -> FleetGate:
    secret = folder / "secret"
    secret.touch()
    settings = FcmSettings(
        project_id="pushq-demo", service_account_file=secret, rate_per_minute=per_minute, ramp_up_s=0
    )
    client = open_redis(ServiceUrl(redis_url), connect_timeout=0.3, command_timeout=0.3)
    return FleetGate({APP: AppSettings(fcm=settings)}, client)


def spend(out: socket.socket, redis_url: str, per_minute: int, seconds: float, folder: str) -> None:
    """One process of the fleet."""
    shared = gate(redis_url, per_minute, Path(folder))
    end = time.monotonic() + seconds

    def lane(transactional: bool) -> None:
        chance = random.Random()
        send_id = uuid.uuid4()
        while (now := time.monotonic()) < end:
            want = 1 if transactional else CHUNK
            grant = shared.ask(APP, "fcm", transactional=transactional, send_id=send_id, rate=None, want=want)
            if grant.permits:
                time.sleep(chance.uniform(0, WAY_S))
                out.sendall(MESSAGE.pack(grant.permits))
                if transactional:
                    time.sleep(0.05)
            else:
                time.sleep(min(grant.wait_s, max(end - now, 0.001)))

    lanes = [threading.Thread(target=lane, args=(number == 0,), daemon=True) for number in range(BATCHES + 1)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join(seconds + 10)
    out.close()


def receive(sockets: list[socket.socket], deadline: float) -> list[tuple[float, int]]:
    """Everything that the fleet spends: (when it came, requests)."""
    received: list[tuple[float, int]] = []
    rest = dict.fromkeys(sockets, b"")
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1.0):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                data, now = one.recv(65536), time.monotonic()
                if not data:
                    selector.unregister(one)
                    continue
                data = rest[one] + data
                whole = len(data) - len(data) % MESSAGE.size
                received += [(now, permits) for (permits,) in MESSAGE.iter_unpack(data[:whole])]
                rest[one] = data[whole:]
    return received


def windows(received: list[tuple[float, int]]) -> list[int]:
    """Requests in each window of 60 s that ends with a message, as far as the run covers it whole."""
    counts, within, first = [], 0, 0
    for at, permits in received:
        within += permits
        while received[first][0] < at - WINDOW_S:
            within -= received[first][1]
            first += 1
        if at - received[0][0] >= WINDOW_S:
            counts.append(within)
    return counts


def measure(processes: int, per_minute: int, seconds: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with Sandbox() as sandbox, tempfile.TemporaryDirectory() as folder:
        server = RedisServer(sandbox, append_only=False)
        server.start()
        pairs = [socket.socketpair() for _ in range(processes)]
        fleet = [
            context.Process(
                target=spend, args=(theirs, server.url(0), per_minute, seconds, folder), daemon=True
            )
            for _, theirs in pairs
        ]
        for process in fleet:
            process.start()
        for _, theirs in pairs:
            theirs.close()
        received = receive([ours for ours, _ in pairs], time.monotonic() + seconds + 60)
        for process in fleet:
            process.join(10)
        for ours, _ in pairs:
            ours.close()
        with server.client() as client:
            calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    spent = sum(permits for _, permits in received)
    took = received[-1][0] - received[0][0]
    counted = windows(received)
    return {
        "processes": processes,
        "limit_per_minute": per_minute,
        "seconds": round(took, 1),
        "requests": spent,
        "mean_error": round(spent / (per_minute / WINDOW_S * took) - 1, 5),
        "windows": len(counted),
        "busiest_window_over_limit": round(max(counted) / per_minute, 5),
        "idlest_window_over_limit": round(min(counted) / per_minute, 5),
        "redis_calls_per_s": round(calls / took, 1),
        "load_average": os.getloadavg()[0],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--per-minute", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=80.0, help="more than 60")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if not 61 <= options.seconds <= 3600 or not 1 <= options.processes <= 64:
        parser.error("--seconds is from 61 to 3600, --processes from 1 to 64")
    found = measure(options.processes, options.per_minute, options.seconds)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<28}{value}")
    kept = found["busiest_window_over_limit"] <= 1 and abs(found["mean_error"]) <= WANTED_ERROR
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
