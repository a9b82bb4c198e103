"""Imports into a real PostgreSQL: nothing is lost, nothing is taken twice, and a second run does no harm."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pushq.database import Database
from pushq.errors import InvalidRequest, ServiceUnavailable
from pushq.service_urls import ServiceUrl
from pushq.tokens import Device, ImportReport, import_file, register, unregister
from pushq.tokens.importing import UnreadableFile, import_stream
from tests.services.faults import crash

HEADER = "user_id,app,platform,token\n"


@pytest.fixture
def store(database: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(database), pool_size=5)
    yield opened
    opened.close()


def token(number: int) -> str:
    return f"{number:022d}:APA91b{'x' * 20}"


def rows(store: Database) -> list[Any]:
    with store.begin() as connection:
        return list(connection.execute(text("SELECT * FROM device_tokens ORDER BY user_id, token")))


def active(store: Database) -> dict[str, int]:
    """Owner by token; fails if a token has two."""
    found = [row for row in rows(store) if row.is_active]
    owners = {row.token: row.user_id for row in found}
    assert len(owners) == len(found)
    return owners


def balanced(report: ImportReport) -> bool:
    parts = report.inserted + report.updated + report.superseded + report.repeated + report.rejected
    return report.records == parts


def load(
    store: Database, data: str | bytes, folder: Path, name: str = "devices.csv", **options: Any
) -> ImportReport:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    report = import_file(store, path, **options)
    assert balanced(report)
    return report


def test_a_file_with_everything_in_it(store: Database, tmp_path: Path) -> None:
    data = (
        "user_id,app,platform,environment,token,language,country,timezone,app_version,tags,attributes,last_seen,registered_at\n"
        f'1,shop,apns,sandbox,{"AB" * 32},pt_br,br,America/Sao_Paulo,4.2.0,a|b,"{{""name"": ""Ana\\tMaria""}}",'
        "2026-01-02T03:04:05Z,2026-01-01T00:00:00+01:00\n"
    )
    report = load(store, data, tmp_path)
    assert (report.records, report.inserted, report.rejects_file) == (1, 1, None)
    (row,) = rows(store)
    assert (row.user_id, row.app, row.platform, row.environment, row.token) == (
        1,
        "shop",
        "apns",
        "sandbox",
        "ab" * 32,
    )
    assert (row.language, row.country, row.timezone, row.app_version) == (
        "pt-BR",
        "BR",
        "America/Sao_Paulo",
        "4.2.0",
    )
    assert (row.tags, row.attributes) == (["a", "b"], {"name": "Ana\tMaria"})
    assert row.last_seen == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert row.registered_at == datetime(2025, 12, 31, 23, tzinfo=UTC)
    # Registering the same token finds the row: an import and a registration hash alike.
    device = Device(user_id=1, app="shop", platform="apns", environment="sandbox", token="ab" * 32)
    assert register(store, device).device_id == row.id


def test_a_broken_file_loses_only_its_broken_lines(store: Database, tmp_path: Path) -> None:
    broken = {
        3: b"x,shop,fcm," + token(3).encode(),
        4: b"4,shop,fcm",
        5: b"5,shop,fcm,short",
        6: b"6,shop,wns," + token(6).encode(),
        7: b"7,shop,fcm," + token(7).encode() + b"\xff",
        8: b"8,shop,fcm," + token(8).encode() + b"\0",
        9: b'9,shop,fcm,"' + token(9).encode(),
        10: b"10,shop,fcm," + b"y" * 10_000_000,
        11: b"\0\x01\x02",
    }
    lines = [HEADER.strip().encode()]
    lines += [broken.get(n, f"{n},shop,fcm,{token(n)}".encode()) for n in range(2, 1001)]
    data = b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n"
    report = load(store, data, tmp_path)
    assert (report.records, report.inserted, report.rejected) == (999, 999 - len(broken), len(broken))
    assert active(store) == {token(n): n for n in range(2, 1001) if n not in broken}
    assert report.rejects_file == str(tmp_path / "devices.csv.rejects.csv")
    rejects = Path(report.rejects_file)
    assert rejects.stat().st_mode & 0o077 == 0
    with rejects.open(newline="") as file:
        found = list(csv.reader(file))
    assert found[0] == ["line", "reason", "record"]
    assert [int(line) for line, _, _ in found[1:]] == sorted(broken)
    said = {int(line): reason for line, reason, _ in found[1:]}
    for number, word in {
        3: "user_id",
        4: "columns",
        5: "token",
        6: "platform",
        7: "UTF-8",
        8: "token",
        9: "quote",
        10: "longer",
        11: "columns",
    }.items():
        assert word in said[number]
    assert [record for line, _, record in found[1:] if line == "4"] == ["4,shop,fcm"]


def test_the_second_run_changes_nothing_but_the_time(store: Database, tmp_path: Path) -> None:
    data = HEADER + "".join(f"{n},shop,fcm,{token(n)}\n" for n in range(1, 5001))
    first = load(store, data, tmp_path)
    before = rows(store)
    second = load(store, data, tmp_path)
    assert (first.inserted, first.updated) == (5000, 0)
    assert (second.inserted, second.updated, second.moved) == (0, 5000, 0)
    after = rows(store)
    assert [(row.id, row.created_at, row.is_active) for row in after] == [
        (row.id, row.created_at, True) for row in before
    ]
    assert all(new.registered_at > old.registered_at for new, old in zip(after, before, strict=True))


def test_what_the_file_does_not_speak_of_stays(store: Database, tmp_path: Path) -> None:
    register(
        store,
        Device(
            user_id=1,
            app="shop",
            platform="fcm",
            token=token(1),
            language="de",
            tags=("a",),
            attributes={"n": 1},
        ),
    )
    load(store, HEADER + f"1,shop,fcm,{token(1)}\n", tmp_path)
    (row,) = rows(store)
    assert (row.language, row.tags, row.attributes) == ("de", ["a"], {"n": 1})
    line = {
        "user_id": 1,
        "app": "shop",
        "platform": "fcm",
        "token": token(1),
        "language": "fr",
        "tags": [],
        "attributes": {},
    }
    load(store, json.dumps(line), tmp_path, "devices.jsonl")
    (row,) = rows(store)
    assert (row.language, row.tags, row.attributes) == ("fr", [], {})


def test_a_token_in_the_file_moves_to_its_new_user(store: Database, tmp_path: Path) -> None:
    for n in range(1, 11):
        register(store, Device(user_id=n, app="shop", platform="fcm", token=token(n)))
    report = load(store, HEADER + "".join(f"{n + 100},shop,fcm,{token(n)}\n" for n in range(1, 21)), tmp_path)
    assert (report.inserted, report.moved) == (20, 10)
    assert active(store) == {token(n): n + 100 for n in range(1, 21)}
    assert {row.deactivation_reason for row in rows(store) if not row.is_active} == {"moved"}


@pytest.mark.parametrize("window", [1, 3, 100_000])
def test_the_last_of_equal_tokens_counts(store: Database, tmp_path: Path, window: int) -> None:
    """In one window they are known before they are stored, over several they are moves and updates."""
    lines = [(1, 1), (2, 1), (3, 2), (1, 1), (4, 3), (4, 3), (5, 1)]
    data = HEADER + "".join(f"{user},shop,fcm,{token(n)}\n" for user, n in lines)

    class Slow(io.BytesIO):
        """A line at a time, so that a window may end behind each of them."""

        def read(self, size: int | None = -1) -> bytes:
            return self.readline()

    report = import_stream(
        store, Slow(data.encode()), format="csv", rejects=tmp_path / "r.csv", window=window
    )
    assert balanced(report)
    assert active(store) == {token(1): 5, token(2): 3, token(3): 4}


def test_what_is_newer_than_the_file_stays(store: Database, tmp_path: Path) -> None:
    """A file that is imported late must not take back what phones have registered since."""
    old = datetime.now(UTC) - timedelta(days=10)
    register(
        store, Device(user_id=1, app="shop", platform="fcm", token=token(1), language="de")
    )  # newer than the record
    register(store, Device(user_id=20, app="shop", platform="fcm", token=token(2)))  # moved away since
    register(store, Device(user_id=3, app="shop", platform="fcm", token=token(3)))
    unregister(store, app="shop", platform="fcm", token=token(3))  # unregistered since
    header = "user_id,app,platform,token,language,registered_at\n"
    lines = "".join(f"{n},shop,fcm,{token(n)},fr,{old.isoformat()}\n" for n in (1, 2, 3, 4))
    report = load(store, header + lines, tmp_path)
    assert (report.superseded, report.inserted, report.updated, report.moved) == (3, 1, 0, 0)
    assert active(store) == {token(1): 1, token(2): 20, token(4): 4}
    assert {row.token: row.language for row in rows(store)}[token(1)] == "de"
    # Without a time in it, a record is as new as the import.
    report = load(store, HEADER + "".join(f"{n},shop,fcm,{token(n)}\n" for n in (1, 2, 3, 4)), tmp_path)
    assert report.superseded == 0
    assert active(store) == {token(n): n for n in (1, 2, 3, 4)}


def test_against_registering_one_by_one(store: Database, tmp_path: Path) -> None:
    """Random records, some of them repeated, imported in several files, leave the owners that registering each would leave."""
    rng = random.Random(7)
    owners: dict[str, int] = {}
    for part in range(4):
        records = [(rng.randrange(1, 30), token(rng.randrange(200))) for _ in range(150)]
        load(
            store,
            HEADER + "".join(f"{user},shop,fcm,{name}\n" for user, name in records),
            tmp_path,
            f"{part}.csv",
        )
        owners.update({name: user for user, name in records})
        assert active(store) == owners


def test_json_lines_packed(store: Database, tmp_path: Path) -> None:
    records = [
        {"user_id": n, "platform": "fcm", "token": token(n), "attributes": {"name": f"ünïcode \\ {n}\t"}}
        for n in range(1, 301)
    ]
    text_ = (
        "".join(json.dumps(record) + "\n" for record in records)
        + '{"user_id": 1, "platform": "fcm", "token": "x"}\n'
    )
    path = tmp_path / "devices.jsonl.gz"
    path.write_bytes(gzip.compress(text_.encode()))
    seen: list[int] = []
    report = import_file(store, path, app="shop", progress=seen.append)
    assert (report.inserted, report.rejected) == (300, 1)
    assert rows(store)[4].attributes == {"name": "ünïcode \\ 5\t"}
    assert seen[-1] == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"", "no line"),
        ("a.csv", b"user_id,app,platform\n1,shop,fcm\n", "no column token"),
        ("a.csv", "user_id,app,platform,token\n".encode("utf-16"), "UTF-16"),
        ("a.parquet", b"PAR1", "--format"),
        ("none.csv", None, "No such file"),
    ],
)
def test_files_that_are_none_are_refused(
    store: Database, tmp_path: Path, name: str, data: bytes | None, said: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidRequest) as caught:
        import_file(store, tmp_path / name)
    assert said in str(caught.value)
    assert rows(store) == []
    assert list(tmp_path.glob("*.rejects.csv")) == []


def test_a_packed_file_that_ends_too_early(store: Database, tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(
        gzip.compress((HEADER + "".join(f"{n},shop,fcm,{token(n)}\n" for n in range(1, 1000))).encode())[:-20]
    )
    with pytest.raises(UnreadableFile, match="harmless"):
        import_file(store, path)


def test_the_rejects_of_an_earlier_run_are_removed(store: Database, tmp_path: Path) -> None:
    report = load(store, HEADER + "x,shop,fcm,y\n", tmp_path)
    assert report.rejects_file is not None
    assert Path(report.rejects_file).exists()
    assert load(store, HEADER + f"1,shop,fcm,{token(1)}\n", tmp_path).rejects_file is None
    assert not Path(report.rejects_file).exists()


def test_a_crash_of_the_database_in_the_middle_and_a_second_run(
    store: Database, tmp_path: Path, postgres: Any
) -> None:
    records = 4000

    class Breaking:
        """Half of the file, then the server is killed, then the other half."""

        def __init__(self) -> None:
            lines = [f"{n},shop,fcm,{token(n)}\n" for n in range(1, records + 1)]
            self.parts = [HEADER + "".join(lines[: records // 2]), "".join(lines[records // 2 :])]
            self.reads = 0

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads == 2:
                crash(postgres)
            return self.parts[self.reads - 1].encode() if self.reads <= 2 else b""

    with pytest.raises(ServiceUnavailable, match="PUSHQ_DATABASE_URL"):
        import_stream(store, Breaking(), format="csv", rejects=tmp_path / "r.csv", window=1000)
    postgres.start()
    data = HEADER + "".join(f"{n},shop,fcm,{token(n)}\n" for n in range(1, records + 1))
    load(store, data, tmp_path)
    assert active(store) == {token(n): n for n in range(1, records + 1)}


def test_registrations_go_on_during_an_import(store: Database, tmp_path: Path) -> None:
    """Live registrations of the same tokens: whatever the order, each token ends with one owner, and the phone's call wins."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    data = HEADER + "".join(f"{n},shop,fcm,{token(n)}\n" for n in range(1, 20_001))

    begun = threading.Event()

    class Chunked(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            begun.set()
            return super().read(50_000)

    with ThreadPoolExecutor(1) as thread:
        importing = thread.submit(
            import_stream,
            store,
            Chunked(data.encode()),
            format="csv",
            rejects=tmp_path / "r.csv",
            window=1000,
        )
        assert begun.wait(30)  # a registration from before the import would rightly lose to it
        mine = {}
        for n in range(1, 20_001, 100):
            register(store, Device(user_id=n + 1_000_000, app="shop", platform="fcm", token=token(n)))
            mine[token(n)] = n + 1_000_000
        report = importing.result(timeout=60)
    assert balanced(report)
    owners = active(store)
    assert len(owners) == 20_000
    assert {name: owners[name] for name in mine} == mine
