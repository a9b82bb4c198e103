"""Flower as a process, with words of one of the deployment files, on a port of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from pushq.embedded.server import free_port
from tests.e2e.world import World, shell_environment

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class FlowerProcess:
    """``url`` has no slash at its end."""

    url: str
    log: Path


@contextmanager
def flower_process(
    world: World, command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[FlowerProcess]:
    """Run it until the end of the block; on entering it answers."""
    port = free_port()
    program, *arguments = command
    log = world.folder / "flower.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name(program),
                *(re.sub(r"--port=\d+", f"--port={port}", a) for a in arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**shell_environment(), **world.environment, **environment},
            cwd=world.folder,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield FlowerProcess(url, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthcheck", timeout=15.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
