"""Texts with placeholders, and the choice of a language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.errors import InvalidRequest
from pushq.rendering import languages, templates
from pushq.rendering.templates import Placeholder


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("{a}", (Placeholder("a"),)),
        ("Hello {first_name}!", ("Hello ", Placeholder("first_name"), "!")),
        ("{first_name|friend}", (Placeholder("first_name", "friend"),)),
        ("{a|}", (Placeholder("a", ""),)),
        ("{a|b|c}", (Placeholder("a", "b|c"),)),
        ("{a}{b_2}", (Placeholder("a"), Placeholder("b_2"))),
        ("{{a}}", ("{a}",)),
        ("{{{a}}}", ("{", Placeholder("a"), "}")),
        ("} alone }", ("} alone }",)),
        ("100 % {{ and", ("100 % { and",)),
    ],
)
def test_a_text_is_cut_at_its_placeholders(text: str, pieces: tuple[object, ...]) -> None:
    assert templates.pieces(text) == pieces


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "nothing closes"),
        ("a { b", "nothing closes"),
        ("{a{b}", "nothing closes"),
        ("{}", "the placeholder {}"),
        ("{First}", "lower-case"),
        ("{user.name}", "{user.name}"),
        ("{a:>10}", "{a:>10}"),
        ("{a!r}", "{a!r}"),
        ("{0}", "{0}"),
        ("{ a}", "{ a}"),
        ("{" + "a" * 65 + "}", "a name of"),
    ],
)
def test_what_is_no_placeholder_is_refused_and_named(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        templates.check(text, "notification.title")
    assert caught.value.field == "notification.title"
    assert says in str(caught.value)


@given(st.text())
def test_doubled_braces_make_any_text_literal(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    templates.check(doubled, "title")
    assert templates.fill(doubled, lambda _: "never") == text


@given(
    st.lists(st.one_of(st.text(alphabet="ab {}|é𝄞"), st.sampled_from(["first_name", "x"]).map(Placeholder)))
)
def test_filling_puts_values_in_their_places_and_reads_them_no_further(
    parts: list[str | Placeholder],
) -> None:
    """A value with braces in it is text."""
    text = "".join(
        p.replace("{", "{{").replace("}", "}}") if isinstance(p, str) else f"{{{p.name}|d}}" for p in parts
    )
    expected = "".join(p if isinstance(p, str) else f"<{p.name}{{x}}>" for p in parts)
    assert templates.fill(text, lambda placeholder: f"<{placeholder.name}{{x}}>") == expected


@pytest.mark.parametrize(
    ("tag", "chosen"),
    [
        ("pt-BR", "pt-br"),
        ("PT_br", "pt-br"),
        ("pt-PT", "pt"),
        ("pt", "pt"),
        ("zh-Hant-TW", "zh-hant"),
        ("zh-Hans-CN", None),
        ("zh-Hant-u-nu-hanidec", "zh-hant"),
        ("en", None),
        ("p", None),
        ("", None),
        (None, None),
    ],
)
def test_a_language_falls_back_from_its_end(tag: str | None, chosen: str | None) -> None:
    assert languages.choose(tag, {"pt", "pt-br", "zh-hant", "de"}) == chosen


@pytest.mark.parametrize("tag", ["", "d", "de-", "de--at", "deutschland", "d3", 5, None])
def test_no_language_tag(tag: object) -> None:
    with pytest.raises(InvalidRequest, match="pt-BR"):
        languages.parse(tag, "notification.languages")
