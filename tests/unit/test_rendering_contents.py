"""What is joined for each recipient equals what the platform's own builder writes for him."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushq.errors import InvalidRequest
from pushq.notification import Notification, parse_notification
from pushq.providers.apns import request as apns
from pushq.providers.fcm import request as fcm
from pushq.providers.hms import request as hms
from pushq.rendering.contents import PAYLOAD_TOO_LARGE, VALUE_MISSING, Format, Renderer
from pushq.rendering.templates import placeholders
from pushq.rendering.values import parse as parse_values

_NOW = datetime(2030, 1, 1, tzinfo=UTC)


def _apns(notification: Notification) -> bytes:
    return apns.payload(notification, at=_NOW)


def _fcm(notification: Notification) -> bytes:
    return orjson.dumps(fcm.message(notification, ttl_s=60, collapse_id="c"))


def _hms(notification: Notification) -> bytes:
    return hms.content(notification, api="v2", collapse_id="c")


def _hms_v3(notification: Notification) -> bytes:
    return hms.content(notification, api="v3", collapse_id="c")


FORMATS: dict[str, Format[Notification]] = {
    "apns": Format(_apns, lambda n: len(_apns(n)), 4096),
    "fcm": Format(_fcm, fcm.size, 4096),
    "hms": Format(_hms, lambda n: len(_hms(n)), 4096),
    "hms-v3": Format(_hms_v3, lambda n: len(_hms_v3(n)), 4096),
}

MESSAGE: dict[str, Any] = {
    "title": "Hello {first_name|friend}",
    "body": '{first_name}: "{item}" \\ {{50 %}}',
    "data_templates": {"order": "{order_id}", "again": "{first_name} {order_id}"},
    "data": {"literal": "{not_one}"},
    "link": "shop://orders/{order_id}",
    "languages": {
        "de": {"title": "Hallo {first_name|du}", "body": "{item} für {first_name}"},
        "pt-BR": {"title": "Olá", "apns": {"subtitle": "{item}"}},
        "ja": {"body": "{first_name}さん、{item}"},
    },
    "defaults": {"item": "nothing"},
    "apns": {"subtitle": "{item}{item}"},
    "fcm": {"android": {"notification": {"channel_id": "a{b", "ticker": "x"}}},
}
TAGS = st.sampled_from([None, "de", "de-AT", "pt-BR", "pt", "ja", "fr"])
# Neither attributes nor a call's values can have NUL.
VALUES = st.one_of(
    st.text().filter(lambda text: "\0" not in text),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)


def renderer(platform: str, message: dict[str, Any] = MESSAGE) -> Renderer[Notification]:
    composed = parse_notification(message).for_platform(platform.partition("-")[0])
    return Renderer(composed, FORMATS[platform])


@pytest.mark.parametrize("platform", FORMATS)
@given(
    st.lists(
        st.tuples(
            TAGS, st.fixed_dictionaries({"first_name": VALUES, "order_id": VALUES}, optional={"item": VALUES})
        ),
        max_size=8,
    )
)
@example(
    [
        (None, {"first_name": 'pushq0z0"', "order_id": "\\"}),
        ("de", {"first_name": "\x01\x1f\u2028𝄞", "order_id": 1}),
    ]
)
def test_joined_is_what_the_builder_writes(
    platform: str, people: list[tuple[str | None, dict[str, Any]]]
) -> None:
    """For any Unicode values, in each language, for JSON inside of JSON as well (HMS data)."""
    made = renderer(platform)
    rendered = made.render([tag for tag, _ in people], [values for _, values in people], len(people))
    for index, (tag, values) in enumerate(people):
        content = rendered.contents[index]
        if content is None:
            missing = {"first_name", "order_id"} & {k for k, v in values.items() if v == ""}
            assert rendered.refused[index] == (VALUE_MISSING if missing else PAYLOAD_TOO_LARGE)
        else:
            assert content == made.write(tag, values)
            json.loads(content)


_TEXTS = (
    st.text().map(lambda text: text.replace("{", "{{").replace("}", "}}")).filter(lambda t: "\0" not in t)
)


@given(st.lists(_TEXTS, min_size=3, max_size=3), st.text(min_size=1), st.text(min_size=1))
def test_any_text_around_the_placeholders(texts: list[str], first: str, second: str) -> None:
    body = f"{texts[0]}{{first_name}}{texts[1]}{{item}}{texts[2]}"
    made = renderer("apns", {"body": body})
    rendered = made.render(None, [{"first_name": first, "item": second}], 1)
    content = rendered.contents[0]
    if content is not None:
        literal = [text.replace("{{", "{").replace("}}", "}") for text in texts]
        expected = f"{literal[0]}{first}{literal[1]}{second}{literal[2]}"
        assert json.loads(content)["aps"]["alert"]["body"] == expected


def test_a_text_that_looks_like_our_marks() -> None:
    made = renderer("fcm", {"title": 'pushq0z0\\" pushq1z0" {first_name}', "body": "pushq0z"})
    content = made.render(None, [{"first_name": "pushq2z0"}], 1).contents[0]
    assert content is not None
    assert json.loads(content)["notification"] == {
        "title": 'pushq0z0\\" pushq1z0" pushq2z0',
        "body": "pushq0z",
    }


@pytest.mark.parametrize("platform", FORMATS)
def test_each_gets_his_language_and_his_values(platform: str) -> None:
    people: list[tuple[str | None, dict[str, Any] | None]] = [
        ("de-CH", {"first_name": "Ada", "order_id": 7}),
        (None, {"first_name": "Bo", "order_id": "8", "item": ""}),
        ("pt-BR", {"first_name": "", "order_id": 9.0}),
        ("de", None),
    ]
    rendered = renderer(platform).render([t for t, _ in people], [v for _, v in people], len(people))
    assert rendered.refused == {2: VALUE_MISSING, 3: VALUE_MISSING}
    texts = [content.decode() for content in rendered.contents if content]
    assert "Hallo Ada" in texts[0]
    assert "nothing für Ada" in texts[0]
    assert "Hello Bo" in texts[1]
    assert "shop://orders/8" in texts[1]


def test_without_placeholders_equal_contents_are_one_object() -> None:
    made = renderer("fcm", {"title": "Sale", "languages": {"de": {"title": "Ausverkauf"}}})
    rendered = made.render(["de", None, "de-AT", "fr"], None, 4)
    assert rendered.contents[0] is rendered.contents[2]
    assert rendered.contents[1] is rendered.contents[3]
    assert rendered.contents[0] != rendered.contents[1]


@pytest.mark.parametrize("platform", FORMATS)
def test_the_limit_is_exact_for_each_recipient(platform: str) -> None:
    """The longest value that fits goes, one byte more does not; bytes as the platform counts them."""
    message = {"title": "T", "body": "{text}{other|}"}
    made, measure = renderer(platform, message), FORMATS[platform].measure
    room = 4096 - measure(parse_notification({"title": "T", "body": "x"})) + 1
    values = [
        {"text": "x" * room},
        {"text": "x" * (room + 1)},
        {"text": "é" * (room // 2)},
        {"text": "é" * (room // 2 + 1)},
    ]
    rendered = made.render(None, values, 4)
    assert rendered.refused == {1: PAYLOAD_TOO_LARGE, 3: PAYLOAD_TOO_LARGE}
    assert rendered.contents[1] is None


def test_fcm_counts_characters_that_json_escapes_once() -> None:
    """4,096 quotes are 8,192 bytes of JSON and 4,096 of FCM's."""
    made = renderer("fcm", {"body": "{text}"})
    rendered = made.render(None, [{"text": '"' * 4096}, {"text": '"' * 4097}], 2)
    assert rendered.refused == {1: PAYLOAD_TOO_LARGE}


