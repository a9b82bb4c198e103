"""The requests of a measurement: lazy, distinct, and of the size that was asked for."""

from __future__ import annotations

import json
import uuid
from itertools import islice

import pytest

from pushq.bench.memory import peak_rss_mb, rss_mb
from pushq.bench.message import MIN_BODY_BYTES, shared_body
from pushq.bench.requests import BURST_REQUESTS, bursts
from pushq.http2 import Burst, HeaderTemplate

PLAIN = HeaderTemplate(b"/3/device/", ())
WITH_IDS = HeaderTemplate(b"/3/device/", (), varying=(b"apns-id",))


def targets(bursts_: list[Burst]) -> list[bytes]:
    return [target for burst in bursts_ for target in burst.targets or ()]


def test_nothing_is_made_before_it_is_asked_for() -> None:
    source = bursts(PLAIN, 10**15, series="a", body_bytes=150, distinct_bodies=True)
    first, second = islice(source, 2)
    assert first.count == second.count == BURST_REQUESTS


@pytest.mark.parametrize(
    "total", [1, BURST_REQUESTS - 1, BURST_REQUESTS, BURST_REQUESTS + 1, 3 * BURST_REQUESTS]
)
def test_as_many_as_asked_for_and_all_tokens_differ(total: int) -> None:
    made = targets(list(bursts(PLAIN, total, series="a", body_bytes=150, distinct_bodies=False)))
    other = targets(list(bursts(PLAIN, total, series="b", body_bytes=150, distinct_bodies=False)))
    assert len(made) == len(other) == total
    assert len({*made, *other}) == 2 * total
    assert {len(bytes.fromhex(token.decode())) for token in made} == {32}


@pytest.mark.parametrize("size", [MIN_BODY_BYTES, 150, 1000, 4096])
def test_bodies_are_json_of_that_size(size: int) -> None:
    (burst,) = bursts(PLAIN, 100, series="a", body_bytes=size, distinct_bodies=True)
    assert not isinstance(burst.bodies, bytes)
    assert len(set(burst.bodies)) == 100
    for body in (shared_body(size), *burst.bodies):
        assert len(body) == size
        assert json.loads(body)["aps"]["alert"]["title"] == "Sale"


def test_bodies_of_different_bursts_differ() -> None:
    first, second = bursts(PLAIN, BURST_REQUESTS + 1, series="a", body_bytes=150, distinct_bodies=True)
    assert not {*first.bodies} & {*second.bodies}


def test_request_ids_are_uuids_and_differ() -> None:
    made = list(bursts(WITH_IDS, BURST_REQUESTS + 10, series="a", body_bytes=150, distinct_bodies=False))
    ids = [value for burst in made for (value,) in burst.values or ()]
    assert len({uuid.UUID(value.decode()) for value in ids}) == BURST_REQUESTS + 10


def test_memory_that_was_touched_shows_in_the_peak() -> None:
    before = peak_rss_mb()
    block = bytearray(b"x" * (64 * 1024 * 1024))
    after, now = peak_rss_mb(), rss_mb()
    del block
    assert after >= before
    assert after > 64
    assert now is None or now <= after + 1
