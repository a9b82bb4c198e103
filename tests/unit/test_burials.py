"""Orders for dead letters wait for each other, within bounds, and none is kept for good."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence

from pushq.ledger.orders import ProcessDeadLetters
from pushq.tasks.burials import MOST_BATCHES, MOST_LETTERS, Burials

ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
NEVER = 3600.0


class Published:
    """What went out, in order."""

    def __init__(self) -> None:
        self.messages: list[tuple[uuid.UUID, list[int]]] = []
        self.came = threading.Event()

    def __call__(
        self, send_id: uuid.UUID, batch_nos: Sequence[int], headers: Mapping[str, str] | None
    ) -> None:
        self.messages.append((send_id, list(batch_nos)))
        self.came.set()


def order(batch_no: int, letters: int = 1, send_id: uuid.UUID = ONE) -> ProcessDeadLetters:
    return ProcessDeadLetters(send_id, batch_no, letters)


def test_what_comes_within_the_delay_goes_out_together_and_by_send() -> None:
    published = Published()
    burials = Burials(published, delay_s=0.05)
    for each in (order(0), order(7), order(3, send_id=OTHER)):
        burials.add(each)
    assert published.messages == []
    assert published.came.wait(10)
    burials.flush()
    assert sorted(published.messages) == [(ONE, [0, 7]), (OTHER, [3])]


def test_the_next_ones_have_a_delay_of_their_own() -> None:
    published = Published()
    burials = Burials(published, delay_s=0.05)
    for batch_no in range(3):
        burials.add(order(batch_no))
        assert published.came.wait(10)
        published.came.clear()
    assert published.messages == [(ONE, [0]), (ONE, [1]), (ONE, [2])]


def test_a_message_has_so_many_letters_at_most() -> None:
    published = Published()
    burials = Burials(published, delay_s=NEVER)
    for batch_no, letters in enumerate((MOST_LETTERS - 1, 2, MOST_LETTERS - 2, MOST_LETTERS + 1, 1)):
        burials.add(order(batch_no, letters))
    assert published.messages == [(ONE, [0]), (ONE, [1, 2]), (ONE, [3])]
    burials.flush()
    assert published.messages[3:] == [(ONE, [4])]


def test_a_batch_with_many_goes_alone_when_others_wait() -> None:
    published = Published()
    burials = Burials(published, delay_s=NEVER)
    burials.add(order(0))
    burials.add(order(1, MOST_LETTERS))
    assert published.messages == [(ONE, [0]), (ONE, [1])]


def test_a_message_has_so_many_batches_at_most() -> None:
    published = Published()
    burials = Burials(published, delay_s=NEVER)
    for batch_no in range(MOST_BATCHES + 1):
        burials.add(order(batch_no))
    assert published.messages == [(ONE, list(range(MOST_BATCHES)))]


def test_after_the_end_nothing_waits() -> None:
    published = Published()
    burials = Burials(published, delay_s=NEVER)
    burials.add(order(0))
    burials.close()
    burials.add(order(1))
    assert published.messages == [(ONE, [0]), (ONE, [1])]
    burials.flush()
    assert len(published.messages) == 2


def test_none_is_lost_between_many_threads() -> None:
    published = Published()
    burials = Burials(published, delay_s=0.001)

    def add(first: int) -> None:
        for batch_no in range(first, first + 500):
            burials.add(order(batch_no))

    threads = [threading.Thread(target=add, args=(first,)) for first in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    burials.close()
    assert sorted(batch_no for _, batch_nos in published.messages for batch_no in batch_nos) == list(
        range(4000)
    )
