"""How many devices a second one worker can name to HMS: ``python benchmarks/hms_rate.py [--devices N] [--latency-ms N] [--json]``.

One patched process with the client of a worker, the mock in another. Each row is one way to ask: HTTP/1.1 or HTTP/2, a thousand
devices in a request or one (every recipient with a name of his own).
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402 - what follows must find the patched modules
import json  # noqa: E402
import time  # noqa: E402
import uuid  # noqa: E402
from datetime import UTC, datetime, timedelta  # noqa: E402
from typing import Any, cast  # noqa: E402

from pushq.app_settings import HmsSettings, load_apps  # noqa: E402
from pushq.http2 import Code  # noqa: E402
from pushq.mock import MockProcess  # noqa: E402
from pushq.notification import parse_notification  # noqa: E402
from pushq.providers.client import Message  # noqa: E402
from pushq.providers.hms.client import HmsClient  # noqa: E402

TIMEOUT_S = 300.0
ROWS = (("http/1.1", False, False), ("h2", True, False), ("http/1.1", False, True), ("h2", True, True))


def measure(mock: MockProcess, devices: int, *, http2: bool, personal: bool) -> dict[str, Any]:
    app = load_apps(mock.config_file)["shop"].hms
    assert app is not None
    settings = HmsSettings.model_validate(
        app.model_dump()
        | {
            "client_secret_file": None,
            "service_account_file": mock.ready["hms"]["service_account_file"],
        }
    )
    # A service account asks nobody for a token, and so needs no Redis.
    client = HmsClient("shop", settings, cast("Any", None), request_timeout_s=60)
    pool = client.pool("production")
    pool._http2 = http2
    now = datetime.now(UTC)
    notification = parse_notification({"title": "Sale", "body": "20% off until midnight"})
    message = Message(uuid.uuid4(), notification, now, now + timedelta(hours=1), None)
    shared = client.format(message).write(notification)
    mock.reset()
    tokens = [b"IQAAAACy0%0121d" % number for number in range(devices)]
    before_cpu, before = mock.stats()["cpu_s"], time.perf_counter()
    cpu = time.process_time()
    bursts = []
    for start in range(0, devices, 1000):
        chunk = tokens[start : start + 1000]
        contents = [shared.replace(b"Sale", b"Sale %d" % n) for n in range(len(chunk))] if personal else None
        burst = client.burst(message, chunk, range(start, start + len(chunk)), now, contents)
        pool.submit(burst, TIMEOUT_S)
        bursts.append(burst)
    for burst in bursts:
        if not burst.wait(TIMEOUT_S):
            raise SystemExit(f"not finished: {burst}")
    seconds, cpu = time.perf_counter() - before, time.process_time() - cpu
    accepted = sum(burst.codes.count(Code.OK) for burst in bursts)
    found = mock.stats()
    client.close(5)
    if accepted != devices or found["platforms"]["hms"]["accepted"] != devices:
        raise SystemExit(f"{accepted} of {devices} accepted: {bursts[0]} {bursts[0].reasons.get(0)}")
    return {
        "http": "h2" if http2 else "http/1.1",
        "devices_per_request": 1 if personal else 1000,
        "devices": devices,
        "requests": found["platforms"]["hms"]["requests"],
        "connections": pool.stats().opened,
        "seconds": round(seconds, 3),
        "devices_per_second": round(devices / seconds),
        "devices_per_cpu_second": round(devices / cpu),
        "mock_cpu_share": round((found["cpu_s"] - before_cpu) / seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, default=200_000)
    parser.add_argument("--personal-devices", type=int, default=4_000)
    parser.add_argument("--latency-ms", type=float, default=80.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with MockProcess(latency_ms=options.latency_ms) as mock:
        for _, http2, personal in ROWS:
            count = options.personal_devices if personal else options.devices
            rows.append(measure(mock, count, http2=http2, personal=personal))
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['http']:>8}  {row['devices_per_request']:>5} a request  {row['devices_per_second']:>9,} devices/s"
            f"  {row['devices_per_cpu_second']:>9,} a CPU second  {row['connections']:>3} connections"
            f"  mock at {row['mock_cpu_share']:.0%} of a core"
        )


if __name__ == "__main__":
    main()
