"""Which proxy the settings name, and that nothing prints its password."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushq.errors import SettingsError
from pushq.http2 import Proxy
from pushq.providers.proxy import proxy_of
from pushq.settings import load


def proxy_for(**environ: str) -> Proxy | None:
    return proxy_of(load(environ))


def test_there_is_none_unless_it_is_asked_for() -> None:
    assert proxy_for() is None
    assert proxy_for(HTTPS_PROXY="http://proxy.example:3128", https_proxy="http://proxy.example:3128") is None


def test_the_proxy_of_pushq(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hush\n")
    settings = load(
        {
            "PUSHQ_HTTP_PROXY": "http://us%20er@proxy.example:3128",
            "PUSHQ_HTTP_PROXY_PASSWORD_FILE": str(secret),
            "PUSHQ_NO_PROXY": "localhost, 10.0.0.0/8",
        }
    )
    proxy = proxy_of(settings)
    assert proxy is not None
    assert str(proxy) == "http://proxy.example:3128"
    assert proxy.credentials() == ("us er", "hush")
    assert not proxy.covers("localhost", 443)
    assert not proxy.covers("10.9.9.9", 443)
    assert proxy.covers("api.push.apple.com", 443)
    assert "hush" not in repr(settings) + repr(proxy)


@pytest.mark.parametrize("yes", ["true", "1", "Yes"])
def test_the_proxy_of_everybody(yes: str) -> None:
    common = {
        "PUSHQ_PROXY_FROM_ENVIRONMENT": yes,
        "HTTPS_PROXY": "user:hush@proxy.example:3128",
        "NO_PROXY": "localhost",
    }
    proxy = proxy_for(**common)
    assert proxy is not None
    assert (str(proxy), proxy.credentials()) == ("http://proxy.example:3128", ("user", "hush"))
    assert not proxy.covers("localhost", 443)
    ours = proxy_for(**common, PUSHQ_HTTP_PROXY="http://ours.example", PUSHQ_NO_PROXY="example.com")
    assert str(ours) == "http://ours.example:80", "our own setting comes first"
    assert ours is not None
    assert ours.covers("localhost", 443)
    assert proxy_for(PUSHQ_PROXY_FROM_ENVIRONMENT="true") is None
    assert proxy_for(**{**common, "PUSHQ_PROXY_FROM_ENVIRONMENT": "false"}) is None


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"PUSHQ_HTTP_PROXY": "socks5://user:hush@proxy"}, "PUSHQ_HTTP_PROXY: found a URL that begins with"),
        ({"PUSHQ_HTTP_PROXY": "user:hush@proxy"}, "PUSHQ_HTTP_PROXY: found a value that is no URL"),
        ({"PUSHQ_HTTP_PROXY": "http://user:hu/sh@proxy"}, "PUSHQ_HTTP_PROXY: found a URL"),
        ({"PUSHQ_HTTP_PROXY": "http://user:hush@proxy/path"}, "PUSHQ_HTTP_PROXY: proxy: found a URL"),
        (
            {"PUSHQ_PROXY_FROM_ENVIRONMENT": "1", "HTTPS_PROXY": "socks5://user:hush@proxy"},
            "HTTPS_PROXY: found a URL that begins with",
        ),
    ],
)
def test_a_proxy_that_is_none_is_named_without_its_password(environ: dict[str, str], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        proxy_for(**environ)
    assert str(caught.value).startswith(line)
    assert "hush" not in str(caught.value)
