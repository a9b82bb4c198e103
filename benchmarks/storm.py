"""A provider that fails in every way at once, beside one that works.

Example: .venv/bin/python -m benchmarks.storm --devices 200000 --json

Two sends to the same devices (half on APNs, half on FCM): one undisturbed, and one while the platform of ``--storm`` answers 30 % of
its requests with 503, 10 % with 429 and Retry-After 5, and leaves some without an answer. What must hold at the end:

    the dead letters of the send are exactly its exhausted recipients
    no request came before the end of the wait that its Retry-After had asked for (the mock counts them)
    no recipient was tried more often than PUSHQ_RETRY_MAX_ATTEMPTS
    the other platform's rate is within 10 % of its undisturbed one
    memory of the workers stays below 400 MB

The rates are limited by the providers (streams and latency), not by this machine's processors, so that they can be compared:
``--streams`` and ``--latency-ms``. Exit code 1 when something does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from benchmarks.ground import Ground, ground, peaks
from pushq.ledger.outcomes import Outcome

ATTEMPTS = 3
MEMORY_MB = 400
OTHER = {"apns": "fcm", "fcm": "apns"}
#: The words of each provider for "come back later".
SERVER_ERROR = {"apns": "ServiceUnavailable", "fcm": "UNAVAILABLE"}
TOO_MANY = {"apns": "TooManyRequests", "fcm": "QUOTA_EXCEEDED"}


def faults(platform: str, retry_after: int, stalls: float) -> list[dict[str, Any]]:
    """The storm. A fault sees what those before it let pass, hence 0.1 / 0.7 for 10 % of all."""
    return [
        {"platform": platform, "probability": stalls, "stall": True},
        {
            "platform": platform,
            "probability": 0.3,
            "answer": {"status": 503, "reason": SERVER_ERROR[platform]},
        },
        {
            "platform": platform,
            "probability": 0.1 / 0.7,
            "answer": {"status": 429, "reason": TOO_MANY[platform], "retry_after": retry_after},
        },
    ]


def rate(place: Ground, send: uuid.UUID, platform: str) -> float:
    """Recipients a second, from the first batch's planning to the last one's settlement."""
    return float(
        place.scalar(
            "SELECT sum(recipients) / extract(epoch FROM max(settled_at) - min(created_at))::float"
            " FROM send_batches WHERE send_id = :id AND platform = :platform",
            id=send,
            platform=platform,
        )
    )


def exhausted(place: Ground, send: uuid.UUID) -> tuple[list[int], list[int]]:
    """Devices whose outcome says exhausted, and those with such a dead letter, both sorted."""
    with place.database.begin() as connection:
        batches = connection.execute(
            text("SELECT device_ids, outcomes FROM send_batches WHERE send_id = :id"), {"id": send}
        ).all()
        letters = connection.execute(
            text("SELECT device_id FROM dead_letters WHERE send_id = :id AND outcome = 'exhausted'"),
            {"id": send},
        ).scalars()
        buried = sorted(letters)
    ended = sorted(
        device
        for batch in batches
        for device, outcome in zip(batch.device_ids, bytes(batch.outcomes), strict=True)
        if outcome == Outcome.EXHAUSTED
    )
    return ended, buried


def calm(place: Ground, devices: int, timeout_s: float) -> dict[str, float]:
    """Make the devices, and send to them undisturbed; the rate of each platform."""
    place.add_devices("apns", devices // 2, first=1)
    place.add_devices("fcm", devices - devices // 2, first=devices // 2 + 1)
    send = place.send("--guarantee", "at_least_once")
    place.finished(send, timeout_s)
    return {platform: rate(place, send, platform) for platform in OTHER}


def storm(
    place: Ground, devices: int, platform: str, *, retry_after: int, stalls: float, timeout_s: float
) -> dict[str, Any]:
    """Send to the devices that are there while ``platform`` fails, and tell what came of it."""
    other = OTHER[platform]
    place.mock.reset()
    place.mock.set_faults(faults(platform, retry_after, stalls), seed=1)
    with peaks(place.fleet.pids()) as memory:
        send = place.send("--guarantee", "at_least_once")
        state = place.finished(send, timeout_s)
    stats = place.mock.stats()["platforms"]
    counted = place.mock.accepted(platform)
    ended, buried = exhausted(place, send)
    mine = state.platforms[platform]
    return {
        "devices": devices,
        "storm": platform,
        "seconds": round(state.seconds, 1),
        "state": state.state,
        "error": state.error,
        "accepted": mine["accepted"],
        "exhausted": mine["exhausted"],
        "pending": mine["pending"],
        "dead_letters": len(buried),
        "dead_letters_are_the_exhausted": ended == buried,
        "requests": stats[platform]["requests"],
        "requests_per_recipient": round(stats[platform]["requests"] / mine["devices"], 3),
        "early": stats[platform]["early"],
        "reached_of_accepted": sum(count > 0 for count in counted.values()),
        "other_rate": round(rate(place, send, other)),
        "own_rate": round(rate(place, send, platform)),
        "peak_memory_mb": memory(),
    }


def problems(found: dict[str, Any]) -> list[str]:
    """What does not hold, in words."""
    checks = [
        (found["state"] == "done", f"the send ended as {found['state']}: {found['error']}"),
        (found["pending"] == 0, "some recipients have no outcome"),
        (found["dead_letters_are_the_exhausted"], "the dead letters are not the exhausted recipients"),
        (found["early"] == 0, f"{found['early']} requests before their Retry-After"),
        (found["requests_per_recipient"] <= ATTEMPTS, "more attempts than the maximum"),
        (found["accepted"] == found["reached_of_accepted"], "the ledger and the provider disagree"),
        (max(found["peak_memory_mb"].values()) < MEMORY_MB, f"more than {MEMORY_MB} MB in a worker"),
    ]
    return [problem for held, problem in checks if not held]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=200_000)
    parser.add_argument("--storm", choices=sorted(OTHER), default="apns")
    parser.add_argument("--retry-after", type=int, default=5)
    parser.add_argument("--stalls", type=float, default=0.0002, help="share of requests without an answer")
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--streams", type=int, default=100, help="per APNs connection; FCM gets a quarter")
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    mock = {
        "latency_ms": options.latency_ms,
        "apns_streams": options.streams,
        "fcm_streams": max(1, options.streams // 4),
    }
    with ground(mock=mock) as place:
        before = calm(place, options.devices, options.timeout)
        found = storm(
            place,
            options.devices,
            options.storm,
            retry_after=options.retry_after,
            stalls=options.stalls,
            timeout_s=options.timeout,
        )
    found |= {
        "other_rate_calm": round(before[OTHER[options.storm]]),
        "own_rate_calm": round(before[options.storm]),
    }
    wrong = problems(found)
    if abs(found["other_rate"] / found["other_rate_calm"] - 1) > 0.1:
        wrong.append("the other platform's rate differs by more than 10 %")
    if options.json:
        print(json.dumps(found | {"problems": wrong}))
    else:
        print("\n".join(f"{name}: {value}" for name, value in (found | {"problems": wrong}).items()))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
