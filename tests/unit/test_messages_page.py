"""The message on docs/messages.md is one that every platform takes, and the page names every field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pushq.notification import FIELDS, OVERRIDABLE, parse_notification
from pushq.platforms import PLATFORMS
from pushq.submission import check_notification

PAGE = (Path(__file__).parents[2] / "docs" / "messages.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_example_is_taken(platform: str) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    message = parse_notification(json.loads(example))
    assert {placeholder.name for placeholder in message.placeholders()} == {"first_name", "points"}
    check_notification(message, platform)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE or f'"{name}"' in PAGE


def test_what_may_be_overridden_is_on_the_page() -> None:
    (listed,) = re.findall(r"say what differs there\. (.*?) in them replace", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == set(OVERRIDABLE)
