"""A private folder for servers that must not outlive their owner.

The folder, and every server process in it, is gone

- when the sandbox is closed: at the end of the ``with`` block, after an exception, Ctrl-C or a signal that became one;
- when its owner dies without closing it (kill -9): a guardian process, started with the sandbox, sees it and cleans up;
- when the guardian was killed as well: the next sandbox that is opened beside it cleans up.

Layout: ``PARENT/sandbox-PID-RANDOM/owner.json`` says whose it is, with the start time, so that a reused pid is not taken for the
owner. A folder without that file is never removed: it is somebody else's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from pushq.embedded.account import server_account
from pushq.embedded.errors import EmbeddedError
from pushq.embedded.processes import servers_in, started, stop_servers_in

_log = logging.getLogger("pushq.embedded")

STOP_TIMEOUT_S: Final = 10.0
#: Longer than a sweep of several orphans takes, each with its own STOP_TIMEOUT_S.
_LOCK_TIMEOUT_S: Final = 60.0
_GUARDIAN_TIMEOUT_S: Final = 10.0
_OWNER_FILE: Final = "owner.json"
_PREFIX: Final = "sandbox-"


def default_parent() -> Path:
    """Where sandboxes are made by default: one folder per user below the system's temporary folder."""
    return Path(tempfile.gettempdir()).resolve() / f"pushq-{os.geteuid()}"


class Sandbox:
    """The folder and the processes in it. A context manager; :meth:`open` and :meth:`close` for owners with another life cycle.

    Args:
        parent: folder in which the private folder is made (created when missing); default :func:`default_parent`.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.parent = default_parent() if parent is None else parent.resolve()
        self.account = server_account()
        self._path: Path | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def path(self) -> Path:
        """The private folder, while the sandbox is open."""
        if self._path is None:
            raise EmbeddedError("The sandbox is not open.", "Use it as a context manager.")
        return self._path

    def open(self) -> None:
        """Clean up after dead owners, make the folder and start its guardian.

        Raises:
            EmbeddedError: the parent folder cannot be used.
        """
        _make_parent(self.parent, mode=0o700 if self.account is None else 0o711)
        if self.account is not None and not self.account.enters(self.parent):
            raise EmbeddedError(
                f"As root, servers run as the user {self.account.name}, who may not enter {self.parent}.",
                "Choose a folder that everybody may enter, such as one below /tmp, or run this as an ordinary user.",
            )
        # Under one lock, so that another sweep does not take the new folder for an empty, forgotten one.
        with _locked(self.parent):
            _sweep_locked(self.parent)
            self._path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=self.parent))
            owner = {"pid": os.getpid(), "started": started(os.getpid())}
            (self._path / _OWNER_FILE).write_text(json.dumps(owner))
        try:
            if self.account is not None:
                self._path.chmod(0o711)  # to be entered, not listed; what is inside is 0700 and the account's
            self._guardian = _start_guardian(self._path)
        except BaseException:
            self.close()
            raise

    def folder(self, name: str) -> Path:
        """Make a folder inside, readable by the servers' account only."""
        path = self.path / name
        path.mkdir(mode=0o700)
        if self.account is not None:
            self.account.give(path)
        return path

    def file(self, path: Path, text: str) -> Path:
        """Write a file, readable by the servers' account only: it may hold a password."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        if self.account is not None:
            self.account.give(path)
        return path

    def spawn(
        self, arguments: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a server; its output is appended to ``log``. One of its arguments must name a path in the folder.

        It gets a session of its own: the terminal's Ctrl-C is for the owner, who then stops it in order.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=server_environment() if environment is None else environment,
                start_new_session=True,
                **(self.account.popen() if self.account is not None else {}),
            )
        self._processes.append(process)
        return process

    def run(
        self, arguments: Sequence[str | Path], *, cwd: Path, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end under the servers' account, with its output (and errors in it) captured.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``timeout`` seconds and was killed.
        """
        return subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=server_environment(),
            timeout=timeout,
            check=False,
            **(self.account.popen() if self.account is not None else {}),
        )

    def close(self) -> None:
        """Stop the servers, remove the folder, dismiss the guardian. May be called again."""
        if self._path is not None:
            remove(self._path)
            self._path = None
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        self._processes.clear()
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            try:
                self._guardian.wait(timeout=_GUARDIAN_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._guardian.kill()
                self._guardian.wait()
            self._guardian = None

    def __enter__(self) -> Sandbox:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sweep(parent: Path | None = None) -> list[Path]:
    """Remove the sandboxes of dead owners in ``parent``, with their servers; return their folders."""
    parent = default_parent() if parent is None else parent.resolve()
    if not parent.is_dir():
        return []
    with _locked(parent):
        return _sweep_locked(parent)


def remove(path: Path) -> None:
    """Stop the servers of the sandbox at ``path`` and remove it."""
    stubborn = stop_servers_in(path, STOP_TIMEOUT_S)
    if stubborn:
        _log.warning("embedded_not_stopped", extra={"folder": str(path), "pids": stubborn})
    # The owner file goes last: whoever is interrupted here leaves a folder that the next sweep still knows.
    for _ in range(
        2
    ):  # a server that is killed in the middle of writing may add a file while its folder is being removed
        for child in _children(path):
            if child.name != _OWNER_FILE:
                shutil.rmtree(child, ignore_errors=True)
    (path / _OWNER_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def server_environment() -> dict[str, str]:
    """What a server inherits: the search paths and the temporary folder. Not our settings, nor PGHOST and the like."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TZ")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def owner_lives(path: Path) -> bool | None:
    """Whether the process that opened the sandbox at ``path`` still runs; None when ``path`` is no sandbox (any more)."""
    try:
        owner = json.loads((path / _OWNER_FILE).read_text())
        pid, start = int(owner["pid"]), str(owner["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return started(pid) == start


def _children(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except FileNotFoundError:
        return []


def _sweep_locked(parent: Path) -> list[Path]:
    removed = []
    for path in _children(parent):
        if not path.name.startswith(_PREFIX) or path.is_symlink() or not path.is_dir():
            continue
        lives = owner_lives(path)
        if lives is None:
            # Its owner died before it wrote its name. rmdir refuses a folder that holds anything.
            with contextlib.suppress(OSError):
                path.rmdir()
        elif not lives:
            pids = [pid for pid, _ in servers_in(path)]
            _log.info("embedded_orphan_removed", extra={"folder": str(path), "pids": pids})
            remove(path)
            removed.append(path)
    return removed


def _make_parent(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as exc:
        raise EmbeddedError(
            f"The folder {path} cannot be made ({exc.strerror}).", "Choose another folder."
        ) from exc
    if path != default_parent():
        return
    # The default lies in a folder that everybody may write to: somebody else may have made ours first.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise EmbeddedError(f"{path} is not a folder of ours.", "Remove it, or choose another folder.")
    if stat.S_IMODE(status.st_mode) != mode:
        path.chmod(mode)


@contextlib.contextmanager
def _locked(parent: Path) -> Iterator[None]:
    with (parent / ".lock").open("a") as file:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise EmbeddedError(
                        f"Another process has held {parent}/.lock for {_LOCK_TIMEOUT_S:.0f} seconds.",
                        "Look for a hanging pushq process, or choose another folder.",
                    ) from None
                time.sleep(0.05)
        yield  # closing the file gives the lock back


def _start_guardian(path: Path) -> subprocess.Popen[bytes]:
    # Its standard input is a pipe whose other end dies with us.
    package_parent = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "pushq.embedded.guardian", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": search},
        start_new_session=True,
    )
