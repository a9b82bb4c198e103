"""What is kept of an answer from PostgreSQL, for how long, and what happens while it does not answer. The clock is the test's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from pushq.errors import ServiceUnavailable
from pushq.web import lookups
from pushq.web.lookups import FRESH_S, STALE_S, Lookups
from pushq.web.threads import Threads

T = TypeVar("T")


class Rows:
    """A table, and how often it was asked."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {"a": "one"}
        self.asked: list[str] = []
        self.away = False
        self.hold: threading.Event | None = None

    def ask(self, name: str) -> str | None:
        self.asked.append(name)
        if self.hold is not None:
            self.hold.wait(30)
        if self.away:
            raise ServiceUnavailable("PostgreSQL", "PUSHQ_DATABASE_URL", "test")
        return self.rows.get(name)


class Setting:
    def __init__(self) -> None:
        self.table, self.now = Rows(), 100.0

    def run(self, body: Callable[[Lookups[str]], Awaitable[T]]) -> T:
        async def main() -> T:
            threads = Threads("test", 2, wait_s=5.0, timeout_s=10.0)
            kept: Lookups[str] = Lookups(self.table.ask, threads, clock=lambda: self.now)
            try:
                return await body(kept)
            finally:
                await kept.close()
                threads.close()

        return asyncio.run(main())


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_an_answer_is_good_for_two_seconds(setting: Setting) -> None:
    async def body(kept: Lookups[str]) -> None:
        assert await kept.get("a") == "one"
        setting.table.rows["a"] = "two"
        setting.now += FRESH_S - 0.01
        assert await kept.get("a") == "one"
        setting.now += 0.02
        assert await kept.get("a") == "two"
        assert setting.table.asked == ["a", "a"]

    setting.run(body)


def test_all_who_ask_at_once_share_one_question(setting: Setting) -> None:
    async def body(kept: Lookups[str]) -> None:
        assert await asyncio.gather(*(kept.get("a") for _ in range(100))) == ["one"] * 100
        assert setting.table.asked == ["a"]

    setting.run(body)


def test_what_does_not_exist_is_not_kept(setting: Setting) -> None:
    async def body(kept: Lookups[str]) -> None:
        assert await kept.get("b") is None
        assert not kept.knows("b")
        setting.table.rows["b"] = "new"
        assert await kept.get("b") == "new"
        del setting.table.rows["b"]
        setting.now += FRESH_S
        assert await kept.get("b") is None
        assert not kept.knows("b")

    setting.run(body)


def test_what_is_forgotten_is_asked_again(setting: Setting) -> None:
    async def body(kept: Lookups[str]) -> None:
        await kept.get("a")
        kept.forget("a")
        del setting.table.rows["a"]
        assert await kept.get("a") is None

    setting.run(body)


def test_while_the_database_is_away_the_last_answer_holds_for_a_minute(setting: Setting) -> None:
    async def body(kept: Lookups[str]) -> None:
        await kept.get("a")
        setting.table.away = True
        setting.now += STALE_S - 1
        assert await kept.get("a") == "one"
        asked = len(setting.table.asked)
        assert await kept.get("a") == "one"
        assert len(setting.table.asked) == asked, "and it is not asked for each request"
        with pytest.raises(ServiceUnavailable):
            await kept.get("b")
        setting.now += 2 * FRESH_S
        with pytest.raises(ServiceUnavailable):
            await kept.get("a")
        setting.table.away = False
        assert await kept.get("a") == "one"

    setting.run(body)


def test_nobody_with_an_answer_waits_long_for_a_newer_one(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "PATIENCE_S", 0.05)

    async def body(kept: Lookups[str]) -> None:
        await kept.get("a")
        setting.table.hold = threading.Event()
        try:
            setting.now += FRESH_S
            assert await kept.get("a") == "one"
        finally:
            setting.table.hold.set()

    setting.run(body)


def test_it_keeps_so_many_and_no_more(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "MOST", 3)
    setting.table.rows = {str(number): "x" for number in range(10)}

    async def body(kept: Lookups[str]) -> None:
        for number in range(10):
            await kept.get(str(number))
        assert [name for name in setting.table.rows if kept.knows(name)] == ["7", "8", "9"]

    setting.run(body)
