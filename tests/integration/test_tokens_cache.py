"""The hot cache on a real Redis and PostgreSQL: it may lag, forget or be gone, and never brings back what was taken away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from sqlalchemy import event, text

from pushq.database import Database
from pushq.embedded.redis import RedisServer
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.tokens import (
    Device,
    TokenCache,
    entry_scripts,
    import_file,
    keyspace,
    reading,
    register,
    unregister,
    warm,
)
from pushq.tokens import cache as module
from pushq.tokens.buckets import bucket_of, cache_key
from pushq.tokens.entry_scripts import MAX_STRUCK, TOMBSTONE_TTL
from pushq.tokens.keyspace import EPOCH_KEY
from pushq.tokens.locks import lock_token
from pushq.tokens.partitions import partition_of
from tests.services.faults import crash, paused

DAY = timedelta(days=1)
TTL = timedelta(days=30)


class Clock:
    """Monotonic seconds that move when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(database: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(database), pool_size=5)
    yield opened
    opened.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    opened = open_redis(ServiceUrl(redis_url))
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(client: redis.Redis, store: Database, clock: Clock) -> TokenCache:
    return TokenCache(client, store, TTL, clock=clock)


def token(number: int) -> str:
    return f"{number:022d}:APA91b{'x' * 20}"


def add(store: Database, user_id: int, number: int | None = None, **fields: Any) -> int:
    """Register without telling the cache; returns the device's id."""
    fields = {"app": "shop", "platform": "fcm", **fields}
    return register(store, Device(user_id=user_id, token=token(number or user_id), **fields)).device_id


def key_of(user_id: int, platform: str = "fcm") -> str:
    return cache_key(platform, bucket_of(user_id))


def neighbours_of(user_id: int, count: int) -> list[int]:
    """The first users after this one that share its entry."""
    found = [user for user in range(user_id + 1, user_id + 256) if bucket_of(user) == bucket_of(user_id)]
    assert len(found) >= count
    return found[:count]


def entry(client: redis.Redis, user_id: int) -> list[Any]:
    """What the cache has of this user."""
    value = client.get(key_of(user_id))
    assert isinstance(value, bytes)
    return [device for device in orjson.loads(value) if device[0] == user_id]


def struck(client: redis.Redis, user_id: int) -> list[int]:
    """Who is struck out of this user's entry."""
    value = client.get(key_of(user_id))
    assert isinstance(value, bytes)
    return [int(name) for name in value.partition(b"[")[0].split(b"~")[1:]]


