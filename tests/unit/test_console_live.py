"""Many look, one reads; and how a part of a page travels."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pushq.errors import ServiceUnavailable
from pushq.web.console import live
from pushq.web.console.live import Glances, stream
from pushq.web.problems import Problem


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_many_who_look_at_once_are_one_question() -> None:
    asked = 0

    async def read() -> int:
        nonlocal asked
        await asyncio.sleep(0)
        asked += 1
        return asked

    async def look() -> None:
        clock = Clock()
        glances = Glances(every_s=1.0, clock=clock)
        assert await asyncio.gather(*(glances.look("it", read) for _ in range(20))) == [1] * 20
        assert await glances.look("another", read) == 2
        clock.now += 0.9
        assert await glances.look("it", read) == 1
        clock.now += 0.2
        assert await glances.look("it", read) == 3
        # Whoever has changed it sees that at once, also when somebody is just reading it as it was.
        clock.now += 1.0
        reading = asyncio.create_task(glances.look("it", read))
        await asyncio.sleep(0)
        glances.changed("it")
        assert await glances.look("it", read) == 5
        assert await reading in (4, 5)

    asyncio.run(look())


def test_what_takes_long_is_looked_at_less_often_and_a_failure_is_not_kept() -> None:
    clock = Clock()

    async def slow() -> float:
        clock.now += 2.0
        return clock.now

    async def broken() -> float:
        raise ServiceUnavailable("PostgreSQL", "PUSHQ_DATABASE_URL", "gone")

    async def look() -> None:
        glances = Glances(every_s=0.5, clock=clock)
        first = await glances.look("it", slow)
        clock.now += 2.0 * live.COSTS - 0.1
        assert await glances.look("it", slow) == first
        clock.now += 0.2
        assert await glances.look("it", slow) > first
        with pytest.raises(ServiceUnavailable):
            await glances.look("that", broken)
        assert await glances.look("that", slow) == clock.now

    asyncio.run(look())


def read_all(parts: list[tuple[str, bool]], *, closing: bool = False) -> list[str]:
    """All that a stream says that shows these parts one after the other."""

    async def run() -> list[str]:
        event = asyncio.Event()
        if closing:
            event.set()
        web: Any = SimpleNamespace(closing=event)
        left = iter(parts)

        async def part() -> tuple[str, bool]:
            return next(left)

        answer = stream(web, Glances(), part, every_s=0.001)
        return [str(chunk) async for chunk in answer.body_iterator]

    return asyncio.run(run())


def test_a_part_is_sent_when_it_has_changed_and_the_last_one_ends_the_stream() -> None:
    said = read_all([("<p>\n1</p>", False), ("<p>\n1</p>", False), ("<p>2</p>", True)])
    assert said == [
        "retry: 3000\n\n",
        "event: part\ndata: <p>\ndata: 1</p>\n\n",
        "event: part\ndata: <p>2</p>\n\n",
        "event: end\ndata: nothing will change any more\n\n",
    ]
    assert read_all([], closing=True) == ["retry: 3000\n\n"]


def test_streams_are_bounded() -> None:
    glances = Glances()
    glances.open = live.MOST

    async def part() -> tuple[str, bool]:
        return "", True

    with pytest.raises(Problem) as caught:
        stream(SimpleNamespace(), glances, part)  # type: ignore[arg-type]
    assert caught.value.status == 503
