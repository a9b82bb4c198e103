"""A private nginx in a folder of its own, for as long as a block runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from benchmarks.affinity import pinned
from pushq.embedded.server import free_port
from pushq.mock.credentials import Credentials, make_credentials

_TEMPLATE: Final = Path(__file__).with_name("nginx.conf.template")
_START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 5.0
#: It ends by itself after this, should the benchmark be killed.
_LIFE_S: Final = 1800
#: Where Debian's package puts it is not on everybody's PATH.
_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))


class NginxFailed(Exception):
    """nginx is not installed or did not start; the message says which, with what it logged."""


@dataclass(frozen=True)
class Nginx:
    """A running server: ``url`` without a path, ``credentials`` with the ``ca_file`` that its certificate is verified with."""

    url: str
    credentials: Credentials


def find_nginx() -> str:
    """The program. Raises NginxFailed when there is none."""
    program = shutil.which("nginx", path=_PATH)
    if program is None:
        raise NginxFailed("nginx is not installed (Debian, Ubuntu: apt-get install nginx)")
    return program


def version() -> str:
    """Such as ``nginx/1.22.1``."""
    done = subprocess.run(
        [find_nginx(), "-v"], capture_output=True, text=True, timeout=_START_TIMEOUT_S, check=True
    )
    return done.stderr.strip().partition(": ")[2]


@contextmanager
def nginx(folder: Path, cores: Set[int]) -> Iterator[Nginx]:
    """Run one worker process on these cores (empty: anywhere)."""
    program = find_nginx()
    credentials = make_credentials(folder / "credentials")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        Template(_TEMPLATE.read_text()).substitute(
            folder=folder,
            port=port,
            certificate=credentials.certificate_file,
            key=credentials.certificate_key_file,
        )
    )
    log = folder / "error.log"
    arguments = [program, "-p", str(folder), "-c", str(config), "-e", str(log)]
    bounded = shutil.which("timeout")
    if bounded is not None:
        arguments = [bounded, str(_LIFE_S), *arguments]
    with pinned(cores):
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    try:
        _await(process, port, log)
        yield Nginx(f"https://localhost:{port}", credentials)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    logged = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise NginxFailed(f"nginx did not start within {_START_TIMEOUT_S:g} s: {logged or 'it logged nothing'}")
