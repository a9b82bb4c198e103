"""docs/security.md names every file and variable in which a secret can stand, and forgets no platform."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from pushq.app_settings import AppSettings
from pushq.platforms import PLATFORMS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def row(platform: str) -> set[str]:
    """Files of a platform's table that the page's rows name."""
    lines = [line for line in PAGE.splitlines() if f"`[apps.NAME.{platform}]`" in line]
    return {name for line in lines for name in re.findall(r"`(\w+_file)`", line)}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_secret_file_of_a_platform_is_in_the_table(platform: str) -> None:
    (settings, _) = get_args(AppSettings.model_fields[platform].annotation)  # or None
    files = {name for name in settings.model_fields if name.endswith("_file")} - {"ca_file"}
    assert files
    assert row(platform) == files


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_page_of_traces_knows_every_worker(platform: str) -> None:
    assert f"`pushq-{platform}`" in (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
