"""The hot cache on a real Redis and PostgreSQL: it may lag, forget or be gone, and never brings back what was taken away."""

from __future__ import annotations

import logging
from collections.abc import Iterator
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
from pushq.tokens import Device, TokenCache, import_file, register, unregister, warm
from pushq.tokens import cache as module
from pushq.tokens.cache import EPOCH_KEY, TOMBSTONE_TTL, cache_key
from pushq.tokens.locks import lock_token
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


def entry(client: redis.Redis, user_id: int) -> list[Any]:
    value = client.get(cache_key("fcm", user_id))
    assert isinstance(value, bytes)
    parsed = orjson.loads(value)
    assert isinstance(parsed, list)
    return parsed


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
        [first, "shop", "production", token(1), "de", {"plan": "pro"}],
        [third, "news", "production", token(10), None, None],
    ]
    assert 0.94 * TTL.total_seconds() < client.ttl("user:1:tokens:fcm") <= TTL.total_seconds()
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
    devices = {user: add(store, user) for user in range(1, 8)}
    second = add(store, 3, 30)
    entries = {
        user: [[device, "shop", "production", token(user), None, None]] for user, device in devices.items()
    }
    entries[3].append([second, "shop", "production", token(30), "fr", None])
    if odd:
        entries[5][0] = [
            devices[5],
            odd.get("app", "shop"),
            odd.get("environment", "production"),
            token(5),
            odd.get("language"),
            odd.get("attributes"),
        ]
    users, ids = [1, 2, 3, 3, *range(4, 8)], [devices[1], devices[2], devices[3], second]
    ids += [devices[user] for user in range(4, 8)]
    for gone in (None, b"", b"~nonce", b"[[1,2"):
        for user, found in entries.items():
            client.set(cache_key("fcm", user), orjson.dumps(found))
        if gone is None:
            client.delete(cache_key("fcm", 2))
        else:
            client.set(cache_key("fcm", 2), gone)
        with_all, alone = (
            cache.resolve("fcm", users, ids, "shop", tokens_only=tokens_only) for tokens_only in (False, True)
        )
        assert (alone.tokens, alone.environments) == (with_all.tokens, with_all.environments)
        assert None not in alone.tokens
    for user, found in entries.items():
        client.set(cache_key("fcm", user), orjson.dumps(found))
    with_all, alone = (
        cache.resolve("fcm", users, ids, "shop", tokens_only=tokens_only) for tokens_only in (False, True)
    )
    assert (alone.tokens, alone.environments) == (with_all.tokens, with_all.environments)
    assert alone.tokens[3] == token(30).encode()


def test_one_round_trip_each_way(cache: TokenCache, store: Database, client: redis.Redis) -> None:
    devices = [add(store, user) for user in range(1, 101)]
    statements: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    def commands() -> dict[str, int]:
        return {name: stat["calls"] for name, stat in client.info("commandstats").items()}

    for expected in ({"cmdstat_mget": 1, "cmdstat_evalsha": 1}, {"cmdstat_mget": 1}):
        # The script is known to Redis after its first use anywhere.
        cache.forget("fcm", [10**9])
        client.script_load(module._FILL)
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
    assert client.get("user:1:tokens:fcm") is None
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
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    """The race that matters: read before the commit, fill after the tombstone."""
    old = add(store, 1)
    look = cache._devices

    def slow_look(platform: str, user_ids: Any) -> Any:
        rows = look(platform, user_ids)
        if user_ids == [1]:
            cache._devices = look  # type: ignore[method-assign]
            register(store, Device(2, "shop", "fcm", token(1)), cache=cache)
        return rows

    cache._devices = slow_look  # type: ignore[method-assign]
    # This answer is as old as its question: it was asked before the move.
    assert cache.resolve("fcm", [1], [old], "shop").tokens == [token(1).encode()]
    assert client.get("user:1:tokens:fcm") == b""
    assert 0 < client.ttl("user:1:tokens:fcm") <= TOMBSTONE_TTL
    assert cache.resolve("fcm", [1], [old], "shop").tokens == [None]


