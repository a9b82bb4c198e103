"""How soon after the last answer the tokens of a send to dead devices only are out of use.

Example: .venv/bin/python -m benchmarks.dead_tokens --devices 300000 --json

Every device is called dead by its provider (APNs 410, FCM 404), three of five on APNs. Printed are the seconds from the last settled
batch to the last processed dead letter. Exit code 1 when a token stays active, or when it takes more than 15 s.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks.ground import Ground, ground, peaks

LIMIT_S = 15.0


def measure(place: Ground, devices: int) -> dict[str, Any]:
    apns = devices * 3 // 5
    place.add_devices("apns", apns, first=1, dead=True)
    place.add_devices("fcm", devices - apns, first=apns + 1, dead=True)
    # One living device for each: without any acceptance the guard would rightly doubt the set-up.
    place.add_devices("apns", 1, first=devices + 1)
    place.add_devices("fcm", 1, first=devices + 2)
    with peaks(place.fleet.pids()) as memory:
        send = place.send("--guarantee", "at_least_once")
        state = place.finished(send, timeout=300)
    lag = place.scalar(
        "SELECT extract(epoch FROM (SELECT max(processed_at) FROM dead_letters WHERE send_id = :id)"
        " - (SELECT max(settled_at) FROM send_batches WHERE send_id = :id))::float",
        id=send,
    )
    active = place.scalar("SELECT count(*) FROM device_tokens WHERE is_active AND token LIKE 'dead%'")
    return {
        "devices": devices,
        "dead": state.total("dead"),
        "still_active": active,
        "send_s": round(state.seconds, 2),
        "last_answer_to_last_token_s": round(lag, 2),
        "peak_memory_mb": memory(),
        "error": state.error,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=300_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ground(mock={"latency_ms": 80.0}) as place:
        found = measure(place, options.devices)
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))
    return int(found["still_active"] > 0 or found["last_answer_to_last_token_s"] > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
