"""What it costs that everybody gets his own: a broadcast in four languages with names, against the same text for all.

Example: .venv/bin/python -m benchmarks.personalised --devices 200000 --pairs 5

Both go to the same devices, through real workers, to an nginx that says 200 to everything (the mock provider has to look at every body
that it has not seen, which would be its own cost and not the sender's). They take turns, the first of each pair in turn as well; an
unmeasured send goes before, so that the token cache is warm for both. The rate is that of the devices settled after the first batch, from
that batch to the last: what comes before it (the call, the queue, the first page of the plan) is the same for both. Printed are all pairs and the median of their ratios. Exit code 1 when it is below 0.7, or when a device was not reached.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy import text

from benchmarks.ground import Ground, ground
from benchmarks.machine import machine
from benchmarks.nginx import Nginx, nginx
from benchmarks.results import replace_section

RESULTS: Final = Path(__file__).with_name("RESULTS.md")
WANTED: Final = 0.7
#: As many bytes for all as the personal one has for most.
PLAIN: Final[dict[str, Any]] = {
    "title": "Hello Alexandra",
    "body": "Your order of 20 November is on its way to you.",
}
PERSONAL: Final[dict[str, Any]] = {
    "title": "Hello {first_name|friend}",
    "body": "Your order of {ordered} is on its way to you.",
    "languages": {
        "de": {
            "title": "Hallo {first_name|du}",
            "body": "Deine Bestellung vom {ordered} ist unterwegs zu dir.",
        },
        "pt-BR": {"title": "Oi {first_name}", "body": "Seu pedido de {ordered} está a caminho."},
        "ja": {"title": "{first_name}さん", "body": "{ordered}のご注文を発送しました。"},
    },
}

_PEOPLE = text("""
UPDATE device_tokens
   SET language = (ARRAY['en-US', 'de-AT', 'pt-BR', 'ja', NULL])[1 + id % 5],
       attributes = jsonb_build_object('first_name', 'Alex ' || id, 'ordered', '20 November', 'plan', 'pro')
""")


def config(folder: Path, server: Nginx) -> Path:
    """An app whose APNs is nginx."""
    made = server.credentials
    path = folder / "pushq.toml"
    path.write_text(
        f'[apps.shop.apns]\nteam_id = "{made.team_id}"\nkey_id = "{made.key_id}"\nkey_file = "{made.apns_key_file}"\n'
        f'topic = "com.example.shop"\nurl = "{server.url}"\nca_file = "{made.ca_file}"\n'
    )
    return path


def send(place: Ground, message: Path, devices: int) -> tuple[float, float]:
    """Devices a second, and microseconds of the worker's CPU for each."""
    worker = psutil.Process(place.fleet.pids()["apns"])
    before = worker.cpu_times()
    title = json.loads(message.read_text())["title"]
    sent = place.send("--notification", str(message), "--title", title, "--guarantee", "at_most_once")
    state = place.finished(sent, timeout=300)
    after = worker.cpu_times()
    if state.total("accepted") != devices:
        raise SystemExit(f"{state.total('accepted')} of {devices} devices reached: {state.error}")
    rate = place.scalar(
        "SELECT (sum(recipients) - min(recipients)) / extract(epoch FROM max(settled_at) - min(settled_at))::float"
        " FROM send_batches WHERE send_id = :id",
        id=sent,
    )
    spent = after.user + after.system - before.user - before.system
    return rate, spent / devices * 1e6


def measure(place: Ground, folder: Path, devices: int, pairs: int) -> dict[str, Any]:
    messages = {}
    for name, message in (("plain", PLAIN), ("personal", PERSONAL)):
        messages[name] = folder / f"{name}.json"
        messages[name].write_text(json.dumps(message))
    place.add_devices("apns", devices, first=1)
    with place.database.begin() as connection:
        connection.execute(_PEOPLE)
    send(place, messages["plain"], devices)
    found: list[dict[str, Any]] = []
    for number in range(pairs):
        order = ("plain", "personal") if number % 2 == 0 else ("personal", "plain")
        result = {name: send(place, messages[name], devices) for name in order}
        found.append(
            {
                "first": order[0],
                **{f"{name}_per_s": round(result[name][0]) for name in messages},
                **{f"{name}_cpu_us": round(result[name][1], 1) for name in messages},
                "ratio": round(result["personal"][0] / result["plain"][0], 3),
                "cpu_ratio": round(result["plain"][1] / result["personal"][1], 3),
            }
        )
    return {
        "devices": devices,
        "pairs": found,
        "ratio": statistics.median(pair["ratio"] for pair in found),
        "cpu_ratio": statistics.median(pair["cpu_ratio"] for pair in found),
        "machine": machine(),
    }


def section(found: dict[str, Any]) -> str:
    """For RESULTS.md."""
    on = found["machine"]
    rows = "\n".join(
        f"| {p['first']} | {p['plain_per_s']:,} | {p['personal_per_s']:,} | {p['ratio']} | {p['plain_cpu_us']} | {p['personal_cpu_us']} |"
        f" {p['cpu_ratio']} |"
        for p in found["pairs"]
    )
    return f"""## Personalised against the same for all

`python -m benchmarks.personalised --devices {found["devices"]} --pairs {len(found["pairs"])} --write`: four languages and two values for each device,
against one text of the same length, over APNs to nginx, in turns. Median ratio of the rates **{found["ratio"]}** (wanted: {WANTED}), of the worker's CPU time
per device {found["cpu_ratio"]}. {on["cpu"]}, {on["cores"]} cores shared with servers and provider, {on["system"]}; load average at the end {on["load_average"]}: where
other programs run, the rates move with them, and the CPU time is what says most.

| first | devices/s, plain | personalised | ratio | CPU µs/device, plain | personalised | ratio |
|---|---|---|---|---|---|---|
{rows}"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=200_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="also write the section of RESULTS.md")
    options = parser.parse_args()
    if not 1000 <= options.devices <= 5_000_000 or not 1 <= options.pairs <= 50:
        parser.error("--devices is from 1,000 to 5,000,000, --pairs from 1 to 50")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with nginx(folder, frozenset()) as server:
            settings = {"PUSHQ_CONFIG": str(config(folder, server))}
            with ground(mock={}, settings=settings) as place:
                found = measure(place, folder, options.devices, options.pairs)
    if options.write:
        RESULTS.write_text(replace_section(RESULTS.read_text(), "personalised", section(found)))
    if options.json:
        print(json.dumps(found))
    else:
        for pair in found["pairs"]:
            print("  ".join(f"{key} {value}" for key, value in pair.items()))
        print(f"median ratio {found['ratio']} (wanted: {WANTED}), of CPU time {found['cpu_ratio']}")
        print(found["machine"])
    return int(found["ratio"] < WANTED)


if __name__ == "__main__":
    sys.exit(main())
