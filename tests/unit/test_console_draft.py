"""From what stands in the form to the call: every field, every mistake at its place."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest

from pushq.errors import InvalidRequest
from pushq.web.console.draft import Draft, draft_of
from pushq.web.console.forms import MOST_BYTES, MOST_FIELDS, Form, parse
from pushq.web.problems import Problem

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def filled(**fields: str | list[str]) -> Draft:
    return Draft(parse(urlencode(fields, doseq=True).encode()))


def test_all_that_can_be_written_becomes_the_call() -> None:
    draft = filled(
        title="Sale", body="Two\r\nlines", link="shop://sale", image="https://cdn.example/a.png", sound="default", badge="3",
        category="OFFER", collapse_id="sale", ttl="3,600", priority="normal", data="campaign=autumn\r\nid = 7\r\n",
        more='{"languages": {"de": {"title": "Ausverkauf"}}, "title": "hidden"}', to="segments", segment=["vip", "german"],
        exclude="tired", platform=["fcm"], when="later", send_at="2027-07-01T18:00", zone="Europe/Berlin", rate="500",
        guarantee="at_least_once",
    )  # fmt: skip
    call = draft.submission("shop", NOW)
    assert call.kind == "broadcast"
    assert call.notification.as_json() == {
        "title": "Sale",
        "body": "Two\nlines",
        "link": "shop://sale",
        "image": "https://cdn.example/a.png",
        "sound": "default",
        "badge": 3,
        "category": "OFFER",
        "collapse_id": "sale",
        "ttl": 3600,
        "priority": "normal",
        "data": {"campaign": "autumn", "id": "7"},
        "languages": {"de": {"title": "Ausverkauf"}},
    }
    assert call.audience.segments == ("vip", "german")
    assert call.audience.exclude_segments == ("tired",)
    assert call.audience.platforms == ("fcm",)
    assert call.send_at == datetime(2027, 7, 1, 16, tzinfo=UTC)  # summer in Berlin
    assert (call.rate, call.guarantee) == (500, "at_least_once")


def test_single_users_are_a_transactional_send_and_nothing_else_is_asked_for() -> None:
    call = filled(title="Hi", to="users", users="3, 4;5\n6  3").submission("shop", NOW)
    assert (call.kind, call.audience.user_ids) == ("transactional", (3, 4, 5, 6))
    assert filled(title="Hi").submission("shop", NOW).audience.segments == ("all",)


def test_one_form_is_one_send_and_a_test_is_another() -> None:
    draft = filled(title="Hi")
    again = Draft(Form({name: [value] for name, value in draft.fields()}))
    assert draft.submission("shop", NOW).send_id() == again.submission("shop", NOW).send_id()
    assert filled(title="Hi").submission("shop", NOW).send_id() != draft.submission("shop", NOW).send_id()
    test = draft.submission("shop", NOW, test_user=7)
    assert (test.kind, test.audience.user_ids, test.idempotency_key) == ("transactional", (7,), None)


@pytest.mark.parametrize(
    ("fields", "place", "said"),
    [
        ({}, "title", "neither title, body nor data"),
        ({"title": "Hi {"}, "title", "expected"),
        ({"title": "Hi", "link": "nowhere"}, "link", "a link with its scheme"),
        ({"title": "Hi", "image": "http://cdn.example"}, "image", "https://"),
        ({"title": "Hi", "badge": "many"}, "badge", "a whole number"),
        ({"title": "Hi", "ttl": "-1"}, "ttl", "0 to 2,419,200"),
        ({"title": "Hi", "data": "just words"}, "data", "name=value"),
        ({"title": "Hi", "data": "from=me"}, "data", "reserve"),
        ({"title": "Hi", "more": "{"}, "more", "no JSON"),
        ({"title": "Hi", "more": "[]"}, "more", "a JSON object"),
        ({"title": "Hi", "more": '{"apns": {"subtitel": "x"}}'}, "more", "subtitle"),
        ({"title": "Hi", "to": "segments"}, "segments", "at least one segment"),
        ({"title": "Hi", "to": "segments", "segment": "a b"}, "segments", "a name of"),
        ({"title": "Hi", "to": "users", "users": "3 four"}, "users", "whole numbers"),
        ({"title": "Hi", "to": "users"}, "users", "at least one user id"),
        ({"title": "Hi", "platform": "minitel"}, "platforms", "some of: apns"),
        ({"title": "Hi", "when": "later"}, "send_at", "a day and a time"),
        ({"title": "Hi", "when": "later", "send_at": "soon"}, "send_at", "a day and a time"),
        ({"title": "Hi", "when": "later", "send_at": "2026-01-01T00:00"}, "send_at", "a time to come"),
        (
            {"title": "Hi", "when": "later", "send_at": "2027-01-01T00:00", "zone": "../etc"},
            "send_at",
            "a zone",
        ),
        (
            {"title": "Hi", "when": "later", "send_at": "2027-01-01T00:00", "zone": "No/Where"},
            "send_at",
            "a zone",
        ),
        ({"title": "Hi", "rate": "0"}, "rate", "1 to"),
        ({"title": "Hi", "guarantee": "maybe"}, "", "at_least_once"),
    ],
)
def test_a_mistake_is_said_at_the_field_that_it_is_in(fields: dict[str, str], place: str, said: str) -> None:
    draft = filled(**fields)
    with pytest.raises(InvalidRequest) as caught:
        draft.submission("shop", NOW)
    draft.blame(caught.value)
    assert list(draft.faults) == [place]
    assert said in draft.faults[place]


def test_a_send_can_be_the_beginning_of_another() -> None:
    first = filled(
        title="Sale", data="a=1", badge="2", more='{"fcm": {"tag": "x"}}', to="segments", segment="vip", platform="apns", rate="9"
    ).submission("shop", NOW)  # fmt: skip
    said = first.as_json()
    draft = draft_of(
        said["notification"], said["audience"], {"guarantee": first.guarantee, "rate": first.rate}
    )
    second = draft.submission("shop", NOW)
    assert second.notification == first.notification
    assert second.audience == first.audience
    assert (second.rate, second.guarantee) == (first.rate, first.guarantee)
    assert second.send_id() != first.send_id()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"a=" + b"x" * MOST_BYTES, 413),
        (b"&".join(b"a=1" for _ in range(MOST_FIELDS + 1)), 422),
        (b"a=\xff", 422),
        (b"a=%ff", 422),
    ],
)
def test_a_form_is_bounded(body: bytes, status: int) -> None:
    with pytest.raises(Problem) as caught:
        parse(body)
    assert caught.value.status == status
