"""What every client sends and reports, so that only the client differs."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pushq.bench.memory import peak_rss_mb
from pushq.bench.message import DEFAULT_HEADERS, MIN_BODY_BYTES, shared_body

PATH_PREFIX = "/3/device/"
HEADERS = DEFAULT_HEADERS


@dataclass(frozen=True)
class Load:
    """What to send where."""

    url: str
    cafile: Path
    requests: int
    connections: int
    body_bytes: int
    key_file: Path | None

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 443

    @property
    def body(self) -> bytes:
        return shared_body(self.body_bytes)

    def tokens(self) -> Iterator[str]:
        """64 hex digits, another for each request, made when asked for."""
        head = hashlib.sha256(b"peers").hexdigest()[:56]
        return (f"{head}{number:08x}" for number in range(self.requests))

    def shares(self) -> list[int]:
        """The requests of each connection."""
        each, more = divmod(self.requests, self.connections)
        return [each + (number < more) for number in range(self.connections)]


class Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def report(self, requests: int, ok: int) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {
            "requests": requests,
            "ok": ok,
            "failed": requests - ok,
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "per_second": requests / wall,
            "per_cpu_second": requests / cpu,
            "peak_rss_mb": peak_rss_mb(),
        }


def main(run: Callable[[Load], dict[str, float]], description: str | None) -> None:
    """Parse the command line, run, and print one JSON object."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", required=True, help="https://HOST:PORT")
    parser.add_argument("--cafile", type=Path, required=True, help="PEM file of the authority to trust")
    parser.add_argument("--requests", type=_positive, default=2000)
    parser.add_argument("--connections", type=_positive, default=1)
    parser.add_argument("--body-bytes", type=_positive, default=150)
    parser.add_argument("--key-file", type=Path, help="an APNs key, for aioapns")
    options = parser.parse_args()
    if options.body_bytes < MIN_BODY_BYTES:
        parser.error(f"--body-bytes: found {options.body_bytes}; expected {MIN_BODY_BYTES} or more")
    print(json.dumps(run(Load(**vars(options)))))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected a whole number of at least 1")
    return value