@pytest.mark.parametrize("value", [True, None, [], {}, ""])
def test_what_is_no_text_and_no_number_is_no_value(value: object) -> None:
    made = renderer("apns", {"body": "{a}"})
    assert made.render(None, [{"a": value}], 1).refused == {0: VALUE_MISSING}
    made = renderer("apns", {"body": "{a|default}"})
    content = made.render(None, [{"a": value}], 1).contents[0]
    assert content is not None
    assert json.loads(content)["aps"]["alert"]["body"] == "default"


def _check(
    values: object, text: str = "{name}", users: tuple[int, ...] | None = (1, 2), **defaults: str
) -> Any:
    return parse_values(values, placeholders(text), defaults, users)


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({3: {"name": "x"}}, "values.3", "not to"),
        ({"x": {"name": "x"}}, "values.x", "user ids"),
        ({True: {"name": "x"}}, "values.True", "user ids"),
        ({1: "x"}, "values.1", "mapping"),
        ([1], "values", "mapping"),
        ({1: {"nmae": "x"}}, "values.1.nmae", "did you mean 'name'?"),
        ({1: {"name": ["x"]}}, "values.1.name", "text or a finite number"),
        ({1: {"name": True}}, "values.1.name", "text or a finite number"),
        ({1: {"name": float("inf")}}, "values.1.name", "finite"),
        ({1: {"name": "\ud800"}}, "values.1.name", "surrogate"),
        ({1: {"name": 2**63}}, "values.1.name", "64 bits"),
        ({1: {"name": "x"}}, "values.2.name", "{name|friend}"),
        ({1: {"name": "x"}, 2: {"name": ""}}, "values.2.name", "a default"),
        ({1: {"name": "x" * 2_000_000}, 2: {"name": "x"}}, "values", "split the call"),
    ],
)
def test_a_call_with_wrong_values_is_refused(values: object, field: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _check(values)
    assert caught.value.field == field
    assert says in str(caught.value)


def test_values_of_a_call() -> None:
    assert _check(None) is None
    assert _check({"1": {"name": "x"}, 2: {"name": 5}}) == {1: {"name": "x"}, 2: {"name": 5}}
    assert _check({1: {"name": "x"}}, "{name|friend}") == {1: {"name": "x"}}
    assert _check({1: {"name": "x"}}, name="friend") == {1: {"name": "x"}}
    # What nobody has in the call is for the devices' attributes to say.
    assert _check({1: {"a": "x"}, 2: {"a": "y"}}, "{a} {b}") == {1: {"a": "x"}, 2: {"a": "y"}}
    with pytest.raises(InvalidRequest, match="user_ids"):
        _check({1: {"name": "x"}}, users=None)
