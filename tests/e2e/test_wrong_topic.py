"""Workers that were started with a wrong topic: a real broadcast stops, no token is lost, and the alert can be scraped."""

from __future__ import annotations

import urllib.request
import uuid
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import text

from pushq.demo.fleet import Fleet
from pushq.embedded.redis import RedisServer
from pushq.embedded.server import free_port
from tests.e2e.world import World, open_world

DEVICES = 20_000  # about half of them for APNs
RIGHT, WRONG = "com.example.shop", "com.example.shop.voip"


def tokens(world: World) -> dict[tuple[str, bool], int]:
    """Devices by platform and whether they are active."""
    with world.database.begin() as connection:
        rows = connection.execute(
            text("SELECT platform, is_active, count(*) FROM device_tokens GROUP BY 1, 2")
        )
        return {(platform, active): count for platform, active, count in rows}


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text_: str = answer.read().decode()
        return text_


def resume(world: World, send_id: uuid.UUID) -> None:
    world.run("resume", str(send_id))


def test_a_wrong_topic_stops_the_send_and_costs_no_token(
    database: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with (
        open_world(
            tmp_path,
            database_url=database,
            redis_url=redis_server.url(0),
            broker_url=redis_server.url(1),
            workers=(),
        ) as world,
        ExitStack() as stack,
    ):
        config = world.mock.config_file
        config.write_text(config.read_text().replace(f'"{RIGHT}"', f'"{WRONG}"'))
        world.import_devices(DEVICES, dead_ratio=0.0)
        before = tokens(world)
        assert before["apns", True] >= 9_900
        world.fleet = stack.enter_context(Fleet(world.environment, tmp_path, workers=("core",)))
        folder, port = tmp_path / "apns", free_port()
        folder.mkdir()
        with Fleet(
            world.environment | {"PUSHQ_METRICS_PORT": str(port)}, folder, workers=("apns",), beat=False
        ):
            assert 'pushq_mass_invalidation_held{app="shop",platform="apns"} 0.0' in scrape(port)
            send_id = world.send("--segment", "all", "--platform", "apns")
            held = world.until(send_id, lambda p: p.state == "paused")
            assert held.error is not None
            assert "DeviceTokenNotForTopic" in held.error
            assert "apps.shop.apns.topic" in held.error
            assert 'pushq_mass_invalidation_held{app="shop",platform="apns"} 1.0' in scrape(port)
        assert world.mock.accepted("apns") == {}
        # Mended, and resumed: everybody gets it, once.
        config.write_text(config.read_text().replace(f'"{WRONG}"', f'"{RIGHT}"'))
        with Fleet(world.environment, folder, workers=("apns",), beat=False):
            resume(world, send_id)
            done = world.finished(send_id)
        assert (done.state, done.total("accepted")) == ("done", before["apns", True])
        assert world.mock.accepted("apns") == dict.fromkeys(world.alive("apns"), 1)
        assert tokens(world) == before
