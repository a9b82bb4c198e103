"""Flower in a browser, started as in docker-compose.yml: it wants the password, and shows the workers and what they have done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from pushq.demo.fleet import WORKERS
from pushq.embedded.server import free_port
from tests.deployment import compose_processes
from tests.e2e.flower_process import flower_process
from tests.e2e.world import World, open_world
from tests.services.tools import find_chromedriver, find_chromium

USER, PASSWORD = "operator", "open-sesame"
#: For a page to load and for Flower's numbers to arrive: events are seen by a process of their own.
SHOWN_TIMEOUT_S = 60.0
PLATFORMS = ("apns", "fcm")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def world(database: str, redis_url: str, rabbitmq_url: str, tmp_path: Path) -> Iterator[World]:
    # Without beat nobody sweeps, so that what was sent is all that the workers did.
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_url,
        broker_url=rabbitmq_url,
        beat=False,
        settings={"PUSHQ_EVENTS": "true", "PUSHQ_BATCH_SIZE": "25"},
    ) as opened:
        yield opened


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = find_chromium()
    for argument in (
        "--headless=new",
        "--no-sandbox",  # which needs another user than root, and the pages are our own
        "--disable-dev-shm-usage",  # containers have little of it
        "--disable-gpu",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'browser'}",
    ):
        options.add_argument(argument)
    service = Service(find_chromedriver(), port=free_port(), log_output=str(tmp_path / "chromedriver.log"))
    driver = Chrome(options=options, service=service)
    driver.set_page_load_timeout(SHOWN_TIMEOUT_S)
    try:
        yield driver
    finally:
        driver.quit()


class Pages:
    """Flower's pages, as somebody sees them who types this name and password."""

    def __init__(self, browser: Chrome, url: str, account: str = "") -> None:
        self._browser = browser
        self._url = url.replace("//", f"//{account}@") if account else url

    def open(self, path: str) -> None:
        self._browser.get(f"{self._url}{path}")

    def text(self) -> str:
        return str(self._browser.execute_script("return document.body.innerText"))

    def table(self, name: str) -> list[dict[str, str]]:
        """What is to be read in a table, by its headings. Read at one go: the page draws its tables anew now and then."""
        read = """
            const cells = (row) => Array.from(row.cells, (cell) => cell.innerText.trim());
            return Array.from(document.getElementById(arguments[0]).rows, cells)
        """
        columns, *rows = self._browser.execute_script(read, name)
        headings = [column.capitalize() for column in columns]  # the style sheet may have them in capitals
        return [dict(zip(headings, row, strict=True)) for row in rows if len(row) == len(headings)]

    def figure(self, name: str) -> str:
        return str(
            self._browser.execute_script("return document.getElementById(arguments[0]).innerText", name)
        )

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SHOWN_TIMEOUT_S
        while not what():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.2)


def test_flower_behind_its_password_shows_the_workers_and_counts_their_tasks(
    world: World, browser: Chrome
) -> None:
    assert world.fleet is not None
    names = {kind: f"{kind}-{world.fleet.pids()[kind]}@{os.uname().nodename}" for kind in WORKERS}
    world.import_devices(400)
    (service,) = [process for process in compose_processes() if process.name == "flower"]
    account = {"FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}"}
    with flower_process(world, service.command, account) as flower:
        for stranger in (Pages(browser, flower.url), Pages(browser, flower.url, f"{USER}:guessed")):
            stranger.open("/workers")
            assert "Worker" not in stranger.text()
            assert not any(name in browser.page_source for name in names.values())

        pages = Pages(browser, flower.url, f"{USER}:{PASSWORD}")
        pages.open("/workers")
        # Flower knows a worker from its first event, a heartbeat: seconds.
        pages.until(lambda: pages.figure("workers-online") == str(len(names)))

        done = world.finished(world.send("--segment", "all"))
        batches = {platform: done.platforms[platform]["batches"] for platform in PLATFORMS}
        assert min(batches.values()) > 1

        def shown() -> dict[str, dict[str, str]]:
            # The page sets the first letter apart.
            rows = {"".join(row["Worker"].split()): row for row in pages.table("workers-table")}
            return {kind: rows[name] for kind, name in names.items() if name in rows}

        def counted(kind: str, column: str) -> int:
            return int(shown().get(kind, {}).get(column, "-1").replace(",", ""))

        # A batch is a task, and without a fault it is one once.
        pages.until(
            lambda: all(counted(platform, "Succeeded") == batches[platform] for platform in PLATFORMS)
        )
        for platform in PLATFORMS:
            assert (counted(platform, "Processed"), counted(platform, "Failed")) == (batches[platform], 0)
        # Comes with the next heartbeats.
        pages.until(lambda: all(counted(kind, "Active") == 0 for kind in WORKERS))
        assert {row["Status"] for row in shown().values()} == {"Online"}
        total = sum(counted(kind, "Succeeded") for kind in WORKERS)
        pages.until(lambda: pages.figure("workers-succeeded").replace(",", "") == str(total))

        pages.open("/tasks")
        pages.until(lambda: f"of {total:,} tasks" in pages.text())
        password = urlsplit(world.environment["PUSHQ_BROKER_URL"]).password
        assert password is not None
        assert password not in browser.page_source
        pages.open("/broker")
        assert password not in browser.page_source
