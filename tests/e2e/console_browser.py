"""A browser for the console: Debian's chromium through Playwright, and axe-core to judge what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect, sync_playwright

from tests.services.tools import find_chromium

#: For a page on a busy machine.
PATIENCE_MS = 30_000
WIDE, PHONE = (1280, 900), (390, 844)
Scheme = Literal["light", "dark"]


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=[
                "--no-sandbox",  # which needs another user than root, and the pages are our own
                "--disable-dev-shm-usage",  # containers have little of it
                "--disable-gpu",
                "--no-proxy-server",
            ],
        )
        try:
            yield opened
        finally:
            opened.close()


@dataclass
class Console:
    """The console as somebody sees it. What the browser complains of fails the test at its end."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Response:
        answer = self.page.goto(self.address + path)
        assert answer is not None
        return answer

    def sign_in(self, name: str, password: str) -> None:
        self.open("/login")
        self.page.get_by_label("User").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("heading", name="Sends")).to_be_visible()

    def accessible(self) -> None:
        """Fails with what axe finds, whatever its severity, and when the page is wider than the screen."""
        where = self.page.url.removeprefix(self.address)
        # Through the debugger: the page's own policy lets no script in that is not ours.
        self.page.evaluate(_axe())
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        told = [
            f"{where}: {each['impact']} {each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
            for each in found["violations"]
        ]
        assert not told, "\n".join(told)
        width = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], f"{where} is {width[0]} wide on a screen of {width[1]}"


@cache
def _axe() -> str:
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


@contextmanager
def console(
    opened: Browser,
    address: str,
    *,
    size: tuple[int, int] = WIDE,
    scheme: Scheme = "light",
    scripts: bool = True,
) -> Iterator[Console]:
    """A window of its own, without cookies."""
    context = opened.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        locale="en-GB",
        timezone_id="Europe/Berlin",
        reduced_motion="reduce",
        java_script_enabled=scripts,
    )
    try:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        made = Console(page, address)

        def listen(message: ConsoleMessage) -> None:
            # What is refused on purpose (422, 403) is in the browser's log as well.
            if message.type == "error" and "Failed to load resource" not in message.text:
                made.complaints.append(message.text)

        page.on("console", listen)
        page.on("pageerror", lambda error: made.complaints.append(str(error)))
        yield made
        assert not made.complaints, made.complaints
    finally:
        context.close()
