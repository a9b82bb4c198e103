"""How fast a token file goes in, beside a plain COPY of the same rows into a table without indexes in the same run.

    python benchmarks/token_import.py [--rows 1000000] [--format csv|jsonl] [--quoted] [--database URL] [--json]

Without ``--database`` it starts a private PostgreSQL and Redis (pushq.embedded). A database that is given must be a throw-away
one: its devices are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import psycopg
from sqlalchemy import text

from pushq.database import Database
from pushq.embedded import Services
from pushq.ledger.schema import upgrade
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.tokens import TokenCache, import_file
from pushq.tokens.rows import COPY_COLUMNS

PLACES = (
    ("en", "US", "America/New_York"),
    ("de", "DE", "Europe/Berlin"),
    ("pt-BR", "BR", "America/Sao_Paulo"),
    ("fr", "FR", "Europe/Paris"),
)


def generate(path: Path, rows: int, form: str, *, quoted: bool) -> None:
    """Devices as an export has them: 60 % APNs, 40 % FCM, eleven columns; ``quoted``: attributes as well."""
    rng = random.Random(1)
    names = [
        "user_id",
        "app",
        "platform",
        "environment",
        "token",
        "language",
        "country",
        "timezone",
        "app_version",
        "tags",
        "last_seen",
    ]
    with path.open("w") as file:
        if form == "csv":
            file.write(",".join(names + ["attributes"] * quoted) + "\n")
        for user_id in range(1, rows + 1):
            random_part = os.urandom(32).hex()
            apns = rng.random() < 0.6
            language, country, timezone = PLACES[user_id % 4]
            values = [
                str(user_id), "shop", "apns" if apns else "fcm", "production",
                random_part if apns else f"{random_part[:22]}:APA91b{random_part * 2}"[:163],
                language, country, timezone, f"{user_id % 5}.{user_id % 19}.{user_id % 7}", "news|vip" if user_id % 3 else "",
                f"2026-{1 + user_id % 9:02d}-{1 + user_id % 28:02d}T{user_id % 24:02d}:{user_id % 60:02d}:00Z",
            ]  # fmt: skip
            if form == "csv":
                file.write(",".join(values) + (f',"{{""name"": ""user {user_id}""}}"\n' if quoted else "\n"))
            else:
                record: dict[str, object] = {
                    **dict(zip(names, values, strict=True)),
                    "user_id": user_id,
                    "tags": ["news", "vip"],
                }
                file.write(
                    json.dumps(record | ({"attributes": {"name": f"user {user_id}"}} if quoted else {}))
                    + "\n"
                )


def plain_copy(url: str) -> float:
    """Seconds that COPY takes for the rows that were imported, from text in memory, into a table with the same columns."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("DROP TABLE IF EXISTS import_yardstick")
        cursor.execute(f"CREATE TABLE import_yardstick AS SELECT {COPY_COLUMNS} FROM device_tokens LIMIT 0")
        with cursor.copy(f"COPY (SELECT {COPY_COLUMNS} FROM device_tokens) TO STDOUT") as copy:
            blocks = [bytes(block) for block in copy]
        started = time.perf_counter()
        with cursor.copy(f"COPY import_yardstick ({COPY_COLUMNS}) FROM STDIN") as copy:
            for start in range(0, len(blocks), 500):
                copy.write(b"".join(blocks[start : start + 500]))
        seconds = time.perf_counter() - started
        cursor.execute("DROP TABLE import_yardstick")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv")
    parser.add_argument("--quoted", action="store_true", help="with attributes, which need quotes in CSV")
    parser.add_argument("--database", help="URL of a throw-away database; default: a private server")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / f"devices.{options.format}"
        generate(path, options.rows, options.format, quoted=options.quoted)
        cache = None
        if options.database:
            url = options.database
        else:
            services = stack.enter_context(Services())
            url = services.database_url
        upgrade(ServiceUrl(url))
        database = Database(ServiceUrl(url), pool_size=4)
        stack.callback(database.close)
        if not options.database:
            client = open_redis(ServiceUrl(services.redis_url))
            stack.callback(client.close)
            cache = TokenCache(client, database, timedelta(days=30))
        with database.begin() as connection:
            connection.execute(text("TRUNCATE device_tokens"))
        cpu = time.process_time()
        first = import_file(database, path, cache=cache)
        cpu = time.process_time() - cpu
        copied = plain_copy(url)
        second = import_file(database, path, cache=cache)
        assert (first.inserted, first.rejected, second.updated) == (options.rows, 0, options.rows)
    figures = {
        "rows": options.rows,
        "import_per_second": first.per_second,
        "python_cpu_us_per_row": round(cpu / options.rows * 1e6, 2),
        "plain_copy_per_second": round(options.rows / copied),
        "ratio_to_plain_copy": round(copied / first.seconds, 2),
        "again_per_second": second.per_second,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>24} {value:>12,}")


if __name__ == "__main__":
    main()
