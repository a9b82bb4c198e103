"""Takes the pictures of the console in docs/img: ``python scripts/console_screenshots.py LINK [FOLDER]``.

LINK is the one that ``pushq demo --keep`` prints; it is used up. Needs the extra dev and Debian's chromium. A message is sent in the demo
on the way, slowly, to be seen at it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.services.tools import find_chromium  # noqa: E402

WIDE, PHONE = (1360, 860), (390, 844)
PATIENCE_MS = 60_000
TITLE, TEXT = (
    "Autumn sale: 20% off",
    "Everything in the shop, until Sunday. Your size is still here, {first_name|friend}.",
)


def main(arguments: list[str]) -> int:
    """Take all of them."""
    if len(arguments) not in (1, 2):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    link = arguments[0]
    folder = Path(arguments[1]) if len(arguments) == 2 else ROOT / "docs" / "img"
    parts = urlsplit(link)
    address = f"{parts.scheme}://{parts.netloc}"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"],
        )
        first = _window(browser, WIDE, "light")
        page = first.new_page()
        page.goto(link)
        state = first.storage_state()
        send = _broadcast(page, address, folder)
        _still(page, address, send, folder, "")
        dark = _window(browser, WIDE, "dark", state=state).new_page()
        dark.goto(address + send)
        _take(dark, folder, "console-send-dark")
        phone = _window(browser, PHONE, "dark", state=state).new_page()
        for name, path in (("sends", "/console/"), ("send", send), ("compose", "/console/compose")):
            phone.goto(address + path)
            phone.wait_for_timeout(1500)
            _take(phone, folder, f"console-phone-{name}")
        browser.close()
    return 0


def _window(browser: Browser, size: tuple[int, int], scheme: str, *, state: object = None) -> BrowserContext:
    return browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        locale="en-GB",
        timezone_id="Europe/Berlin",
        storage_state=state,  # type: ignore[arg-type]
    )


def _broadcast(page: Page, address: str, folder: Path) -> str:
    """Write a message, send it slowly, and take pictures on the way. Returns the path of its page."""
    page.goto(f"{address}/console/compose")
    page.get_by_label("Title").fill(TITLE)
    page.get_by_label("Text", exact=True).fill(TEXT)
    page.get_by_label("Opens").fill("shop://sale/autumn")
    expect(page.locator(".note-title strong").first).to_have_text(TITLE)
    expect(page.locator(".count-line strong")).to_be_visible()
    _take(page, folder, "console-compose")
    page.get_by_text("Speed and delivery").click()
    page.get_by_label("Requests a second at most").fill("1500")
    page.get_by_role("button", name="Review").click()
    page.get_by_role("button", name="Let the providers check it").click()
    expect(page.locator(".findings")).to_be_visible()
    _take(page, folder, "console-review")
    page.get_by_role("button", name="Send to").click()
    expect(page.get_by_role("heading", name=TITLE)).to_be_visible()
    # The page's own policy lets nobody evaluate texts, so it is asked again and again.
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while int(page.get_by_role("progressbar").get_attribute("aria-valuenow") or 0) < 35:
        if time.monotonic() > deadline:
            raise TimeoutError(page.inner_text("main"))
        page.wait_for_timeout(100)
    page.mouse.move(0, 0)
    _take(page, folder, "console-send")
    send = urlsplit(page.url).path
    page.goto(f"{address}/console/queues")
    page.wait_for_timeout(3000)
    _take(page, folder, "console-queues")
    page.goto(f"{address}/console/")
    page.wait_for_timeout(1500)
    _take(page, folder, "console-sends")
    return send


def _still(page: Page, address: str, send: str, folder: Path, suffix: str) -> None:
    """Pages that nothing happens on."""
    for name, path in (
        ("dead-letters", "/console/dead-letters?span=hour"),
        ("devices", "/console/devices?user=21"),
        ("credentials", "/console/credentials"),
    ):
        page.goto(address + path)
        page.wait_for_timeout(500)
        _take(page, folder, f"console-{name}{suffix}")


def _take(page: Page, folder: Path, name: str) -> None:
    page.screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
