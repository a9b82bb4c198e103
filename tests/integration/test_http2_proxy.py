"""The pool through an HTTP proxy: a real one in threads, with all that can be wrong with it."""

from __future__ import annotations

import base64
import logging
import socket
from pathlib import Path

import pytest

from pushq.errors import SettingsError
from pushq.http2 import Code, Proxy, Reason
from tests.integration.connect_proxy import ESTABLISHED, ConnectProxy
from tests.integration.h2_server import Authority, H2Server, Request
from tests.integration.pool_world import PATIENT, Pools, burst_of, heard, number_of, send, tally, until

USER, PASSWORD = "push", "s3cret/@:pass"
REQUIRED = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
)


def guarded(head: str) -> bytes:
    """Who brings the right credentials may pass."""
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return ESTABLISHED if f"Proxy-Authorization: Basic {pair}\r\n" in head else REQUIRED


def test_thousands_go_through_it(authority: Authority, pools: Pools) -> None:
    with H2Server(authority) as server, ConnectProxy() as proxy:
        pool = pools(server.origin, proxy=Proxy.parse(proxy.url), min_connections=2, max_connections=2)
        bursts = [burst_of(500, start=500 * number) for number in range(6)]
        for burst in bursts:
            pool.submit(burst, PATIENT)
        for burst in bursts:
            assert burst.wait(PATIENT)
            assert tally(burst) == {Code.OK: 500}
        assert len(set(server.tokens())) == 3000
        where = f"localhost:{server.port}"
        assert proxy.heads == [f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n"] * 2
        assert proxy.carried > 3000 * 30
        port = proxy.url.rpartition(":")[2]
        assert {row.peer for row in pool.connections()} == {f"127.0.0.1:{port}"}


def test_credentials_from_the_url_and_from_a_file(authority: Authority, pools: Pools, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    with H2Server(authority) as server, ConnectProxy(guarded) as proxy:
        with_user = proxy.url.replace("//", "//push@")
        in_url = Proxy.parse(proxy.url.replace("//", "//push:s3cret%2F%40%3Apass@"))
        assert tally(send(pools(server.origin, proxy=in_url), burst_of(3))) == {Code.OK: 3}
        secret.write_text("not yet\n")
        pool = pools(
            server.origin, proxy=Proxy.parse(with_user, password_file=secret), queue_timeout_s=PATIENT
        )
        burst = burst_of(3)
        pool.submit(burst, PATIENT)
        until(lambda: "proxy_auth" in heard(pool).failed)
        secret.write_text(f"{PASSWORD}\n")
        assert burst.wait(PATIENT)
        assert tally(burst) == {Code.OK: 3}


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (REQUIRED, Reason.PROXY_AUTH, "407 Proxy Authentication Required"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", Reason.PROXY_FORBIDDEN, "403 Forbidden"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", Reason.PROXY_BAD_GATEWAY, "502 Bad Gateway"),
        (b"HTTP/1.0 503 \r\n\r\n", Reason.PROXY_BAD_GATEWAY, "503"),
        (b"HTTP/1.1 405 Not \x1b[31mallowed\r\n\r\n", Reason.PROXY_REFUSED, "405 Not ?[31mallowed"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", Reason.PROXY_REFUSED, "302 Found"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Reason.PROXY_PROTOCOL, "101"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Reason.PROXY_PROTOCOL, "not HTTP/1"),
        (b"x" * 20_000, Reason.PROXY_PROTOCOL, "16384 octets and no end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, Reason.PROXY_PROTOCOL, "16384 octets and no end"),
        (ESTABLISHED + b"hello", Reason.PROXY_PROTOCOL, "5 octets into the tunnel"),
        (b"HTTP/1.1 200 Conn", Reason.PROXY_PROTOCOL, "hung up before its answer"),
        (b"", Reason.PROXY_PROTOCOL, "hung up before its answer"),
        (None, Reason.PROXY_TIMEOUT, "did not answer CONNECT localhost"),
    ],
)
def test_what_a_proxy_can_say(
    answer: bytes | None,
    reason: Reason,
    words: str,
    authority: Authority,
    pools: Pools,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "pushq.http2")
    with H2Server(authority) as server, ConnectProxy(lambda head: answer) as proxy:
        url = proxy.url.replace("//", f"//{USER}:hush-hush@")
        pool = pools(server.origin, proxy=Proxy.parse(url), connect_timeout_s=0.4, queue_timeout_s=0.3)
        burst = send(pool, burst_of(2))
        assert tally(burst) == {Code.NOT_SENT: 2}
        assert set(burst.reasons.values()) <= {reason, Reason.QUEUE_TIMEOUT}
        until(lambda: heard(pool).failed != [])
        assert set(heard(pool).failed) == {reason}
        assert words in pool.stats().last_error
        assert server.connections == []
    everything = [str(vars(record)) for record in caplog.records] + [repr(pool.stats()), repr(pool)]
    assert not any("hush" in text or "aHVzaC" in text for text in everything)


def test_a_proxy_that_should_speak_tls_and_says_nothing(authority: Authority, pools: Pools) -> None:
    with H2Server(authority) as server, socket.create_server(("127.0.0.1", 0)) as proxy:
        url = f"https://localhost:{proxy.getsockname()[1]}"
        pool = pools(server.origin, proxy=Proxy.parse(url), connect_timeout_s=0.3, queue_timeout_s=0.3)
        assert tally(send(pool, burst_of(1))) == {Code.NOT_SENT: 1}
        until(lambda: heard(pool).failed != [])
        assert set(heard(pool).failed) == {Reason.PROXY_TLS_FAILED}
        proxy.settimeout(PATIENT)
        peer, _ = proxy.accept()
        with peer:
            peer.settimeout(PATIENT)
            while peer.recv(4096):  # our half of the handshake, and then the end of a socket that was closed
                pass


@pytest.mark.parametrize("answer", [b"HTTP/1.1 102 Processing\r\n\r\n" + ESTABLISHED, b"HTTP/1.0 200 OK\n\n"])
def test_interim_answers_and_bare_line_feeds(answer: bytes, authority: Authority, pools: Pools) -> None:
    with H2Server(authority) as server, ConnectProxy(lambda head: answer) as proxy:
        assert tally(send(pools(server.origin, proxy=Proxy.parse(proxy.url)), burst_of(3))) == {Code.OK: 3}


def test_a_proxy_that_is_not_there(authority: Authority, pools: Pools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    with H2Server(authority) as server:
        pool = pools(server.origin, proxy=Proxy.parse(f"http://localhost:{port}"), queue_timeout_s=0.2)
        burst = send(pool, burst_of(1))
        assert set(burst.reasons.values()) == {"proxy_unreachable"}
        nowhere = Proxy.parse("http://" + "x" * 70 + ".invalid:3128")
        burst = send(pools(server.origin, proxy=nowhere, queue_timeout_s=0.2), burst_of(1))
        assert set(burst.reasons.values()) == {"proxy_unreachable"}
        assert server.connections == []


def test_a_tunnel_that_breaks_is_a_lost_connection(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        if number_of(request) == 0 or number_of(request) >= 100:
            request.answer()

    with H2Server(authority, behave) as server, ConnectProxy() as proxy:
        pool = pools(server.origin, proxy=Proxy.parse(proxy.url), request_timeout_s=PATIENT)
        burst = burst_of(10)
        pool.submit(burst, PATIENT)
        until(lambda: len(server.requests) == 10)
        proxy.cut()
        assert burst.wait(PATIENT)
        assert tally(burst) == {Code.OK: 1, Code.UNKNOWN: 9}
        assert set(burst.reasons.values()) == {"connection_lost"}
        assert tally(send(pool, burst_of(5, start=100))) == {Code.OK: 5}
        assert len(proxy.heads) == 2


def test_hosts_that_are_connected_to_directly(authority: Authority, pools: Pools) -> None:
    with H2Server(authority) as server, ConnectProxy() as proxy:
        around = Proxy.parse(proxy.url, no_proxy=f"example.com, localhost:{server.port}")
        assert tally(send(pools(server.origin, proxy=around), burst_of(3))) == {Code.OK: 3}
        assert proxy.heads == []


def test_a_proxy_that_speaks_tls_itself(authority: Authority, pools: Pools) -> None:
    with (
        H2Server(authority) as server,
        ConnectProxy(guarded, certificate=authority.issue("localhost")) as proxy,
    ):
        url = proxy.url.replace("//", "//push:s3cret%2F%40%3Apass@")
        pool = pools(server.origin, proxy=Proxy.parse(url, ca_file=authority.ca_file), max_connections=1)
        assert tally(send(pool, burst_of(1000))) == {Code.OK: 1000}
        pool.close(PATIENT)
        distrusting = pools(server.origin, proxy=Proxy.parse(url), queue_timeout_s=0.2)
        burst = send(distrusting, burst_of(1))
        assert set(burst.reasons.values()) == {"proxy_tls_failed"}
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("localhost:3128", "does not begin with http"),
        ("socks5://user:hush@localhost", "does not begin with http"),
        ("http://user:hush@", "no host"),
        ("http://user:hush@localhost:3128/path", "more than host and port"),
        ("http://user:hush@localhost:port", "cannot be read"),
        ("http://us%3Aer:hush@localhost", "colon"),
    ],
)
def test_a_url_that_is_none(url: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as caught:
        Proxy.parse(url)
    assert "hush" not in str(caught.value)


def test_a_password_has_one_place(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hush")
    with pytest.raises(SettingsError, match="one of them"):
        Proxy.parse("http://user:hush@localhost", password_file=secret)
    with pytest.raises(SettingsError, match="no user"):
        Proxy.parse("http://localhost", password_file=secret)
    assert "hush" not in repr(Proxy.parse("http://user:hush@localhost"))
    assert str(Proxy.parse("http://user:hush@proxy.example")) == "http://proxy.example:80"
    assert str(Proxy.parse("https://[::1]")) == "https://[::1]:443"


@pytest.mark.parametrize(
    ("entries", "host", "direct"),
    [
        ("", "example.com", False),
        ("*", "example.com", True),
        ("example.com", "example.com", True),
        ("example.com", "API.Example.com", True),
        (".example.com", "api.example.com", True),
        ("*.example.com", "api.example.com", True),
        ("example.com", "badexample.com", False),
        ("example.com:443", "example.com", True),
        ("example.com:8443", "example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "example.com", False),
        ("127.0.0.1:443 ,::1", "127.0.0.1", True),
        ("127.0.0.1:443 ,::1", "::1", True),
        ("[::1]:443", "::1", True),
    ],
)
def test_who_is_connected_to_directly(entries: str, host: str, direct: bool) -> None:
    assert Proxy.parse("http://proxy", no_proxy=entries).covers(host, 443) is not direct
