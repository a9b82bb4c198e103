"""Limits in the TOML file: defaults, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushq.app_settings import load_apps
from pushq.errors import SettingsError


def configuration(folder: Path, line: str) -> Path:
    (folder / "secret").write_text("no secret")
    path = folder / "pushq.toml"
    path.write_text(
        '[apps.shop.apns]\nteam_id = "AAAAAAAAAA"\nkey_id = "BBBBBBBBBB"\nkey_file = "secret"\ntopic = "com.example.shop"\n'
        f'[apps.shop.fcm]\nproject_id = "pushq-demo"\nservice_account_file = "secret"\n{line}\n'
    )
    return path


def test_fcm_has_its_quota_and_apns_no_limit(tmp_path: Path) -> None:
    shop = load_apps(configuration(tmp_path, ""))["shop"]
    assert shop.apns is not None
    assert shop.fcm is not None
    assert (shop.apns.rate_per_minute, shop.fcm.rate_per_minute) == ("unlimited", 600_000)


@pytest.mark.parametrize("value", ["60", "1000000000", '"unlimited"'])
def test_what_a_rate_may_be(tmp_path: Path, value: str) -> None:
    fcm = load_apps(configuration(tmp_path, f"rate_per_minute = {value}"))["shop"].fcm
    assert fcm is not None
    assert str(fcm.rate_per_minute) == value.strip('"')


@pytest.mark.parametrize(
    ("line", "field", "found"),
    [
        ("rate_per_minute = 0", "rate_per_minute", "found 0;"),
        ("rate_per_minute = 59", "rate_per_minute", "found 59;"),
        ("rate_per_minute = true", "rate_per_minute", "found True;"),
        ("rate_per_minute = 600.5", "rate_per_minute", "found 600.5;"),
        ('rate_per_minute = "none"', "rate_per_minute", "found 'none';"),
        ("ramp_up_s = -1", "ramp_up_s", "found -1;"),
        ("transactional_share = 0.6", "transactional_share", "found 0.6;"),
        ("local_share = 0", "local_share", "found 0;"),
        ("breaker_share = nan", "breaker_share", "found nan;"),
        ("breaker_minimum = 0", "breaker_minimum", "found 0;"),
    ],
)
def test_a_wrong_one_is_named_with_what_is_expected(
    tmp_path: Path, line: str, field: str, found: str
) -> None:
    with pytest.raises(SettingsError, match=rf"apps\.shop\.fcm\.{field}: {found} expected "):
        load_apps(configuration(tmp_path, line))


def two_apps(folder: Path, first: str, second: str, *, project: str = "pushq-demo") -> Path:
    path = configuration(folder, first)
    with path.open("a") as file:
        file.write(
            f'[apps.club.fcm]\nproject_id = "{project}"\nservice_account_file = "secret"\n{second}\n'
            '[apps.club.apns]\nteam_id = "AAAAAAAAAA"\nkey_id = "BBBBBBBBBB"\nkey_file = "secret"\n'
            'topic = "com.example.shop"\n'
        )
    return path


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            "rate_per_minute = 6000",
            "",
            r"apps\.club\.fcm\.rate_per_minute: found 600000; expected 6000 as in ",
        ),
        ("", "ramp_up_s = 0", r"apps\.club\.fcm\.ramp_up_s: found 0\.0; expected 60\.0 as in "),
        ("", "breaker_share = 0.9", r"apps\.club\.fcm\.breaker_share: found 0\.9; expected 0\.5 as in "),
    ],
)
def test_apps_that_share_a_limit_agree_about_it(
    tmp_path: Path, first: str, second: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message + r"apps\.shop\.fcm, which has the same FCM project"):
        load_apps(two_apps(tmp_path, first, second))


def test_apps_that_agree_or_share_nothing_are_fine(tmp_path: Path) -> None:
    assert load_apps(two_apps(tmp_path, "rate_per_minute = 600", "rate_per_minute = 600"))
    assert load_apps(two_apps(tmp_path, "", "rate_per_minute = 600", project="pushq-other"))