def test_a_reader_does_not_bring_back_what_an_import_changed(
    cache: TokenCache, store: Database, client: redis.Redis, tmp_path: Path
) -> None:
    old = add(store, 1)
    path = tmp_path / "devices.csv"
    path.write_text(f"user_id,app,platform,token\n2,shop,fcm,{token(1)}\n")
    look = cache._devices

    def slow_look(platform: str, user_ids: Any) -> Any:
        rows = look(platform, user_ids)
        cache._devices = look  # type: ignore[method-assign]
        import_file(store, path, cache=cache)
        return rows

    cache._devices = slow_look  # type: ignore[method-assign]
    cache.resolve("fcm", [1], [old], "shop")
    assert client.get("user:1:tokens:fcm") is None
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
    cache: TokenCache, store: Database, client: redis.Redis, clock: Clock
) -> None:
    """Longer than a tombstone lives: nothing in Redis would tell that something changed."""
    device = add(store, 1)
    look = cache._devices

    def asleep(platform: str, user_ids: Any) -> Any:
        rows = look(platform, user_ids)
        clock.now += 45
        return rows

    cache._devices = asleep  # type: ignore[method-assign]
    assert cache.resolve("fcm", [1], [device], "shop").tokens == [token(1).encode()]
    assert client.get("user:1:tokens:fcm") is None


def test_of_two_registrations_the_later_one_is_written(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    add(store, 1)
    look = cache._devices
    seen: list[Any] = []

    def slow_look(platform: str, user_ids: Any) -> Any:
        rows = look(platform, user_ids)
        cache._devices = look  # type: ignore[method-assign]
        seen.append(client.get("user:1:tokens:fcm"))
        register(store, Device(1, "shop", "fcm", token(2)), cache=cache)
        return rows

    cache._devices = slow_look  # type: ignore[method-assign]
    cache.refresh("fcm", 1)
    assert seen[0].startswith(b"~")
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
        b"~nonce",
        b"",
        b"null",
        b"],[",
        b"[],[]",
        b"\xff",
        b'[[1,"shop","production",7,null,null]]',
    ],
)
def test_what_is_no_entry_is_a_miss(
    cache: TokenCache, store: Database, client: redis.Redis, value: bytes
) -> None:
    first, second = add(store, 1), add(store, 2)
    cache.resolve("fcm", [2], [second], "shop")
    client.set("user:1:tokens:fcm", value)
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
    before = client.get("user:1:tokens:fcm")
    assert isinstance(before, bytes)
    crash(redis_server)
    new = register(store, Device(2, "shop", "fcm", token(1)), cache=cache).device_id
    assert cache.behind
    redis_server.start()
    with redis_server.client() as other:
        other.set("user:1:tokens:fcm", before)  # as a Redis with persistence would have it
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
        other.mset({cache_key("fcm", user): "[]" for user in range(1, 200)} | {"journal:1": "stays"})
    clock.now += 10
    device = add(store, 1)
    assert cache.resolve("fcm", [1], [device], "shop").tokens == [token(1).encode()]
    with redis_server.client() as other:
        assert other.get("journal:1") == b"stays"
        assert other.get(cache_key("fcm", 2)) is None
    assert not cache.behind


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_warming(cache: TokenCache, store: Database, client: redis.Redis, page: int) -> None:
    devices: dict[int, list[int]] = {}
    for n in range(1, 101):
        user = 1 + n % 30
        devices.setdefault(user, []).append(add(store, user, n))
    away = add(store, 500, 500, last_seen=datetime.now(UTC) - 31 * DAY)
    deactivate(store, devices[1].pop())
    client.set(cache_key("fcm", 2), "")
    report = warm(store, cache, page=page)
    assert report.complete
    # A tombstone stays a tombstone, and who was away stays away.
    assert (report.devices, report.entries) == (100, 29)
    for user in set(devices) - {2}:
        assert sorted(known[0] for known in entry(client, user)) == devices[user]
    found = cache.resolve(
        "fcm",
        [user for user in devices for _ in devices[user]],
        [d for ids in devices.values() for d in ids],
        "shop",
    )
    assert found.misses == len(devices[2])
    assert cache.resolve("fcm", [500], [away], "shop").tokens == [token(500).encode()]


def test_warming_for_one_app_takes_its_users_with_all_their_devices(
    cache: TokenCache, store: Database, client: redis.Redis
) -> None:
    add(store, 1)
    add(store, 2)
    add(store, 2, 20, app="news")
    assert warm(store, cache, app="news").entries == 1
    assert len(entry(client, 2)) == 2
    assert warm(store, cache, platforms=("apns",)).entries == 0


def test_clearing_and_counting(cache: TokenCache, client: redis.Redis) -> None:
    client.mset(
        {cache_key("fcm", user): "[]" for user in range(1, 3001)} | {cache_key("apns", 1): "[]", "other": "x"}
    )
    found = module.stats(client)
    assert found.entries == {"apns": 1, "fcm": 3000}
    assert found.sampled_bytes > 0
    assert module.clear(client) == 3001
    assert sorted(client.keys()) == [b"other", EPOCH_KEY.encode()]
    assert module.stats(client) == module.CacheStats({}, 0)