def after_the_look(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Whoever reads a bucket's devices next is slow: something happens before it goes on."""
    look = reading.neighbours

    def slow_look(*args: Any) -> Any:
        rows = look(*args)
        monkeypatch.setattr(module, "neighbours", look)
        act()
        return rows

    monkeypatch.setattr(module, "neighbours", slow_look)


def deactivate(store: Database, device_id: int) -> None:
    with store.begin() as connection:
        connection.execute(
            text("UPDATE device_tokens SET is_active = false, deactivated_at = now() WHERE id = :id"),
            {"id": device_id},
        )


def test_misses_then_hits(cache: TokenCache, store: Database, client: redis.Redis) -> None:
    first = add(store, 1, language="de", attributes={"plan": "pro"})
    second = add(store, 2, environment="sandbox")
    third = add(store, 1, 10, app="news")
    users, devices = [1, 2, 3, 1], [first, second, 999_999, first]
    for hits, misses in ((0, 4), (3, 1)):
        found = cache.resolve("fcm", users, devices, "shop")
        assert found.tokens == [token(1).encode(), token(2).encode(), None, token(1).encode()]
        assert found.environments == ["production", "sandbox", None, "production"]
        assert found.languages == ["de", None, None, "de"]
        assert found.attributes == [{"plan": "pro"}, None, None, {"plan": "pro"}]
        assert (found.hits, found.misses) == (hits, misses)
    assert entry(client, 1) == [
        [1, first, "shop", "production", token(1), "de", {"plan": "pro"}],
        [1, third, "news", "production", token(10), None, None],
    ]
    assert 0.94 * TTL.total_seconds() < client.ttl(key_of(1)) <= TTL.total_seconds()
    assert cache.resolve("fcm", [1], [third], "news").tokens == [token(10).encode()]
    # The same device under another app or platform is no device.
    assert cache.resolve("fcm", [1], [third], "shop").tokens == [None]
    assert cache.resolve("apns", [1], [first], "shop").tokens == [None]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"language": "de"},
        {"environment": "sandbox"},
        {"app": "news"},
        {"attributes": {"seat": [7, "shop", "production", "of another", None, None]}},
        {"language": 'a"b[\\'},
    ],
    ids=["plain", "language", "sandbox", "app", "attributes", "quotes"],
)
def test_tokens_alone_are_those_of_a_closer_look(
    cache: TokenCache, store: Database, client: redis.Redis, odd: dict[str, Any]
) -> None:
    users = [1, *neighbours_of(1, 6)]
    devices = {user: add(store, user) for user in users}
    second = add(store, users[2], 3000)
    entries = [
        [user, device, "shop", "production", token(user), None, None] for user, device in devices.items()
    ]
    entries.append([users[2], second, "shop", "production", token(3000), "fr", None])
    entries[4][2:4] = odd.get("app", "shop"), odd.get("environment", "production")
    entries[4][5:] = odd.get("language"), odd.get("attributes")
    asked = [*users, users[2]], [*devices.values(), second]
    there = orjson.dumps(entries)
    for value in (
        there,
        b"~1" + there,
        b"~%d~999" % users[3] + there,
        b"~999" + there,
        None,
        b"",
        b"~1",
        b"!c0ffee~1",
        b"~[" + there,
        b"[[1,2",
        orjson.dumps(entries[1:]),
    ):
        results = []
        for tokens_only in (False, True):
            if value is None:
                client.delete(key_of(1))
            else:
                client.set(key_of(1), value, ex=1000)
            results.append(cache.resolve("fcm", *asked, "shop", tokens_only=tokens_only))
        with_all, alone = results
        assert (alone.tokens, alone.environments) == (with_all.tokens, with_all.environments)
        assert (alone.hits, alone.misses) == (with_all.hits, with_all.misses)
        expected: list[bytes | None] = [token(user).encode() for user in users]
        expected.append(token(3000).encode())
        assert alone.tokens == expected


def test_one_round_trip_each_way(cache: TokenCache, store: Database, client: redis.Redis) -> None:
    devices = [add(store, user) for user in range(1, 101)]
    statements: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    def commands() -> dict[str, int]:
        return {name: stat["calls"] for name, stat in client.info("commandstats").items()}

    for expected in ({"cmdstat_mget": 1, "cmdstat_evalsha": 1}, {"cmdstat_mget": 1}):
        # The script is known to Redis after its first use anywhere.
        cache.forget("fcm", [10**9])
        client.script_load(entry_scripts._FILL)
        before = commands()
        statements.clear()
        cache.resolve("fcm", range(1, 101), devices, "shop")
        after = commands()
        grown = {
            name: calls - before.get(name, 0) for name, calls in after.items() if calls != before.get(name, 0)
        }
        assert {
            name: grown.get(name, 0) for name in ("cmdstat_mget", "cmdstat_evalsha") if name in grown
        } == expected
        assert len(statements) == (1 if "cmdstat_evalsha" in expected else 0)


def test_who_was_not_seen_lately_is_not_kept(cache: TokenCache, store: Database, client: redis.Redis) -> None:
    long_ago = datetime.now(UTC) - 31 * DAY
    away, mixed, other = (
        add(store, 1, last_seen=long_ago),
        add(store, 2, last_seen=long_ago),
        add(store, 2, 20),
    )
    found = cache.resolve("fcm", [1, 2, 2], [away, mixed, other], "shop")
    assert None not in found.tokens
    assert client.get(key_of(1)) is None
    assert len(entry(client, 2)) == 2


