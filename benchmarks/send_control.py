"""What an operator's orders cost on a large send: cancel, replay, progress and export, on a ledger made up in SQL.

    python benchmarks/send_control.py [--recipients 1000000] [--failed 0.2] [--formats csv,jsonl,parquet]

It starts a private PostgreSQL (pushq.embedded). CPU is that of this process, without PostgreSQL's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import text

from pushq import control
from pushq.database import Database
from pushq.embedded import Services
from pushq.ledger.outcomes import Outcome
from pushq.ledger.schema import upgrade
from pushq.service_urls import ServiceUrl

BATCH = 2500

SEND = """
INSERT INTO sends (id, kind, app, guarantee, fingerprint, notification, audience, options, state, called_at, expires_at, planned_at)
VALUES (:id, 'broadcast', 'shop', 'at_most_once', '', '{"title": "x"}', '{"segments": ["all"]}', '{"platforms": ["apns"]}',
        'sending', now(), now() + interval '1 day', now())
"""
BATCHES = """
INSERT INTO send_batches (send_id, batch_no, platform, recipients, user_ids, device_ids)
SELECT :id, b, 'apns', :size, ids, ids FROM generate_series(0, :last) b,
       LATERAL (SELECT array_agg(b * :size + i) AS ids FROM generate_series(1, :size) i) x
"""
SETTLED = """
UPDATE send_batches SET state = 'done', settled_at = now(), accepted = recipients - :failed, exhausted = :failed,
       outcomes = CAST(:outcomes AS bytea), attempts = CAST(:attempts AS bytea) WHERE send_id = :id
"""
LETTERS = """
INSERT INTO dead_letters (send_id, batch_no, position, user_id, device_id, app, platform, outcome, status, reason, attempt)
SELECT send_id, batch_no, p, user_ids[p + 1], device_ids[p + 1], 'shop', platform, 'exhausted', 503, 'ServiceUnavailable', 3
FROM send_batches, generate_series(0, :failed - 1) p WHERE send_id = :id
"""


class Ledger:
    def __init__(self, database: Database) -> None:
        self.database = database

    def run(self, statement: str, **params: object) -> None:
        with self.database.begin() as connection:
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text(statement), params)

    def planned(self, recipients: int) -> uuid.UUID:
        send_id = uuid.uuid4()
        self.run(SEND, id=send_id)
        self.run(BATCHES, id=send_id, size=BATCH, last=recipients // BATCH - 1)
        return send_id

    def settled(self, recipients: int, failed: int) -> uuid.UUID:
        send_id = self.planned(recipients)
        outcomes = bytes([Outcome.EXHAUSTED]) * failed + bytes([Outcome.ACCEPTED]) * (BATCH - failed)
        attempts = bytes([3]) * failed + bytes([1]) * (BATCH - failed)
        self.run(SETTLED, id=send_id, failed=failed, outcomes=outcomes, attempts=attempts)
        self.run(LETTERS, id=send_id, failed=failed)
        self.run("UPDATE sends SET state = 'done', finished_at = now() WHERE id = :id", id=send_id)
        self.run("ANALYZE send_batches, dead_letters")
        return send_id


def measure(what: str, recipients: int, step: Callable[[], object]) -> None:
    started, cpu = time.monotonic(), time.process_time()
    step()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    print(
        f"{what:<28}{seconds:8.2f} s {cpu:8.2f} s CPU {recipients / seconds:14,.0f} recipients/s", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--failed", type=float, default=0.2)
    parser.add_argument("--formats", default="csv,jsonl,parquet")
    options = parser.parse_args()
    recipients = options.recipients // BATCH * BATCH
    failed = round(BATCH * options.failed)
    with Services() as services, tempfile.TemporaryDirectory() as folder:
        url = services.database_url
        upgrade(url)
        database = Database(ServiceUrl(url), pool_size=2)
        ledger = Ledger(database)
        print(f"{recipients:,} recipients in {recipients // BATCH:,} batches, {failed / BATCH:.0%} failed")
        send_id = ledger.planned(recipients)
        measure("cancel, nothing begun", recipients, lambda: control.cancel(send_id, database=database))
        ended = ledger.settled(recipients, failed)
        measure("progress", recipients, lambda: control.progress(ended, database=database))
        for format_ in options.formats.split(","):
            path = Path(folder) / f"export.{format_}"
            measure(
                f"export {format_}",
                recipients,
                lambda path=path: control.export(ended, path, database=database),
            )
            print(f"{'':<28}{path.stat().st_size / 1e6:8.1f} MB")
            path.unlink()
        tracemalloc.start()
        control.export(ended, Path(folder) / "small.csv", outcomes=["exhausted"], database=database)
        print(
            f"{'export csv, only failed':<28}{tracemalloc.get_traced_memory()[1] / 1e6:8.1f} MB of Python's memory at most"
        )
        tracemalloc.stop()
        failures = recipients * failed // BATCH
        choices = {
            "replay, dry run": {"dry_run": True},
            "replay by reason": {"reasons": ["ServiceUnavailable"]},
        }
        for what, more in choices.items():
            measure(
                what,
                failures,
                lambda more=more: control.replay(ended, ["exhausted"], database=database, **more),
            )
        measure("cancel, a fifth open", recipients, lambda: control.cancel(ended, database=database))
        measure("replay", failures, lambda: control.replay(ended, ["cancelled"], database=database))
        database.close()


if __name__ == "__main__":
    main()
