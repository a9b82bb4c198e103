"""Reaching a name: several addresses, dead ones among them, and certificate files that change."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest

from pushq.http2 import Code, Origin, Reason
from pushq.http2.dialer import Dialer
from pushq.http2.errors import ConnectFailed
from pushq.http2.racing import Address, connect_first
from tests.integration.h2_server import Authority, H2Server, Request
from tests.integration.pool_world import PATIENT, Pools, burst_of, heard, number_of, send, tally, until


class Names:
    """A name server: what it says, and how often it was asked."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        return [Address(socket.AF_INET, (each, port)) for each in self.hosts]


@contextlib.contextmanager
def dead(host: str, port: int) -> Iterator[None]:
    """An address that lets every attempt wait: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        while True:
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.2)
            try:
                sock.connect((host, port))
            except TimeoutError:
                break
        yield


def test_a_dead_first_address_costs_a_stagger_and_no_time_out(authority: Authority, pools: Pools) -> None:
    with H2Server(authority) as server, dead("127.0.0.2", server.port):
        names = Names("127.0.0.2", "127.0.0.1")
        dialer = Dialer(server.origin, resolver=names, random=lambda: 0.0)
        # Two connections: whichever address comes first for the one, the other begins with the other.
        pool = pools(
            server.origin,
            connector=dialer,
            min_connections=2,
            max_connections=2,
            connect_timeout_s=PATIENT / 2,
        )
        pool.start()
        until(lambda: pool.stats().connections == 2)
        assert pool.stats().failed == 0
        assert {row.peer for row in pool.connections()} == {f"127.0.0.1:{server.port}"}
        assert names.asked == 2, "the name is asked for every connection"


def test_an_address_that_refuses_costs_nothing(authority: Authority, pools: Pools) -> None:
    with H2Server(authority) as server:
        names = Names("127.0.0.2", "127.0.0.3", "127.0.0.1")
        pool = pools(server.origin, connector=Dialer(server.origin, resolver=names))
        assert tally(send(pool, burst_of(3))) == {Code.OK: 3}
        assert pool.stats().failed == 0


def test_connections_spread_over_the_addresses(authority: Authority, pools: Pools) -> None:
    with H2Server(authority) as first, ExitStack() as stack:
        others = [
            stack.enter_context(H2Server(authority, host=host, port=first.port))
            for host in ("127.0.0.2", "127.0.0.3")
        ]
        names = Names("127.0.0.1", "127.0.0.2", "127.0.0.3")
        pool = pools(
            first.origin,
            connector=Dialer(first.origin, resolver=names),
            min_connections=6,
            max_connections=6,
        )
        pool.start()
        until(lambda: pool.stats().connections == 6)
        assert [len(server.connections) for server in (first, *others)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("hosts", "reason", "words"),
    [
        (("127.0.0.2", "127.0.0.3"), Reason.CONNECT_REFUSED, "refused"),
        (("127.0.0.2", "127.0.0.9"), Reason.CONNECT_TIMEOUT, "in 0.6 s"),
        ((), Reason.CONNECT_FAILED, "no address"),
    ],
)
def test_no_address_answers(hosts: tuple[str, ...], reason: Reason, words: str, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    with dead("127.0.0.9", port):
        dialer = Dialer(Origin("localhost", port, authority.ca_file), resolver=Names(*hosts))
        with pytest.raises(ConnectFailed, match=words) as caught:
            dialer.connect(0.6)
        assert caught.value.reason == reason


def test_an_address_of_a_family_that_is_not_there(authority: Authority) -> None:
    """A host without IPv6 is given IPv6 addresses all the same."""

    def resolver(host: str, port: int) -> list[Address]:
        return [
            Address(255, (host, port)),
            Address(socket.AF_INET, ("127.0.0.1", port)),
        ]

    with H2Server(authority) as server:
        channel = Dialer(server.origin, resolver=resolver, random=lambda: 0.0).connect(PATIENT)
        assert channel.peer == f"127.0.0.1:{server.port}"
        channel.close()


def replace(source: Path, target: Path) -> None:
    """As a careful operator does it, at once."""
    copy = target.with_suffix(".new")
    shutil.copy(source, copy)
    copy.replace(target)


def test_a_renewed_client_certificate_is_used_for_the_next_connection(
    authority: Authority, pools: Pools, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def behave(request: Request) -> None:
        request.answer()
        if number_of(request) in (0, 2, 4):
            request.connection.goaway(2**31 - 1)

    caplog.set_level(logging.INFO, "pushq.http2")
    clients = Authority(tmp_path, "clients")
    pem = tmp_path / "current.pem"
    replace(clients.issue("first"), pem)
    with H2Server(authority, behave, client_ca=clients.ca_file) as server:
        origin = Origin("localhost", server.port, authority.ca_file, client_cert=pem, client_key=pem)
        pool = pools(origin, min_connections=0)

        def subject() -> str:
            certificate = server.connections[-1].peer_certificate
            assert certificate is not None
            return str(dict(pair for entry in certificate["subject"] for pair in entry)["commonName"])  # type: ignore[misc]

        def reused() -> bool:
            return server.connections[-1].session_reused

        assert tally(send(pool, burst_of(1))) == {Code.OK: 1}
        until(lambda: len(heard(pool).ended) == 1)
        assert tally(send(pool, burst_of(1, start=1))) == {Code.OK: 1}
        assert subject() == "first"
        assert reused()
        # A connection that is open keeps what it has; the next one takes the new.
        replace(clients.issue("second"), pem)
        assert tally(send(pool, burst_of(1, start=2))) == {Code.OK: 1}
        assert subject() == "first"
        until(lambda: len(heard(pool).ended) == 2)
        assert tally(send(pool, burst_of(1, start=3))) == {Code.OK: 1}
        assert subject() == "second"
        assert not reused(), "a session of the old certificate is no good"
        assert "http2_certificates_reloaded" in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("broken", ["garbage", "missing"])
def test_a_renewal_that_went_wrong_keeps_the_old_certificate(
    broken: str, authority: Authority, pools: Pools, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def behave(request: Request) -> None:
        request.answer()
        request.connection.goaway(2**31 - 1)

    caplog.set_level(logging.INFO, "pushq.http2")
    ca_file = tmp_path / "ca.pem"
    replace(authority.ca_file, ca_file)
    with H2Server(authority, behave) as server:
        pool = pools(Origin("localhost", server.port, ca_file), min_connections=0)
        send(pool, burst_of(1))
        if broken == "garbage":
            ca_file.write_text("-----BEGIN CERTIFICATE-----\nhalf of")
        else:
            ca_file.unlink()
        for number in (1, 2, 3):
            burst = burst_of(1, start=number)
            until(lambda: pool.stats().connections == 0)
            assert tally(send(pool, burst)) == {Code.OK: 1}
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert [record.getMessage() for record in errors] == ["http2_certificates_unusable"], (
            "once, not each time"
        )
        assert "ca.pem" in vars(errors[0])["detail"]
        replace(authority.ca_file, ca_file)
        until(lambda: pool.stats().connections == 0)
        assert tally(send(pool, burst_of(1, start=9))) == {Code.OK: 1}
        assert "http2_certificates_reloaded" in [record.getMessage() for record in caplog.records]


def test_a_time_out_at_any_moment_of_the_race_leaves_no_socket_open() -> None:
    """Also one that strikes when a racer has just won: nobody would own the winner."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        port = listener.getsockname()[1]
        # The second is still connecting when the first has won, or the other way round.
        addresses = [
            Address(socket.AF_INET, ("127.0.0.1", port)),
            Address(socket.AF_INET, ("127.0.0.1", port)),
        ]
        won = 0
        for step in range(200):
            with gevent.Timeout(step * 5e-6, False):
                connect_first(addresses, stagger_s=0).close()
                won += 1
        gevent.sleep(0.05)
        listener.settimeout(0.5)
        peers = 0
        with contextlib.suppress(TimeoutError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peers += 1
                    peer.settimeout(PATIENT)
                    with contextlib.suppress(ConnectionResetError):
                        assert peer.recv(1) == b""
        assert won
        assert peers >= won
