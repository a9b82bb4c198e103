"""Rounds: alone at once, together under load, errors for all of a round, and nobody left waiting."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pushq.together import Together


class Rounds:
    """Work that can be held up, and that notes what each round was given."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.began, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.fails_on: int | None = None

    def __call__(self, items: Sequence[int]) -> list[str]:
        self.seen.append(list(items))
        self.began.set()
        assert self.go_on.wait(10)
        if self.fails_on in items:
            raise ValueError(f"refused {self.fails_on}")
        return [f"done {item}" for item in items]


def test_who_comes_alone_is_a_round_of_its_own() -> None:
    rounds = Rounds()
    together = Together[int, str](rounds)
    assert [together(1), together(2)] == ["done 1", "done 2"]
    assert rounds.seen == [[1], [2]]


def test_who_comes_while_a_round_runs_shares_the_next_one() -> None:
    rounds = Rounds()
    together = Together[int, str](rounds, most=3)
    rounds.go_on.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together, 0)
        assert rounds.began.wait(10)
        others = [pool.submit(together, number) for number in range(1, 6)]
        while len(together._waiting) < 5:
            pass
        rounds.go_on.set()
        assert first.result(10) == "done 0"
        assert sorted(one.result(10) for one in others) == [f"done {number}" for number in range(1, 6)]
    assert [len(seen) for seen in rounds.seen] == [1, 3, 2]
    assert sorted(item for seen in rounds.seen for item in seen) == list(range(6))


def test_a_round_that_fails_fails_for_its_own_and_for_nobody_else() -> None:
    rounds = Rounds()
    together = Together[int, str](rounds)
    rounds.fails_on = 7
    with pytest.raises(ValueError, match="refused 7"):
        together(7)
    assert together(8) == "done 8"


def test_a_round_of_too_few_results_is_an_error_of_all() -> None:
    together = Together[int, str](lambda items: [])
    with pytest.raises(ValueError, match="shorter"):
        together(1)


def test_many_threads_all_get_their_own_result() -> None:
    rounds = Rounds()
    together = Together[int, str](rounds, most=10)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(together, range(2000))) == [f"done {number}" for number in range(2000)]
    assert sorted(item for seen in rounds.seen for item in seen) == list(range(2000))
    assert max(map(len, rounds.seen)) <= 10


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.event import Event
from pushq.together import Together

seen, held = [], Event()

def work(items):
    seen.append(items)
    if 0 in items:
        held.wait()
    return [f"done {item}" for item in items]

together = Together(work)
first = gevent.spawn(together, 0)
gevent.sleep(0)
second, third = gevent.spawn(together, 1), gevent.spawn(together, 2)
gevent.sleep(0)
"""


def in_greenlets(code: str) -> None:
    """Run this in a process whose threads are greenlets, as a worker's are."""
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_who_is_stopped_while_waiting_leaves_the_others_alone() -> None:
    in_greenlets(
        """
second.kill()
held.set()
gevent.joinall([first, third], timeout=10, raise_error=True)
assert (first.value, third.value) == ("done 0", "done 2"), (first, third)
assert seen == [[0], [2]], seen
"""
    )


def test_the_death_of_who_leads_is_not_that_of_those_who_wait() -> None:
    in_greenlets(
        """
first.kill()
gevent.joinall([second, third], timeout=10, raise_error=True)
assert (second.value, third.value) == ("done 1", "done 2"), (second, third)
assert seen == [[0], [1, 2]], seen
"""
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def wait_until_waiting(together: Together[int, str], number: int) -> None:
    end = time.monotonic() + 10
    while len(together._waiting) < number:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_between_the_beginnings_of_two_rounds_there_is_a_pause_and_who_comes_after_it_goes_at_once() -> None:
    rounds, clock = Rounds(), Clock()
    together = Together[int, str](rounds, most=3, every_s=3600.0, clock=clock)
    assert together(0) == "done 0"
    clock.now += 3600.0
    assert together(1) == "done 1"
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(together, number) for number in (2, 3)]
        wait_until_waiting(together, 2)
        assert rounds.seen == [[0], [1]]
        # As many as a round may have: it does not wait for its time.
        waiting.append(pool.submit(together, 4))
        assert sorted(one.result(10) for one in waiting) == ["done 2", "done 3", "done 4"]
    assert sorted(rounds.seen[2]) == [2, 3, 4]


def test_a_pause_ends() -> None:
    rounds = Rounds()
    together = Together[int, str](rounds, every_s=0.05)
    begun = time.monotonic()
    assert [together(number) for number in range(3)] == ["done 0", "done 1", "done 2"]
    assert time.monotonic() - begun >= 0.1


def test_a_round_has_what_its_items_weigh() -> None:
    rounds: list[list[str]] = []

    def work(items: Sequence[str]) -> Sequence[str]:
        rounds.append(list(items))
        return items

    together = Together[str, str](work, most=10, every_s=0.2, size=len)
    together("first")
    with ThreadPoolExecutor(8) as pool:
        given = ["four", "four", "four", "longer than ten", "a"]
        assert list(pool.map(together, given)) == given
    assert sorted(item for each in rounds[1:] for item in each) == sorted(given)
    assert all(len(each) == 1 or sum(map(len, each)) <= 10 for each in rounds)


def test_who_leads_and_is_stopped_in_the_pause_leaves_the_lead_to_the_next() -> None:
    program = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent
from pushq.together import Together

rounds = []
together = Together(lambda items: (rounds.append(list(items)), items)[1], every_s=0.5)
together(0)
first = gevent.spawn(together, 1)
gevent.sleep(0.05)
second = gevent.spawn(together, 2)
gevent.sleep(0.05)
first.kill()
assert second.get(timeout=5) == 2
assert rounds == [[0], [2]], rounds
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
