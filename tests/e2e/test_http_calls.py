"""From an HTTP request to a phone: every call that was answered with 202 is delivered, once."""

from __future__ import annotations

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.world import open_world
from tests.integration.web_process import open_web

CALLS = 60
CALLERS = 6


@pytest.mark.timeout(300)
def test_every_accepted_call_is_delivered_once(
    database: str, redis_url: str, broker_url: str, tmp_path: Path
) -> None:
    with open_world(tmp_path, database_url=database, redis_url=redis_url, broker_url=broker_url) as world:
        devices = world.import_devices(2 * CALLS, dead_ratio=0.0)
        owned = Counter(device.user_id for device in devices)
        users = list(owned)[:CALLS]
        with open_web(world.environment, tmp_path) as web, ThreadPoolExecutor(CALLERS) as pool:
            clients = [web.client("send", "sends:read") for _ in range(CALLERS)]

            def call(number: int) -> uuid.UUID:
                # Every call twice, as if the first answer had been lost.
                for _ in range(2):
                    answer = clients[number % CALLERS].post(
                        "/v1/notifications",
                        json={"user_ids": [users[number]], "notification": {"title": f"Hi {number}"}},
                        headers={"Idempotency-Key": f"call {number}"},
                    )
                    assert answer.status_code == 202, answer.text
                return uuid.UUID(answer.json()["send_id"])

            accepted = list(pool.map(call, range(CALLS)))
            assert len(set(accepted)) == CALLS
            for user, send_id in zip(users, accepted, strict=True):
                assert world.finished(send_id).total("accepted") == owned[user]
            shown = clients[0].get(f"/v1/sends/{accepted[0]}").json()
            assert (shown["state"], shown["accepted"], shown["app"]) == ("done", owned[users[0]], "shop")
            broadcast = clients[0].post(
                "/v1/broadcasts",
                json={"notification": {"title": "Sale"}, "audience": {"segments": ["all"]}, "app": "shop"},
            )
            assert world.finished(uuid.UUID(broadcast.json()["send_id"])).total("accepted") == 2 * CALLS
        reached = Counter(
            {token: times for counts in world.provider_counts().values() for token, times in counts.items()}
        )
        called = set(users)
        assert reached == Counter({device.token: 2 if device.user_id in called else 1 for device in devices})
