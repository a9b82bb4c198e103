"""Files of user ids."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from pushq.audience.members import CHUNK, MemberFile
from pushq.errors import InvalidRequest


def read(data: bytes, folder: Path) -> tuple[list[int], list[list[str]]]:
    rejects = folder / "rejects.csv"
    with MemberFile(io.BytesIO(data), rejects) as members:
        ids = [user_id for chunk in members.chunks() for user_id in chunk]
    assert members.accepted == len(ids)
    rows = list(csv.reader(io.StringIO(rejects.read_text()))) if rejects.exists() else []
    assert members.rejected == max(len(rows) - 1, 0)
    return ids, rows[1:]


@pytest.mark.parametrize(
    "data",
    [
        b"1\n2\n3", b"1\r\n2\r\n\r\n3\r\n", b"\xef\xbb\xbf1\n2\n3\n", b"user_id\n1\n2\n3\n",
        b'name,USER_ID,x\n"a,b",1,\nc,2,\nd,"3",\n', b"\xef\xbb\xbfuser_id,name\n1,a\n2,b\n3,c\n",
    ],
)  # fmt: skip
def test_forms_of_files(data: bytes, tmp_path: Path) -> None:
    assert read(data, tmp_path) == ([1, 2, 3], [])


def test_wrong_lines_are_rejected_with_number_reason_and_text(tmp_path: Path) -> None:
    data = b"1\nx\n0\n-5\n9223372036854775808\n\xff\n" + b"7" * 100_000 + b"\n2\n"
    ids, rejects = read(data, tmp_path)
    assert ids == [1, 2]
    assert [int(row[0]) for row in rejects] == [2, 3, 4, 5, 6, 7]
    assert rejects[0][1:] == [
        "user_id: found 'x'; expected a whole number from 1 to 9223372036854775807",
        "x",
    ]
    assert "not UTF-8" in rejects[4][1]
    assert rejects[5][1] == "longer than 65,536 bytes"


def test_lines_without_the_column_are_rejected(tmp_path: Path) -> None:
    ids, rejects = read(b"name,user_id\na,1\nb\nc,2\n", tmp_path)
    assert ids == [1, 2]
    assert [row[0] for row in rejects] == ["3"]


def test_a_header_without_the_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="user_id"):
        read(b"name,id\na,1\n", tmp_path)


def test_ids_come_in_chunks(tmp_path: Path) -> None:
    data = b"".join(b"%d\n" % n for n in range(1, CHUNK + 2))
    with MemberFile(io.BytesIO(data), tmp_path / "r.csv") as members:
        assert [len(chunk) for chunk in members.chunks()] == [CHUNK, 1]


def test_rejects_of_an_earlier_run_are_gone(tmp_path: Path) -> None:
    (tmp_path / "rejects.csv").write_text("line,reason,record\n1,old,old\n")
    assert read(b"1\n", tmp_path) == ([1], [])
