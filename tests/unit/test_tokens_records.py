"""Lines to records: every line of a file ends up as part of a record or as a reject with its number and a reason."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.errors import InvalidRequest
from pushq.tokens.lines import read_blocks
from pushq.tokens.records import CsvReader, JsonLinesReader, Reject
from pushq.tokens.rows import COLUMNS

HEADER = "user_id,app,platform,token,tags\n"


class Taken:
    """A sink that keeps what is not marked as bad."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def __call__(self, values: Sequence[Any]) -> None:
        record = {name: value for name, value in zip(COLUMNS, values, strict=True) if value not in ("", None)}
        if record.get("token") == "bad" or any(
            "\n" in str(v) and "ok" not in str(v) for v in record.values()
        ):
            raise InvalidRequest("token", "bad", "good")
        self.records.append(record)


def read(
    text: str,
    *,
    kind: type[CsvReader] | type[JsonLinesReader] = CsvReader,
    app: str | None = None,
    block: int = 1 << 20,
) -> tuple[list[dict[str, Any]], list[Reject]]:
    taken = Taken()
    reader = kind(taken, app=app)
    rejects: list[Reject] = []
    for part in read_blocks(io.BytesIO(text.encode()), block=block):
        rejects += reader.feed(part)
    rejects += reader.finish()
    return taken.records, rejects


def test_columns_may_stand_in_any_order_and_be_missing() -> None:
    records, rejects = read("Token, user_id ,platform,app\nt1,1,fcm,shop\n")
    assert records == [{"user_id": "1", "app": "shop", "platform": "fcm", "token": "t1"}]
    assert not rejects


def test_the_app_may_come_from_outside() -> None:
    assert read("token,user_id,platform\nt,1,fcm\n", app="shop")[0][0]["app"] == "shop"
    records, _ = read("token,user_id,platform,app\nt,1,fcm,\nt,2,fcm,news\n", app="shop")
    assert [record["app"] for record in records] == ["shop", "news"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("user_id,platform,token\n", "no column app"),
        ("user_id,app,platform\n", "no column token"),
        ("user_id,app,platform,token,langauge\n", "did you mean language"),
        ("user_id,app,platform,token,token\n", "the column token twice"),
        ("1,shop,fcm,abc\n", "the column '1'"),
        ("", "no line"),
        ("\n\n", "no line"),
        ('"user_id,app\n', "no column user_id"),
    ],
)
def test_a_wrong_header_stops_everything(header: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(header + "1,2,3,4\n" * (header.strip() != ""))
    assert said in str(caught.value)


def test_short_and_long_lines_are_rejected_with_number_and_text() -> None:
    records, rejects = read(HEADER + "1,shop,fcm,t,\n2,shop\n\n3,shop,fcm,t,,\n4,shop,fcm,t,\n")
    assert [record["user_id"] for record in records] == ["1", "4"]
    assert [(reject.line, reject.text) for reject in rejects] == [(3, "2,shop"), (5, "3,shop,fcm,t,,")]
    assert rejects[0].reason == "record: found 2 columns; expected 5 as in the header"


def test_quotes() -> None:
    records, rejects = read(HEADER + '1,shop,fcm,t,"[""a"",""b""]"\n2,shop,fcm,"t","a,b"\n')
    assert [record["tags"] for record in records] == ['["a","b"]', "a,b"]
    assert not rejects


@pytest.mark.parametrize("block", [1, 5, 33, 1 << 20])
def test_a_quoted_field_may_span_lines(block: int) -> None:
    records, rejects = read(HEADER + '1,shop,fcm,t,"ok\n\nok"\n2,shop,fcm,t,\n', block=block)
    assert [record.get("tags") for record in records] == ["ok\n\nok", None]
    assert not rejects


@pytest.mark.parametrize("block", [1, 5, 33, 1 << 20])
@pytest.mark.parametrize("broken", ['2,shop,fcm,t,"oops', '2,shop,fcm,t,"oo"ps', '"', '2,"shop,fcm,t,'])
def test_a_stray_quote_costs_its_own_line_only(broken: str, block: int) -> None:
    good = "".join(f"{n},shop,fcm,t{n},\n" for n in range(10, 100))
    records, rejects = read(f'{HEADER}1,shop,fcm,t,\n{broken}\n{good}200,shop,fcm,t,"a"\n', block=block)
    assert [int(record["user_id"]) for record in records] == [1, *range(10, 100), 200]
    assert [(reject.line, reject.text) for reject in rejects] == [(3, broken)]


def test_two_stray_quotes_do_not_swallow_what_is_between_them() -> None:
    records, rejects = read(HEADER + '1,shop,fcm,t,"x\n2,shop,fcm,t,\n3,shop,fcm,t,"y\n4,shop,fcm,t,\n')
    assert [record["user_id"] for record in records] == ["2", "4"]
    assert [reject.line for reject in rejects] == [2, 4]


def test_what_the_sink_refuses_is_a_reject() -> None:
    records, rejects = read(HEADER + '1,shop,fcm,bad,\n2,shop,fcm,"bad",\n3,shop,fcm,t,\n')
    assert [record["user_id"] for record in records] == ["3"]
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (2, "token: found bad; expected good"),
        (3, "token: found bad; expected good"),
    ]


@given(
    lines=st.lists(
        st.sampled_from(
            [
                "1,shop,fcm,t,",
                "1,shop,fcm,bad,",
                '"',
                '1,"shop",fcm,t,',
                '1,shop,fcm,t,"ok',
                'ok"',
                "x",
                "",
                'a"b"',
                '""',
            ]
        ),
        max_size=30,
    ),
    block=st.integers(1, 60),
)
def test_blocks_make_no_difference_and_no_line_is_lost(lines: list[str], block: int) -> None:
    text = HEADER + "".join(f"{line}\n" for line in lines)
    records, rejects = read(text, block=block)
    assert (records, rejects) == read(text)
    spanned = sum(str(record.get("tags", "")).count("\n") for record in records)
    # Blank lines are no records, but inside a quoted field they are part of one.
    quoted = sum(str(record.get("tags", "")).split("\n")[1:-1].count("") for record in records)
    blank = lines.count("") - quoted
    assert len(records) + spanned + len(rejects) + blank == len(lines)
    assert [reject.line for reject in rejects] == sorted({reject.line for reject in rejects})
    for reject in rejects:
        assert lines[reject.line - 2] == reject.text


def test_json_lines() -> None:
    records, rejects = read(
        '{"user_id": 1, "platform": "fcm", "token": "t", "tags": ["a"]}\n'
        "[1]\n"
        "\n"
        '{"user_id": 2, "tokn": "t"}\n'
        "{\n"
        '{"user_id": 3, "app": "news", "token": "bad"}\n'
        "NaN\n",
        kind=JsonLinesReader,
        app="shop",
    )
    assert records == [{"user_id": 1, "app": "shop", "platform": "fcm", "token": "t", "tags": ["a"]}]
    assert [reject.line for reject in rejects] == [2, 4, 5, 6, 7]
    assert "no object" in rejects[0].reason
    assert "did you mean token" in rejects[1].reason
    assert "no JSON" in rejects[2].reason
