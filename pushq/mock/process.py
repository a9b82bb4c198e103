"""A mock in a process of its own, for tests and demos. This module needs no gevent."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from pushq.errors import PushqError
from pushq.mock.settings import DEAD_PREFIX, EngineName

CONTROL_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.02
LOG_TAIL_BYTES = 4_000


class MockFailed(PushqError):
    """The mock did not start, ended by itself, or refused a control request."""


class MockProcess:
    """Mock providers while a ``with`` block runs. The process ends with its parent, however that ends.

    Args:
        folder: for credentials and configuration; kept afterwards. None makes a temporary one that is removed.
        faults: the fault table to start with (see ``pushq.mock.faults``).
        ports: fixed ports by name (``apns``, ``sandbox``, ``fcm``, ``hms``, ``oauth``, ``hms_oauth``, ``control``); others are free ones.

    Raises:
        MockFailed: it was not listening within ``start_timeout_s``; the message ends with what it logged.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        engine: EngineName = "fast",
        latency_ms: float = 0.0,
        latency_spread_ms: float = 0.0,
        dead_prefix: str = DEAD_PREFIX,
        apns_streams: int = 1000,
        fcm_streams: int = 100,
        oauth_lifetime_s: int = 3599,
        faults: Sequence[Mapping[str, Any]] = (),
        seed: int = 0,
        ports: Mapping[str, int] | None = None,
        start_timeout_s: float = 20.0,
    ) -> None:
        self._folder = folder
        self._faults = faults
        self._seed = seed
        self._start_timeout_s = start_timeout_s
        self._settings: dict[str, Any] = {
            "engine": engine,
            "latency_ms": latency_ms,
            "latency_spread_ms": latency_spread_ms,
            "dead_prefix": dead_prefix,
            "apns_streams": apns_streams,
            "fcm_streams": fcm_streams,
            "oauth_lifetime_s": oauth_lifetime_s,
            "seed": seed,
        } | {f"{name}_port": port for name, port in (ports or {}).items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: str | None = None
        self.ready: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def config_file(self) -> Path:
        """A ``pushq.toml`` with an app ``shop`` whose providers are this mock."""
        return Path(self.ready["config_file"])

    def start(self) -> None:
        if self._folder is None:
            self._temporary = tempfile.mkdtemp(prefix="pushq-mock-")
        folder = Path(self._temporary or self._folder or "").resolve()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ready_file, log_file = folder / "ready.json", folder / "mock.log"
        ready_file.unlink(missing_ok=True)
        settings = self._settings | {"folder": str(folder), "parent_pid": os.getpid()}
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pushq.mock", json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal goes to the whole group: the owner decides when the providers end.
                start_new_session=True,
            )
        try:
            self._await_ready(ready_file, log_file)
            if self._faults:
                self.set_faults(self._faults, self._seed)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Terminate it, after a while with force. Stopping twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def stats(self) -> dict[str, Any]:
        """All counts: ``["platforms"]["apns"]["accepted"]`` and so on, see docs/mock.md."""
        found: dict[str, Any] = json.loads(self._call("GET", "/stats"))
        return found

    def accepted(self, platform: str) -> dict[str, int]:
        """How often each token was accepted."""
        lines = (
            line.rsplit(" ", 1) for line in self._call("GET", f"/accepted/{platform}").decode().splitlines()
        )
        return {token: int(count) for token, count in lines}

    def requests(self, platform: str, last: int = 100) -> list[dict[str, Any]]:
        """The last requests with headers and body; strict engine only."""
        found: list[dict[str, Any]] = json.loads(self._call("GET", f"/requests/{platform}?last={last}"))
        return found

    def subscribed(self, topic: str) -> list[str]:
        """Tokens that are subscribed to a topic of FCM."""
        return self._call("GET", f"/topics/{topic}").decode().split()

    def set_faults(self, faults: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        """Replace the fault table; an empty list ends all faults."""
        self._call("POST", "/faults", {"faults": list(faults), "seed": seed})

    def set_latency(self, latency_ms: float, spread_ms: float = 0.0) -> None:
        self._call("POST", "/latency", {"latency_ms": latency_ms, "spread_ms": spread_ms})

    def expire_credentials(self, platform: str) -> None:
        """Every JWT (apns, hms) or access token (fcm, hms_oauth) issued so far is refused from now on."""
        self._call("POST", f"/expire/{platform}")

    def add_key(self, platform: str) -> dict[str, str]:
        """Make another key and accept it (apns, fcm): ``key_id``, and ``key_file`` or ``service_account_file``."""
        made: dict[str, str] = json.loads(self._call("POST", f"/keys/{platform}"))
        return made

    def revoke_key(self, platform: str, key_id: str) -> None:
        """What this key signs is refused from now on; access tokens that it brought are not (``expire_credentials``)."""
        self._call("DELETE", f"/keys/{platform}/{key_id}")

    def reset(self) -> None:
        """All counts to zero, no faults."""
        self._call("POST", "/reset")

    def _await_ready(self, ready_file: Path, log_file: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout_s
        while not ready_file.exists():
            code = self._process.poll()
            if code is not None:
                raise MockFailed(f"the mock ended with code {code} before it was ready:\n{_tail(log_file)}")
            if time.monotonic() > deadline:
                raise MockFailed(
                    f"the mock was not ready after {self._start_timeout_s:g} s:\n{_tail(log_file)}"
                )
            time.sleep(POLL_S)
        self.ready = json.loads(ready_file.read_text(encoding="utf-8"))

    def _call(self, method: str, path: str, document: Any = None) -> bytes:
        address = urlsplit(self.ready["control_url"])
        connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=CONTROL_TIMEOUT_S
        )
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            response = connection.getresponse()
            body = response.read()
        except OSError as error:
            raise MockFailed(f"the mock does not answer on {self.ready['control_url']}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise MockFailed(f"{method} {path}: {response.status} {body.decode('utf-8', 'replace').strip()}")
        return body


def _tail(path: Path) -> str:
    content = path.read_bytes()[-LOG_TAIL_BYTES:] if path.exists() else b""
    return content.decode("utf-8", "replace") or "(it logged nothing)"