def test_a_token_that_moves_is_not_served_to_the_old_user(cache: TokenCache, store: Database) -> None:
    old = register(store, Device(1, "shop", "fcm", token(1)), cache=cache).device_id
    assert cache.resolve("fcm", [1], [old], "shop").hits == 1
    new = register(store, Device(2, "shop", "fcm", token(1)), cache=cache).device_id
    found = cache.resolve("fcm", [1, 2], [old, new], "shop")
    assert found.tokens == [None, token(1).encode()]
    assert (found.hits, found.misses) == (1, 1)


def test_an_entry_written_just_before_the_commit_does_not_stay(
    cache: TokenCache, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another registration of the old user writes through while the token is about to move."""
    old = register(store, Device(1, "shop", "fcm", token(1)), cache=cache).device_id

    def slow_lock(*args: Any) -> None:
        cache.refresh("fcm", 1)
        lock_token(*args)

    monkeypatch.setattr("pushq.tokens.registration.lock_token", slow_lock)
    register(store, Device(2, "shop", "fcm", token(1)), cache=cache)
    assert cache.resolve("fcm", [1], [old], "shop").tokens == [None]


def test_a_process_that_dies_after_the_commit_leaves_no_old_entry(
    cache: TokenCache, store: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = register(store, Device(1, "shop", "fcm", token(1)), cache=cache).device_id
    dying = TokenCache(client, store, TTL)
    forget, calls = dying.forget, []

    def forget_once(platform: str, user_ids: Any) -> None:
        calls.append(platform)
        if len(calls) > 1:
            raise KeyboardInterrupt
        forget(platform, user_ids)

    monkeypatch.setattr(dying, "forget", forget_once)
    with pytest.raises(KeyboardInterrupt):
        register(store, Device(2, "shop", "fcm", token(1)), cache=dying)
    assert cache.resolve("fcm", [1], [old], "shop").tokens == [None]


def test_unregistering_is_known_at_once(cache: TokenCache, store: Database) -> None:
    device = register(store, Device(1, "shop", "fcm", token(1)), cache=cache).device_id
    unregister(store, app="shop", platform="fcm", token=token(1), cache=cache)
    assert cache.resolve("fcm", [1], [device], "shop").tokens == [None]


def test_a_reader_that_saw_the_old_state_does_not_bring_it_back(
    cache: TokenCache, store: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race that matters: read before the commit, fill after the tombstone."""
    old = add(store, 1)
    after_the_look(monkeypatch, lambda: register(store, Device(2, "shop", "fcm", token(1)), cache=cache))
    # This answer is as old as its question: it was asked before the move.
    assert cache.resolve("fcm", [1], [old], "shop").tokens == [token(1).encode()]
    assert client.get(key_of(1)) == b"~1~1"
    assert 0 < client.ttl(key_of(1)) <= TOMBSTONE_TTL
    assert cache.resolve("fcm", [1], [old], "shop").tokens == [None]


def test_a_reader_does_not_bring_back_what_an_import_changed(
    cache: TokenCache, store: Database, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = add(store, 1)
    path = tmp_path / "devices.csv"
    path.write_text(f"user_id,app,platform,token\n2,shop,fcm,{token(1)}\n")
    after_the_look(monkeypatch, lambda: import_file(store, path, cache=cache))
    cache.resolve("fcm", [1], [old], "shop")
    assert client.get(key_of(1)) is None
    assert cache.resolve("fcm", [1], [old], "shop").tokens == [None]


def test_an_import_removes_the_entries_it_made_wrong(
    cache: TokenCache, store: Database, client: redis.Redis, tmp_path: Path
) -> None:
    first, second = add(store, 1), add(store, 2)
    cache.resolve("fcm", [1, 2], [first, second], "shop")
    client.set("other:key", "stays")
    path = tmp_path / "devices.csv"
    path.write_text(
        f"user_id,app,platform,token,language\n2,shop,fcm,{token(1)},\n2,shop,fcm,{token(2)},fr\n"
    )
    import_file(store, path, cache=cache)
    found = cache.resolve("fcm", [1, 2], [first, second], "shop")
    assert found.tokens == [None, token(2).encode()]
    assert found.languages == [None, "fr"]
    assert client.get("other:key") == b"stays"


def test_a_reader_that_was_asleep_does_not_fill(
    cache: TokenCache, store: Database, client: redis.Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a tombstone lives: nothing in Redis would tell that something changed."""
    device = add(store, 1)

    def asleep() -> None:
        clock.now += 45

    after_the_look(monkeypatch, asleep)
    assert cache.resolve("fcm", [1], [device], "shop").tokens == [token(1).encode()]
    assert client.get(key_of(1)) is None


def test_of_two_registrations_the_later_one_is_written(
    cache: TokenCache, store: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, 1)
    seen: list[Any] = []

    def another() -> None:
        seen.append(client.get(key_of(1)))
        register(store, Device(1, "shop", "fcm", token(2)), cache=cache)

    after_the_look(monkeypatch, another)
    cache.refresh("fcm", 1)
    assert seen[0].startswith(b"!")
    assert len(entry(client, 1)) == 2


def test_an_entry_that_lacks_a_new_device_does_not_hide_it(cache: TokenCache, store: Database) -> None:
    first = add(store, 1)
    cache.resolve("fcm", [1], [first], "shop")
    second = add(store, 1, 2)
    found = cache.resolve("fcm", [1, 1], [first, second], "shop")
    assert found.tokens == [token(1).encode(), token(2).encode()]
    # The entry said too little; it is replaced after its tombstone.
    assert cache.resolve("fcm", [1], [second], "shop").tokens == [token(2).encode()]


@pytest.mark.parametrize(
    "value",
    [
        b"[",
        b"[1]",
        b"[[1,2]]",
        b'[{"a":1}]',
        b"[[]]",
        b"!nonce",
        b"",
        b"null",
        b"],[",
        b"[],[]",
        b"\xff",
        b'[[1,1,"shop","production",7,null,null]]',
        b'[["1","1","shop","production","x",null,null]]',
        b"~1",
        b"~",
        b"~x[]",
    ],
)
def test_what_is_no_entry_is_a_miss(
    cache: TokenCache, store: Database, client: redis.Redis, value: bytes
) -> None:
    first, second = add(store, 1), add(store, 2)
    cache.resolve("fcm", [2], [second], "shop")
    client.set(key_of(1), value)
    found = cache.resolve("fcm", [1, 2], [first, second], "shop")
    assert found.tokens == [token(1).encode(), token(2).encode()]
    assert (found.hits, found.misses) == (1, 1)


def test_without_redis_sends_go_on(
    cache: TokenCache,
    store: Database,
    redis_server: RedisServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = register(store, Device(1, "shop", "fcm", token(1)), cache=cache).device_id
    crash(redis_server)
    with caplog.at_level(logging.WARNING, "pushq.cache"):
        for _ in range(3):
            found = cache.resolve("fcm", [1], [device], "shop")
            assert found.tokens == [token(1).encode()]
            assert (found.hits, found.misses) == (0, 1)
            clock.now += 10
        # Said once, not per batch; tried again after a while, not each time.
        assert [record.message for record in caplog.records] == ["cache_unavailable"]
        assert cache.counts.failures == 3
        cache.resolve("fcm", [1], [device], "shop")
        cache.resolve("fcm", [1], [device], "shop")
        assert cache.counts.failures == 4
        redis_server.start()
        clock.now += 10
        cache.resolve("fcm", [1], [device], "shop")
        assert [record.message for record in caplog.records] == ["cache_unavailable", "cache_available"]
    assert cache.resolve("fcm", [1], [device], "shop").hits == 1


def test_a_redis_that_hangs_costs_a_timeout_once(
    store: Database, redis_server: RedisServer, redis_url: str, clock: Clock
) -> None:
    client = open_redis(ServiceUrl(redis_url))
    client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
    cache = TokenCache(client, store, TTL, clock=clock)
    device = add(store, 1)
    cache.resolve("fcm", [1], [device], "shop")
    with paused(redis_server):
        for _ in range(20):
            assert cache.resolve("fcm", [1], [device], "shop").tokens == [token(1).encode()]
        assert cache.counts.failures == 1
    client.close()


def test_what_changed_without_redis_is_removed_when_it_is_back(
    cache: TokenCache, store: Database, redis_server: RedisServer, client: redis.Redis, clock: Clock
) -> None:
    old = register(store, Device(1, "shop", "fcm", token(1)), cache=cache).device_id
    before = client.get(key_of(1))
    assert isinstance(before, bytes)
    crash(redis_server)
    new = register(store, Device(2, "shop", "fcm", token(1)), cache=cache).device_id
    assert cache.behind
    redis_server.start()
    with redis_server.client() as other:
        other.set(key_of(1), before)  # as a Redis with persistence would have it
    clock.now += 10
    assert cache.resolve("fcm", [1, 2], [old, new], "shop").tokens == [None, token(1).encode()]
    assert not cache.behind


def test_too_much_to_remember_clears_the_cache(
    cache: TokenCache,
    store: Database,
    redis_server: RedisServer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 10)
    crash(redis_server)
    cache.forget("fcm", range(1, 50))
    redis_server.start()
    with redis_server.client() as other:
        other.mset({key_of(user): "[]" for user in range(1, 200)} | {"journal:1": "stays"})
    clock.now += 10
    device = add(store, 1)
    assert cache.resolve("fcm", [1], [device], "shop").tokens == [token(1).encode()]
    with redis_server.client() as other:
        assert other.get("journal:1") == b"stays"
        assert other.get(key_of(2)) is None
    assert not cache.behind


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_warming(cache: TokenCache, store: Database, client: redis.Redis, page: int) -> None:
    devices: dict[int, list[int]] = {}
    for n in range(1, 101):
        user = 1 + n % 30 * 40
        devices.setdefault(user, []).append(add(store, user, n))
    away = add(store, 5000, 500, last_seen=datetime.now(UTC) - 31 * DAY)
    deactivate(store, devices[1].pop())
    client.set(key_of(41), "")
    report = warm(store, cache, page=page)
    assert report.complete
    # A tombstone stays a tombstone, and who was away stays away.
    written = {key_of(user) for user in devices} - {key_of(41)}
    assert (report.devices, report.entries) == (100, len(written))
    assert set(client.keys("users:*")) == {key.encode() for key in written | {key_of(41)}}
    for user, ids in devices.items():
        if key_of(user) in written:
            assert sorted(known[1] for known in entry(client, user)) == ids
    found = cache.resolve(
        "fcm",
        [user for user in devices for _ in devices[user]],
        [d for ids in devices.values() for d in ids],
        "shop",
    )
    assert None not in found.tokens
    assert found.misses == sum(len(ids) for user, ids in devices.items() if key_of(user) == key_of(41)) > 0
    assert cache.resolve("fcm", [5000], [away], "shop").tokens == [token(500).encode()]


def test_a_page_of_the_warming_ends_with_an_entry(cache: TokenCache, store: Database) -> None:
    """Else the second page would find the entry there, and leave it with half of its users."""
    users = [1, *neighbours_of(1, 8)]
    devices = [add(store, user) for user in users]
    assert warm(store, cache, page=4).entries == 1
    assert cache.resolve("fcm", users, devices, "shop").hits == len(users)


def test_warming_for_one_app_takes_its_users_with_all_their_devices(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    add(store, 1)
    add(store, 2)
    add(store, 2, 20, app="news")
    assert bucket_of(1) != bucket_of(2)
    assert warm(store, cache, app="news").entries == 1
    assert len(entry(client, 2)) == 2
    assert warm(store, cache, platforms=("apns",)).entries == 0


def test_clearing_and_counting(cache: TokenCache, client: redis.Redis) -> None:
    client.mset(
        {cache_key("fcm", (3, page)): "[]" for page in range(3000)}
        | {cache_key("apns", (15, -1)): "[]", "other": "x"}
    )
    found = keyspace.stats(client)
    assert found.entries == {"apns": 1, "fcm": 3000}
    assert found.sampled_bytes > 0
    assert keyspace.clear(client) == 3001
    assert sorted(client.keys()) == [b"other", EPOCH_KEY.encode()]
    assert keyspace.stats(client) == keyspace.CacheStats({}, 0)


def test_who_asks_for_one_has_the_neighbours_kept_as_well(cache: TokenCache, store: Database) -> None:
    users = [1, *neighbours_of(1, 2)]
    devices = [add(store, user) for user in users]
    assert cache.resolve("fcm", [1], [devices[0]], "shop").misses == 1
    assert cache.resolve("fcm", users, devices, "shop").hits == 3


def test_who_is_struck_out_leaves_the_neighbours_in(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    users = [1, *neighbours_of(1, 2)]
    devices = [add(store, user) for user in users]
    cache.resolve("fcm", users, devices, "shop")
    ttl = client.ttl(key_of(1))
    deactivate(store, devices[1])
    cache.forget("fcm", [users[1]])
    for tokens_only in (False, True):
        found = cache.resolve("fcm", users, devices, "shop", tokens_only=tokens_only)
        assert found.tokens == [token(users[0]).encode(), None, token(users[2]).encode()]
        assert (found.hits, found.misses) == (2, 1)
    assert struck(client, 1) == [users[1]]
    assert ttl - 5 <= client.ttl(key_of(1)) <= ttl
    cache.forget("fcm", users[:2])
    assert struck(client, 1) == [users[0], users[1], users[1]]


def test_who_is_struck_out_and_has_a_device_makes_room_for_a_new_entry(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    users = [1, *neighbours_of(1, 1)]
    devices = [add(store, user) for user in users]
    cache.resolve("fcm", users, devices, "shop")
    cache.forget("fcm", [1])
    assert cache.resolve("fcm", users, devices, "shop").misses == 1
    assert client.get(key_of(1)) == b""
    assert 0 < client.ttl(key_of(1)) <= TOMBSTONE_TTL
    assert cache.resolve("fcm", users, devices, "shop").misses == 2
    client.delete(key_of(1))  # a minute later
    cache.resolve("fcm", users, devices, "shop")
    assert cache.resolve("fcm", users, devices, "shop").hits == 2


def test_who_was_not_seen_lately_does_not_cost_the_neighbours_their_entry(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    users = [1, *neighbours_of(1, 1)]
    devices = [add(store, 1), add(store, users[1], last_seen=datetime.now(UTC) - 31 * DAY)]
    for misses in (2, 1, 1):
        found = cache.resolve("fcm", users, devices, "shop")
        assert (None in found.tokens, found.misses) == (False, misses)
    assert len(entry(client, 1)) == 1


def test_too_many_names_make_a_tombstone_that_nobody_writes_over(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    device = add(store, 1)
    cache.resolve("fcm", [1], [device], "shop")
    for _ in range(MAX_STRUCK // len("~1")):
        cache.forget("fcm", [1])
    assert len(struck(client, 1)) == MAX_STRUCK // 2
    cache.forget("fcm", [1])
    for _ in range(2):
        assert client.get(key_of(1)) == b""
        assert 0 < client.ttl(key_of(1)) <= TOMBSTONE_TTL
        # Among those who are no longer named may be one whose change is not committed.
        cache.refresh("fcm", 1)
        cache.forget("fcm", [1])
    assert cache.resolve("fcm", [1], [device], "shop").tokens == [token(1).encode()]


def test_a_list_about_to_expire_becomes_a_tombstone(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    """If it went before its minute, a reader from before the change could fill the entry."""
    device = add(store, 1)
    cache.resolve("fcm", [1], [device], "shop")
    client.expire(key_of(1), TOMBSTONE_TTL - 30)
    cache.forget("fcm", [1])
    assert client.get(key_of(1)) == b"~1"
    assert client.ttl(key_of(1)) > TOMBSTONE_TTL - 30


def test_a_neighbours_registration_leaves_who_is_struck_out_so(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    """The change of who is struck out may not be committed yet: what PostgreSQL says of that user is not to be kept."""
    (neighbour,) = neighbours_of(1, 1)
    old = add(store, 1)
    for begin in ("with a list", "with a tombstone"):
        if begin == "with a list":
            cache.resolve("fcm", [1], [old], "shop")
        else:
            client.delete(key_of(1))
        cache.forget("fcm", [1])
        near = register(store, Device(neighbour, "shop", "fcm", token(neighbour)), cache=cache).device_id
        assert struck(client, 1) == [1]
        assert client.ttl(key_of(1)) > TOMBSTONE_TTL
        found = cache.resolve("fcm", [neighbour], [near], "shop")
        assert (found.tokens, found.hits) == ([token(neighbour).encode()], 1)
    register(store, Device(1, "shop", "fcm", token(1)), cache=cache)
    assert struck(client, 1) == []
    assert cache.resolve("fcm", [1, neighbour], [old, near], "shop").hits == 2


def test_who_is_struck_out_while_a_neighbour_registers_stays_so(
    cache: TokenCache, store: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = neighbours_of(1, 2)
    device = add(store, 1)
    cache.forget("fcm", [far])

    def change() -> None:
        deactivate(store, device)
        cache.forget("fcm", [1])

    after_the_look(monkeypatch, change)
    register(store, Device(near, "shop", "fcm", token(near)), cache=cache)
    assert client.get(key_of(1)) == b"~1~%d" % far
    assert 0 < client.ttl(key_of(1)) <= TOMBSTONE_TTL
    assert cache.resolve("fcm", [1], [device], "shop").tokens == [None]


def test_the_partition_may_be_told_and_is_not_trusted(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    device = add(store, 1)
    wrong = (partition_of(1) + 1) % 16
    found = cache.resolve("fcm", [1], [device], "shop", partition=wrong)
    assert found.tokens == [token(1).encode()]
    assert client.keys("users:*") == []
    for misses in (1, 0):
        found = cache.resolve("fcm", [1], [device], "shop", partition=partition_of(1))
        assert (found.tokens, found.misses) == ([token(1).encode()], misses)


def test_users_at_the_edges_of_bigint(cache: TokenCache, store: Database) -> None:
    users = [-1, -(2**63) + 1, 2**63 - 1, 2**32, 255, 256]
    devices = [add(store, user, number) for number, user in enumerate(users, 1)]
    tokens = [token(number).encode() for number in range(1, len(users) + 1)]
    for hits in (0, len(users)):
        found = cache.resolve("fcm", users, devices, "shop", tokens_only=True)
        assert (found.tokens, found.hits) == (tokens, hits)
    cache.forget("fcm", users)
    assert cache.resolve("fcm", users, devices, "shop").misses == len(users)


def test_users_far_apart_are_asked_for_in_parts(
    cache: TokenCache, store: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part reads the neighbours as well, and sixteen times a batch would be much to hold."""
    monkeypatch.setattr(module, "KEYS_PER_CALL", 3)
    users = [n * 256 for n in range(10)] + neighbours_of(9 * 256, 4)
    devices = [add(store, user, number) for number, user in enumerate(users, 1)]
    tokens = [token(number).encode() for number in range(1, len(users) + 1)]
    for hits in (0, len(users)):
        before = client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
        found = cache.resolve("fcm", users, devices, "shop", tokens_only=True)
        assert (found.tokens, found.environments) == (tokens, ["production"] * len(users))
        assert (found.hits >= hits, found.hits + found.misses) == (True, len(users))
        assert client.info("commandstats")["cmdstat_mget"]["calls"] - before >= 4
