"""Which clients are still needed, while configurations follow each other and batches run."""

from __future__ import annotations

from typing import Any, cast

from pushq.delivery.means import Means
from pushq.delivery.present import Present


class Client:
    """Nothing but its identity counts here."""


def means(**clients: Client) -> Means:
    nothing: Any = None
    by_key = cast("Any", {(name, "apns"): client for name, client in clients.items()})
    made: Means = cast("Any", Means)(*([nothing] * 3), by_key, *([nothing] * 6))
    return made


def test_a_client_is_retired_when_its_last_batch_ends() -> None:
    one, two = Client(), Client()
    retired: list[Any] = []
    present = Present(means(shop=one), retired.append)
    with present.hold(), present.hold() as held:
        present.replace(means(shop=two))
        assert held.clients["shop", "apns"] is cast("Any", one)
        assert (retired, len(present.clients())) == ([], 2)
    assert retired == [one]
    assert present.clients() == [cast("Any", two)]


def test_one_that_nobody_uses_goes_at_once_and_one_that_stays_never() -> None:
    stays, goes, comes = Client(), Client(), Client()
    retired: list[Any] = []
    present = Present(means(shop=stays, news=goes), retired.append)
    present.replace(means(shop=stays, more=comes))
    assert retired == [goes]
    with present.hold():
        present.replace(means(more=comes))
        present.replace(means(shop=stays, more=comes))
    assert retired == [goes]


def test_generations_end_in_any_order() -> None:
    one, two, three = Client(), Client(), Client()
    retired: list[Any] = []
    present = Present(means(shop=one), retired.append)
    first = present.hold()
    first.__enter__()
    present.replace(means(shop=two))
    with present.hold():
        present.replace(means(shop=three))
    assert retired == [two]
    first.__exit__(None, None, None)
    assert retired == [two, one]
