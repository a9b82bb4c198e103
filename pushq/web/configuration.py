"""The apps of the configuration, followed while the process runs, as workers do (docs/apps.md): a broken file keeps the old ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from pushq.app_settings import load_apps
from pushq.errors import SettingsError
from pushq.web.state import WebState

log = logging.getLogger("pushq.web")


@asynccontextmanager
async def following(state: WebState, path: Path, every_s: float) -> AsyncIterator[None]:
    """Take over what stands in the file, looked at every so many seconds."""
    task = asyncio.create_task(_follow(state, path, every_s), name="pushq-configuration")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _follow(state: WebState, path: Path, every_s: float) -> None:
    told = ""
    while True:
        await asyncio.sleep(every_s)
        try:
            # The files are small, and tell nothing by their time that they do not tell by what is in them.
            apps = await asyncio.to_thread(load_apps, path)
        except (SettingsError, OSError) as error:
            if str(error) != told:
                log.error("apps_not_followed", extra={"error": str(error)})
            told = str(error)
            continue
        told = ""
        if apps != state.apps:
            state.apps = apps
            log.info("apps_followed", extra={"apps": sorted(apps)})
