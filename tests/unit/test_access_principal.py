"""What a principal may do, and the secrets that prove one; pure."""

from __future__ import annotations

import hmac

import pytest

from pushq.access import keys, passwords
from pushq.access.local import local
from pushq.access.principal import SCOPES, Forbidden, Principal, parse_apps, parse_scopes
from pushq.errors import InvalidRequest
from pushq.redaction import Redactor

KEY = f"pushq_{'0a' * 8}_{'Zz9' * 14}Z"


def principal(*scopes: str, apps: frozenset[str] | None = None) -> Principal:
    return Principal("key", "k", "1", frozenset(scopes), apps)


def test_admin_implies_every_scope_and_others_only_themselves() -> None:
    for scope in SCOPES:
        assert principal("admin").may(scope)
        assert principal(scope).may(scope)
        assert not principal(*(set(SCOPES) - {scope, "admin"})).may(scope)
    with pytest.raises(Forbidden, match="scope send"):
        principal("sends:read").check("send")


def test_apps_hold_for_an_admin_as_well() -> None:
    shop = principal("admin", apps=frozenset({"shop"}))
    shop.check_app("shop")
    for other in ("news", "", "SHOP", "shop "):
        with pytest.raises(Forbidden):
            shop.check_app(other)
    assert principal("admin").may_app("anything")


@pytest.mark.parametrize("wrong", [[], ["root"], ["send", "SEND"], ["*"]])
def test_scopes_that_do_not_exist(wrong: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="scopes"):
        parse_scopes(wrong)


def test_no_apps_are_all_apps_and_names_are_checked() -> None:
    assert parse_apps(None) is None
    assert parse_apps([]) is None
    assert parse_apps(["shop", "shop"]) == frozenset({"shop"})
    for wrong in ("", "Shop", "a b", "x" * 64, "../x"):
        with pytest.raises(InvalidRequest, match="apps"):
            parse_apps([wrong])
    with pytest.raises(InvalidRequest, match="101 apps"):
        parse_apps([f"a{number}" for number in range(101)])


def test_a_local_process_may_do_everything_and_has_a_name() -> None:
    assert local().may("admin")
    assert "@" in local().name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pushq",
        KEY[:-1],
        KEY + "a",
        KEY.upper(),
        f" {KEY}",
        f"{KEY}\n",
        KEY.replace("_", "-"),
        KEY.replace("Z", "\u00dc"),
    ],
)
def test_what_is_no_key(text: str) -> None:
    assert keys.parse(text) is None
    assert keys.parse(KEY) is not None


def test_a_secret_is_compared_in_constant_time_whether_the_key_exists_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr("pushq.access.keys.hmac.compare_digest", spy)
    stored = keys.CheckedKey(None, b"x" * 32)  # type: ignore[arg-type] # of the key itself nothing is looked at
    assert not keys.proves(stored, "a" * 43)
    assert not keys.proves(None, "a" * 43)
    assert compared == [(32, 32)] * 2


def test_a_password_is_salted_and_its_cost_is_stored_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "N", 2**8)
    first, second = passwords.hashed("a long password"), passwords.hashed("a long password")
    assert first != second
    assert first.startswith("scrypt$256$8$1$")
    monkeypatch.setattr(passwords, "N", 2**9)
    assert passwords.matches("a long password", first), "old ones go on to work when the cost grows"
    assert not passwords.matches("a long passworD", first)
    assert not passwords.matches("x" * 10_000_000, first)


def test_the_stand_in_for_a_user_who_does_not_exist_costs_as_much_and_lets_nobody_in() -> None:
    assert passwords.NOBODY.split("$")[1:4] == passwords.hashed("something else").split("$")[1:4]
    assert not passwords.matches("", passwords.NOBODY)


def test_a_key_in_a_log_line_is_masked() -> None:
    assert KEY not in Redactor().text(f"called with {KEY}, and failed")
