"""One look at everything that could leak: processes, greenlets, connections, leases, keys, rows and messages.

A look is a flat mapping from a series' name (``memory_mb.core``) to its value, so that looks can be laid beside each other.
"""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import redis
from prometheus_client.parser import text_string_to_metric_families

from pushq.database import Database
from pushq.demo.stack import Stack
from pushq.ledger import inventory
from pushq.ledger.timings import database_bytes
from pushq.loadtest.processes import Watch, children, family_of, resident_mb

Look = dict[str, float]

TIMEOUT_S: Final = 10.0
_PROC: Final = Path("/proc")
_SCAN: Final = 5000
#: What differs from key to key: numbers and random names.
_VARIES: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}|\d+")
#: Gauges of a worker, and the name of each as a series, with the labels that are kept apart.
_GAUGES: Final[Mapping[str, tuple[str, str | None]]] = {
    "pushq_greenlets": ("greenlets", None),
    "pushq_http2_connections": ("connections", "state"),
    "pushq_http2_streams": ("streams", "kind"),
    "pushq_http2_queued": ("queued", None),
    "pushq_messages_held": ("held_messages", None),
}


class Census:
    """Looks at a running stack.

    Args:
        ports: where workers serve their metrics, by name.
        alone: names whose descendants are not theirs.
    """

    def __init__(
        self, stack: Stack, database: Database, ports: Mapping[str, int], pids: Mapping[str, int], alone: str
    ) -> None:
        self._stack, self._database, self._ports = stack, database, dict(ports)
        self._pids, self._alone = dict(pids), alone
        self._watch = Watch(pids, alone=(alone,))
        self.failed: Counter[str] = Counter()
        """Looks at one part that did not come about, by part: what it would have told is missing from that look."""

    def look(self) -> Look:
        """Everything, once. Takes some tenths of a second.

        Raises:
            MockFailed, ServiceUnavailable, RedisError: a part does not answer that everything depends on.
        """
        found = self._processes() | {f"sum.cpu_s.{name}": used for name, used in self.cpu_s().items()}
        for name, port in self._ports.items():
            try:
                found |= worker_gauges(name, _page(port))
            except OSError:
                self.failed[f"metrics of {name}"] += 1
        found |= self._providers()
        found |= self._ledger()
        for place, variable in (("redis", "PUSHQ_REDIS_URL"), ("broker", "PUSHQ_BROKER_URL")):
            url = self._stack.environment[variable]
            if url.startswith("redis"):
                found |= keys(url, place)
        if self._stack.rabbitmq is not None:
            found |= self._rabbitmq()
        return found

    def cpu_s(self) -> dict[str, float]:
        """By process, with all that it started, since the census was made."""
        self._watch.look(memory=False)
        return {name: usage.cpu_s or 0.0 for name, usage in self._watch.usage().items()}

    def _processes(self) -> Look:
        found: Look = {}
        below = children()
        for name, root in self._pids.items():
            family = [root] if name == self._alone else family_of(root, below)
            sizes = [resident_mb(pid) for pid in family]
            found[f"memory_mb.{name}"] = round(sum(size.proportional for size in sizes), 2)
            found[f"largest_mb.{name}"] = round(max(size.whole for size in sizes), 2)
            found[f"own_mb.{name}"] = round(sum(size.anonymous for size in sizes), 2)
            found[f"processes.{name}"] = len(family)
            found[f"threads.{name}"] = sum(map(_threads, family))
            files, sockets = map(sum, zip(*map(_open_files, family), strict=True))
            found[f"files.{name}"], found[f"sockets.{name}"] = files, sockets
        return found

    def _providers(self) -> Look:
        stats = self._stack.mock.stats()["platforms"]
        found: Look = {}
        for name, each in stats.items():
            found[f"provider_connections.{name}"] = each["connections"]["open"]
            found[f"sum.accepted.{name}"] = each["accepted"]
        return found

    def _ledger(self) -> Look:
        found: Look = {f"rows.{table}": count for table, count in inventory.rows(self._database).items()}
        work = inventory.open_work(self._database)
        found |= {f"open.{name}": value for name, value in work._asdict().items()}
        found["database_mb"] = round(database_bytes(self._database) / 2**20, 2)
        found["database_connections"] = inventory.server_connections(self._database)
        return found

    def _rabbitmq(self) -> Look:
        server = self._stack.rabbitmq
        assert server is not None
        queues = server.api("GET", "/queues")
        return {
            "broker.queues": len(queues),
            "broker.messages": sum(queue.get("messages", 0) for queue in queues),
            "broker.connections": len(server.api("GET", "/connections")),
            "broker.channels": len(server.api("GET", "/channels")),
        }


def worker_gauges(name: str, page: str) -> Look:
    """What a worker says of itself, as series; a gauge of several pools is their sum."""
    found: Look = {}
    for family in text_string_to_metric_families(page):
        if family.name not in _GAUGES:
            continue
        series, label = _GAUGES[family.name]
        for sample in family.samples:
            key = f"{series}.{name}" if label is None else f"{series}.{sample.labels[label]}.{name}"
            found[key] = found.get(key, 0.0) + sample.value
    return found


def keys(url: str, place: str) -> Look:
    """Keys of one database of Redis by what they are called, and the entries of those that are lists, hashes and sets."""
    found: Counter[str] = Counter()
    counts = {b"list": "LLEN", b"hash": "HLEN", b"set": "SCARD", b"zset": "ZCARD"}
    with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S) as client:
        for kind, command in counts.items():
            for key in client.scan_iter(count=_SCAN, _type=kind.decode()):
                name = called(key)
                found[f"{place}_entries.{name}"] += int(client.execute_command(command, key))
        for key in client.scan_iter(count=_SCAN):
            found[f"{place}_keys.{called(key)}"] += 1
    return {name: float(value) for name, value in found.items()}


def called(key: bytes) -> str:
    """The name of a key without what makes it one of many."""
    return _VARIES.sub("*", key.decode(errors="replace"))


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as answer:
        page: bytes = answer.read()
    return page.decode()


def _threads(pid: int) -> int:
    with suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("Threads:"):
                return int(line.split()[1])
    return 0


def _open_files(pid: int) -> tuple[int, int]:
    """Files and sockets; none of a process that has ended or belongs to somebody else."""
    files = sockets = 0
    with suppress(OSError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if str(entry.readlink()).startswith("socket:"):
                    sockets += 1
                else:
                    files += 1
    return files, sockets
