"""The console in a browser: a whole broadcast, every page for everybody's eyes and hands, and what it keeps from whom."""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from pushq.access import audit, users
from pushq.access.local import local
from pushq.audience import segments
from pushq.demo.stack import Stack
from tests.e2e.console_browser import PHONE, WIDE, Scheme, browser, console
from tests.e2e.world import World
from tests.integration.web_process import Web, open_web

PASSWORD = "correct horse battery staple"
pytestmark = pytest.mark.timeout(400)


@dataclass
class Place:
    """A pushq with a console, and a browser before it."""

    world: World
    web: Web
    browser: Browser

    def user(self, name: str, *scopes: str, apps: list[str] | None = None) -> None:
        users.create(
            self.world.database, local(), name=name, password=PASSWORD, scopes=scopes or ("admin",), apps=apps
        )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def place(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for all tests here: what takes long is to start it. The first test finds all tokens alive that are ever dead."""
    folder = tmp_path_factory.mktemp("console")
    with (
        Stack(
            latency_ms=20,
            workers=("core", "apns", "fcm"),
            settings={"PUSHQ_BATCH_SIZE": "10", "PUSHQ_SWEEP_SECONDS": "1"},
        ) as stack,
        open_web(stack.environment, folder) as web,
    ):
        world = World(stack.environment, folder, stack.mock, web.database, stack.fleet)
        world.import_devices(400, 0.03)
        segments.create(world.database, "shop", "german", filter={"language": ["de"]})
        yield Place(world, web, chromium)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def moves(world: World, send_id: uuid.UUID) -> bool:
    """Whether more recipients are settled after a while than before."""
    before = world.until(send_id, lambda _: True).settled
    time.sleep(1.5)
    return world.until(send_id, lambda _: True).settled > before


def share(page: Page) -> int:
    return int(page.get_by_role("progressbar").get_attribute("aria-valuenow") or 0)


def test_a_whole_broadcast_from_writing_it_to_its_dead_letters(place: Place) -> None:
    place.user("ada")
    before = place.world.provider_counts()
    with console(place.browser, place.web.address) as shown:
        page = shown.page
        shown.sign_in("ada", PASSWORD)
        page.get_by_role("link", name="New message").click()

        # Written, it is seen at once on each platform, with the request to the byte, and the audience is counted.
        page.get_by_label("Title").fill("Harvest sale")
        page.get_by_label("Text", exact=True).fill("Pears for {who|everybody}")
        titles = page.locator(".note-title strong")
        expect(titles).to_have_text(["Harvest sale"] * 3)
        expect(page.locator(".note-body").first).to_have_text("Pears for everybody")
        page.get_by_text("The exact request").first.click()
        expect(page.get_by_label("Body of the request").first).to_contain_text('"title": "Harvest sale"')
        expect(page.locator(".headers").first).to_contain_text("***")
        expect(page.locator(".count-line strong")).to_have_text("400")

        page.get_by_text("Speed and delivery").click()
        page.get_by_label("Requests a second at most").fill("10")
        page.get_by_role("button", name="Review").click()
        expect(page.locator(".huge")).to_contain_text("400")
        page.get_by_role("button", name="Send to 400 devices").click()

        # It moves while somebody looks, without a click.
        expect(page.get_by_role("heading", name="Harvest sale")).to_be_visible()
        send_id = uuid.UUID(page.url.rpartition("/")[2].partition("?")[0])
        until(lambda: share(page) > 0)
        first = share(page)
        until(lambda: share(page) > first)
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("button", name="Resume")).to_be_visible()
        expect(page.locator(".lead .badge")).to_have_text("Paused")
        # What was in flight has been finished: nothing moves any more.
        until(lambda: not moves(place.world, send_id))
        assert share(page) < 100

        page.get_by_role("button", name="Resume").click()
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        page.get_by_role("button", name="Speed").click()
        expect(page.get_by_label("Requests a second, all workers together")).to_have_value("10")
        page.get_by_label("Requests a second, all workers together").fill("")
        page.get_by_role("button", name="Change the speed").click()
        expect(page.locator(".lead .badge")).to_have_text("Done")
        expect(page.get_by_role("progressbar")).to_contain_text("400 of 400 settled")

        # Counted where it arrives: everybody once.
        place.world.finished(send_id)
        for platform, tokens in place.world.provider_counts().items():
            told = Counter(tokens) - Counter(before[platform])
            assert told == dict.fromkeys(place.world.alive(platform), 1)

        page.reload()
        page.get_by_role("link", name="All dead letters of this send").click()
        expect(page.locator("main")).to_contain_text("12 in all")
        expect(page.get_by_role("link", name="Unregistered", exact=True)).to_be_visible()
        expect(page.get_by_role("link", name="UNREGISTERED", exact=True)).to_be_visible()
        page.get_by_text("Show as a table").click()
        expect(page.get_by_role("region", name="Dead letters over time, as a table")).to_be_visible()

        # Whose device it was.
        page.locator("main table").last.get_by_role("link").first.click()
        expect(page.locator(".device .badge").first).to_be_visible()
        page.get_by_role("link", name="Queues").click()
        expect(page.get_by_text("same as here").first).to_be_visible()

    rows = audit.read(place.world.database, object_id=str(send_id))
    assert [row.action for row in reversed(rows)] == ["send.create", "send.pause", "send.resume", "send.rate"]
    assert {(row.actor_kind, row.actor, row.app) for row in rows} == {("user", "ada", "shop")}


PAGES = (
    "/console/",
    "/console/compose",
    "/console/dead-letters?span=hour",
    "/console/devices?user=1",
    "/console/queues",
    "/console/credentials",
    "/console/access",
)


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")], ids=["wide", "phone"])
def test_every_page_is_for_everybody(place: Place, size: tuple[int, int], scheme: Scheme) -> None:
    send_id = place.world.send("--segment", "all", "--body", "Pears")
    place.world.finished(send_id)
    place.user(f"eve-{scheme}")
    place.web.key("send")
    with console(place.browser, place.web.address, size=size, scheme=scheme) as shown:
        shown.open("/login")
        shown.accessible()
        shown.sign_in(f"eve-{scheme}", PASSWORD)
        # All of them where there is the least room; in the other colours those that have all there is of charts and fields.
        for path in (*(PAGES if size == PHONE else PAGES[:2]), f"/console/sends/{send_id}"):
            assert shown.open(path).ok, path
            for summary in shown.page.locator("summary").all():
                summary.click()
            shown.accessible()
        page = shown.page
        if size == PHONE:
            page.get_by_role("button", name="Menu").click()
            expect(page.get_by_role("link", name="Queues")).to_be_visible()
            shown.accessible()
        shown.open("/console/compose")
        page.get_by_label("Title").fill("Sale")
        expect(page.locator(".note-title strong").first).to_have_text("Sale")
        page.get_by_role("radio", name="Segments").check()
        page.get_by_role("checkbox", name="german").first.check()
        page.get_by_role("radio", name="Later").check()
        page.get_by_role("button", name="Review").click()
        expect(page.get_by_role("alert")).to_contain_text("a day and a time")
        shown.accessible()
        page.get_by_label("Not before").fill("2037-01-31T18:00")
        page.get_by_role("button", name="Review").click()
        expect(page.get_by_text("31 Jan 2037, 18:00")).to_be_visible()
        page.get_by_role("button", name="Let the providers check it").click()
        expect(page.locator(".findings")).to_contain_text("variants taken")
        shown.accessible()


def test_a_message_is_sent_with_the_keyboard_alone(place: Place) -> None:
    place.user("kim")
    with console(place.browser, place.web.address) as shown:
        page = shown.page
        shown.open("/login")
        page.keyboard.type("kim")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Sends")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        go_to(page, page.get_by_role("link", name="New message"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="New message")).to_be_visible()
        go_to(page, page.get_by_label("Title"))
        page.keyboard.type("By hand")
        # From a field of one line Enter goes on, as everywhere.
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Review before it goes out")).to_be_visible()
        go_to(page, page.get_by_role("button", name="Send to"))
        page.keyboard.press("Enter")
        expect(page.locator(".lead .badge")).to_have_text("Done")


def test_without_scripts_a_message_can_be_sent_and_held(place: Place) -> None:
    place.user("lynx")
    with console(place.browser, place.web.address, size=PHONE, scripts=False) as shown:
        page = shown.page
        shown.sign_in("lynx", PASSWORD)
        page.get_by_role("link", name="New message").click()
        page.get_by_label("Title").fill("Plain")
        page.get_by_role("radio", name="Later").check()
        page.get_by_label("Not before").fill("2037-01-31T18:00")
        page.get_by_role("button", name="Review").click()
        expect(page.locator(".note-title strong").first).to_have_text("Plain")
        expect(page.get_by_text("2037-01-31 18:00 UTC")).to_be_visible()
        page.get_by_role("button", name="Schedule for").click()
        page.wait_for_url(re.compile("/console/sends/"))
        send_id = uuid.UUID(page.url.rpartition("/")[2].partition("?")[0])
        place.world.until(send_id, lambda state: state.state == "scheduled")
        page.reload()
        page.get_by_role("button", name="Cancel the send").click()
        expect(page.locator(".lead .badge")).to_have_text("Cancelled")


def go_to(page: Page, target: Locator) -> None:
    """Press Tab until it has the focus."""
    for _ in range(60):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not lead to {target}")


def test_somebody_sees_and_does_only_what_is_granted(place: Place) -> None:
    send_id = place.world.send("--segment", "german")
    place.world.finished(send_id)
    place.user("reader", "sends:read")
    place.user("stranger", "sends:read", "sends:control", "send", apps=["other"])
    with console(place.browser, place.web.address) as shown:
        page = shown.page
        # Whoever is not signed in is led to the login, and from there to where they wanted.
        shown.open(f"/console/sends/{send_id}")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.get_by_label("User").fill("reader")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator(".lead .badge")).to_have_text("Done")
        assert page.url.endswith(str(send_id))
        for name in ("New message", "Devices", "Access", "Send again"):
            expect(page.get_by_role("link", name=name)).to_have_count(0)
            expect(page.get_by_role("button", name=name)).to_have_count(0)
        for path in ("/console/compose", "/console/devices?user=1", "/console/access"):
            assert shown.open(path).status == 403
            expect(page.get_by_role("heading", name="Not allowed")).to_be_visible()
    with console(place.browser, place.web.address) as shown:
        shown.sign_in("stranger", PASSWORD)
        expect(shown.page.get_by_text("Nothing has been sent yet")).to_be_visible()
        assert shown.open(f"/console/sends/{send_id}").status == 403
        assert shown.open("/console/compose").status == 403
        assert shown.open(f"/console/sends/{uuid.uuid4()}").status == 404
        assert shown.open("/console/dead-letters?span=aeon").status == 422
        assert shown.open("/console/nowhere").status == 404
        expect(shown.page.get_by_role("heading", name="There is nothing here")).to_be_visible()
        shown.open("/console/")
        shown.page.get_by_role("button", name="Sign out").click()
        expect(shown.page.get_by_role("heading", name="Sign in")).to_be_visible()
        shown.open("/console/")
        expect(shown.page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_what_is_wrong_is_said_at_its_field_and_nothing_written_is_lost(place: Place) -> None:
    place.user("max")
    hostile = "<script>document.title='taken'</script>{{7*7}}'\";--"
    with console(place.browser, place.web.address) as shown:
        page = shown.page
        shown.sign_in("max", PASSWORD)
        shown.open("/console/compose")
        page.get_by_label("Title").fill(hostile)
        page.get_by_label("Opens").fill("no link")
        expect(page.locator(".quiet-alert")).to_contain_text("link")
        page.get_by_role("button", name="Review").click()
        expect(page.locator("#link-fault")).to_contain_text("a link with its scheme")
        expect(page.get_by_label("Title")).to_have_value(hostile)
        page.get_by_label("Opens").fill("shop://sale")
        expect(page.locator(".note-title strong").first).to_have_text(
            hostile.replace("{{", "{").replace("}}", "}")
        )
        # A test goes to one user at once and leaves the form as it is.
        page.get_by_label("Your own user id, for a test").fill("999999")
        page.get_by_role("button", name="Send a test").click()
        expect(page.locator('[data-fill="test"]')).to_contain_text("no active device")
        page.get_by_label("Your own user id, for a test").fill("3")
        page.get_by_role("button", name="Send a test").click()
        page.get_by_role("link", name="see how it went").click()
        expect(page.get_by_role("heading", name=hostile)).to_be_visible()
        expect(page.locator(".lead .badge")).to_have_text("Done")
        assert page.title().startswith(hostile)
        page.get_by_role("link", name="Sends", exact=True).first.click()
        page.get_by_role("link", name="To single users").click()
        expect(page.get_by_role("link", name=hostile)).to_be_visible()


def test_a_form_that_is_sent_twice_is_one_send(place: Place) -> None:
    place.user("joe")
    with console(place.browser, place.web.address) as shown:
        page = shown.page
        shown.sign_in("joe", PASSWORD)
        shown.open("/console/compose")
        page.get_by_label("Title").fill("Once")
        page.get_by_role("button", name="Review").click()
        fields = page.locator('form[action="/console/compose/send"] input[type="hidden"]').evaluate_all(
            "inputs => Object.fromEntries(inputs.map(input => [input.name, input.value]))"
        )
        page.get_by_role("button", name="Send to").click()
        expect(page.locator(".lead .badge")).to_have_text("Done")
        first = page.url
        again = page.request.post(f"{place.web.address}/console/compose/send", form=fields)
        assert (again.status, again.url) == (200, first)
        shown.open("/console/")
        expect(page.get_by_role("link", name="Once")).to_have_count(1)
        # Another form is another send, and what was sent can be the beginning of one.
        page.get_by_role("link", name="Once").click()
        page.get_by_role("link", name="Write another like it").click()
        expect(page.get_by_label("Title")).to_have_value("Once")
        page.get_by_role("button", name="Review").click()
        page.get_by_role("button", name="Send to").click()
        page.wait_for_url(re.compile("/console/sends/"))
        assert page.url != first
