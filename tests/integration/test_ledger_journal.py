"""The journal in a real Redis: only who holds the batch writes, and what is found after a crash is what the guarantee says."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pushq.embedded.redis import RedisServer
from pushq.ledger.batches import Fenced, Lease
from pushq.ledger.journal import TTL_S, Found, Journal
from pushq.ledger.outcomes import Outcome
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.services.faults import crash, paused

SEND = uuid.uuid4()
SIZE = 8


def claim(journal: Journal, lease: Lease, first: int, length: int) -> None:
    """What a worker writes before it hands recipients over."""
    journal.write(lease, [(first, bytes([Outcome.CLAIMED]) * length)])


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    client = open_redis(ServiceUrl(redis_url))
    yield client
    client.close()


@pytest.fixture
def journal(client: redis.Redis) -> Journal:
    return Journal(client)


def lease(batch_no: int = 1) -> Lease:
    users = list(range(SIZE))
    return Lease(
        SEND, batch_no, "apns", uuid.uuid4(), users, users, bytes(SIZE), bytes(SIZE), 1, interrupted=False
    )


def raw(journal: Journal, of: Lease) -> bytes:
    found = journal.read(*of.key)
    assert found is not None
    return found.raw


def test_what_is_written_is_read(journal: Journal, client: redis.Redis) -> None:
    mine = lease()
    assert journal.read(*mine.key) is None
    journal.open(mine, mine.outcomes, replaces=b"")
    claim(journal, mine, 2, 4)
    journal.write(mine, [(0, bytes([Outcome.ACCEPTED])), (3, bytes([Outcome.TOKEN_DEAD, Outcome.ACCEPTED]))])
    c, a, d = Outcome.CLAIMED, Outcome.ACCEPTED, Outcome.TOKEN_DEAD
    assert journal.read(*mine.key) == Found(mine.token.bytes, bytes([a, 0, c, d, a, c, 0, 0]), whole=True)
    (key,) = client.keys()
    left = client.ttl(key)
    assert isinstance(left, int)
    assert TTL_S - 60 < left <= TTL_S  # writing does not take the expiry away
    journal.close(mine)
    assert journal.read(*mine.key) is None


def test_batches_have_journals_of_their_own(journal: Journal) -> None:
    first, second = lease(1), lease(2)
    journal.open(first, first.outcomes, replaces=b"")
    journal.open(second, second.outcomes, replaces=b"")
    claim(journal, first, 0, SIZE)
    assert journal.read(*second.key) == Found(second.token.bytes, bytes(SIZE), whole=True)


def test_who_lost_the_batch_is_fenced(journal: Journal) -> None:
    sleeper, holder = lease(), lease()
    journal.open(sleeper, sleeper.outcomes, replaces=b"")
    claim(journal, sleeper, 0, 2)
    seen = raw(journal, sleeper)
    journal.open(holder, bytes([Outcome.UNKNOWN] * 2 + [0] * 6), replaces=raw(journal, sleeper))
    before = journal.read(*holder.key)
    with pytest.raises(Fenced):
        claim(journal, sleeper, 2, 2)
    with pytest.raises(Fenced):
        journal.write(sleeper, [(0, bytes([Outcome.ACCEPTED]))])
    with pytest.raises(Fenced):
        journal.open(sleeper, sleeper.outcomes, replaces=seen)
    journal.close(sleeper)  # removes only its own
    assert journal.read(*holder.key) == before


def test_of_two_who_found_the_same_journal_one_goes_on(journal: Journal) -> None:
    dead, first, second = lease(), lease(), lease()
    journal.open(dead, dead.outcomes, replaces=b"")
    seen = raw(journal, dead)
    journal.open(first, dead.outcomes, replaces=seen)
    with pytest.raises(Fenced):
        journal.open(second, dead.outcomes, replaces=seen)
    with pytest.raises(Fenced):
        journal.open(second, dead.outcomes, replaces=b"")


def test_a_claim_between_reading_and_replacing_is_not_overwritten(journal: Journal) -> None:
    sleeper, holder = lease(), lease()
    journal.open(sleeper, sleeper.outcomes, replaces=b"")
    seen = raw(journal, sleeper)
    claim(journal, sleeper, 3, 2)
    with pytest.raises(Fenced):
        journal.open(holder, bytes(SIZE), replaces=seen)
    assert raw(journal, sleeper)[-SIZE:] == bytes([0, 0, 0, 1, 1, 0, 0, 0])


def test_opening_twice_after_a_lost_answer_is_opening_once(journal: Journal) -> None:
    mine = lease()
    journal.open(mine, mine.outcomes, replaces=b"")
    journal.open(mine, mine.outcomes, replaces=b"")


def test_nothing_can_be_claimed_in_a_journal_that_is_gone(journal: Journal, client: redis.Redis) -> None:
    mine = lease()
    journal.open(mine, mine.outcomes, replaces=b"")
    client.flushdb()
    with pytest.raises(Fenced, match="gone"):
        claim(journal, mine, 0, SIZE)
    assert journal.read(*mine.key) is None  # a claim must not bring half a journal back


def test_a_claim_that_redis_does_not_answer_is_an_error(redis_server: RedisServer, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as impatient:
        journal, mine = Journal(impatient), lease()
        journal.open(mine, mine.outcomes, replaces=b"")
        with paused(redis_server), pytest.raises(redis.TimeoutError):
            claim(journal, mine, 0, SIZE)


def test_a_journal_that_came_back_with_another_redis_may_lack_claims(
    redis_server: RedisServer, journal: Journal
) -> None:
    mine, other = lease(1), lease(2)
    journal.open(mine, mine.outcomes, replaces=b"")
    claim(journal, mine, 0, 2)
    crash(redis_server)
    redis_server.start()
    claim(
        journal, mine, 2, 2
    )  # its holder lives and knows what it claimed; only who finds the journal must not trust it
    found = journal.read(*mine.key)
    assert found is not None
    assert not found.whole
    assert found.outcomes == bytes([Outcome.CLAIMED] * 4 + [0] * 4)
    journal.open(other, other.outcomes, replaces=b"")
    assert journal.read(*other.key) == Found(other.token.bytes, bytes(SIZE), whole=True)
    heir = lease(1)
    journal.open(heir, heir.outcomes, replaces=found.raw)
    assert journal.read(*heir.key) == Found(heir.token.bytes, bytes(SIZE), whole=True)


def test_a_holder_that_slept_before_its_journal_began_takes_none_from_a_later_one(journal: Journal) -> None:
    sleeper, holder = lease(), replace(lease(), runs=2)
    replayed = replace(lease(), send_version=1)
    journal.open(holder, bytes(SIZE), replaces=b"")
    claim(journal, holder, 0, 2)
    with pytest.raises(Fenced):
        journal.open(sleeper, bytes(SIZE), replaces=raw(journal, holder))
    journal.open(replayed, bytes(SIZE), replaces=raw(journal, holder))
