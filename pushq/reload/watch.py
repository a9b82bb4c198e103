"""Takes over a changed configuration while the worker runs, and keeps the old one where the new one is broken.

One greenlet looks at the files every few seconds; whoever meets a refused credential may ask for a look at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from pushq import metrics
from pushq.app_settings import AppSettings, load_apps
from pushq.errors import PushqError, SettingsError
from pushq.http2.greenlets import Task, Turn, pause
from pushq.reload.files import SHOWN, Stamp, digest, named_files, stamps

log = logging.getLogger("pushq.config")

#: A change counts when two looks this far apart see the same: nobody takes over a file that is still being written.
SETTLE_S: Final = 0.5
#: How often a configuration that cannot be used is complained of.
COMPLAIN_S: Final = 60.0


@dataclass(frozen=True)
class ConfigState:
    """What a worker runs with.

    Attributes:
        digest: of the configuration that is in use, shortened for people.
        failed: why the files as they are now cannot be used; empty where they can.
    """

    digest: str
    failed: str = ""


class _Found(NamedTuple):
    """What the files held, and how they looked before they were read: what changes meanwhile is seen by the next look."""

    apps: Mapping[str, AppSettings]
    digest: str
    seen: Mapping[Path, Stamp | None]


class ConfigWatch:
    """Follows one configuration file.

    Args:
        apps: what was loaded from it already.
        apply: makes the process use other apps, completely or, raising a PushqError or OSError, not at all.
        tell: is told the state after every look.
        interval_s: between two looks.
        settle_s: see :data:`SETTLE_S`.
    """

    def __init__(
        self,
        path: Path,
        apps: Mapping[str, AppSettings],
        apply: Callable[[Mapping[str, AppSettings]], None],
        *,
        interval_s: float,
        tell: Callable[[ConfigState], None] = lambda state: None,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._apply, self._tell = path, apply, tell
        self._interval, self._settle, self._clock = interval_s, settle_s, clock
        # Nothing: the first look reads it all again, for the file may have changed since the apps were loaded from it.
        self._seen: Mapping[Path, Stamp | None] = {}
        self._apps = apps
        self._digest = digest(path, apps)
        self._failed = ""
        self._complained_at = 0.0
        self._turn = Turn()
        self._closed = False
        self._task: Task | None = None
        metrics.config_reload_failed.set(0)

    @property
    def state(self) -> ConfigState:
        return ConfigState(self._digest[:SHOWN], self._failed)

    def start(self) -> None:
        """Look every ``interval_s`` from now on, in the background. A second call does nothing."""
        if self._task is None:
            self._task = Task(self._run)

    def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.kill()

    def look(self) -> bool:
        """Look at the files now. True if another configuration has been taken over by this look.

        Never raises for what the files hold: the old configuration stays, and the log and a metric say so.
        """
        with self._turn:
            # After a failure anything may mend it, also a file that only the new configuration names.
            if not self._failed and self._stamps(self._apps) == self._seen:
                return False
            try:
                found = self._settled()
                if found is None:
                    return False  # still being written: the next look decides
                changed = found.digest != self._digest or found.apps != self._apps
                if changed:
                    self._apply(found.apps)
                    self._apps, self._digest = found.apps, found.digest
            except (PushqError, OSError) as exc:
                self._fail(str(exc))
                return False
            except Exception as exc:  # noqa: BLE001 - logged with its traceback, but not at every look
                # Nobody foresaw what this file does to us (a certificate that the parser breaks down on): no less a failure.
                self._fail(f"{type(exc).__name__}: {exc}", unforeseen=exc)
                return False
            if self._failed:
                log.info("config_mended", extra={"file": str(self._path)})
            self._seen, self._failed = found.seen, ""
            metrics.config_reload_failed.set(0)
            if changed:
                metrics.config_reloads.inc()
                log.info("config_reloaded", extra={"file": str(self._path), "config": self._digest[:SHOWN]})
            return changed

    def _stamps(self, apps: Mapping[str, AppSettings]) -> dict[Path, Stamp | None]:
        return stamps([self._path, *named_files(apps).values()])

    def _settled(self) -> _Found | None:
        """What the files hold, if that has not changed for a moment; None if it has."""
        first = self._read()
        pause(self._settle)
        second = self._read()
        if first != second:
            return None
        if isinstance(second, str):
            raise SettingsError(second)
        return second

    def _read(self) -> _Found | str:
        """What the files hold, or why they cannot be used."""
        try:
            apps = load_apps(self._path)
            if not apps:
                return f"found no app in {str(self._path)!r}; expected a table such as [apps.shop.fcm]"
            seen = self._stamps(apps)
            return _Found(apps, digest(self._path, apps), seen)
        except (PushqError, OSError) as exc:
            return str(exc)

    def _fail(self, error: str, *, unforeseen: Exception | None = None) -> None:
        metrics.config_reload_failed.set(1)
        now = self._clock()
        if error != self._failed or now - self._complained_at >= COMPLAIN_S:
            self._complained_at = now
            log.error(
                "config_reload_failed",
                extra={"file": str(self._path), "error": error, "effect": "the old configuration stays"},
                exc_info=unforeseen,
            )
        self._failed = error

    def _run(self) -> None:
        while not self._closed:
            try:
                self.look()
                self._tell(self.state)
            except Exception:
                # The greenlet must outlive any single failure: without it no rotation is heard of.
                log.exception("config_not_watched", extra={"file": str(self._path)})
            pause(self._interval)
