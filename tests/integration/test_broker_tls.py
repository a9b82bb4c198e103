"""A broker's, or a cache's, certificate is checked before anything is said to it, above all the password."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from pushq.app import configuration
from pushq.doctor import services
from pushq.errors import ServiceUnavailable
from pushq.observe.queues import RabbitMqQueues
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.settings import load
from tests.integration.h2_server import Authority


class Listener:
    """Takes TLS connections on ``localhost``, remembers what is said on them, and hangs up."""

    def __init__(self, certificate: Path) -> None:
        self.heard: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._socket = socket.create_server(("", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            plain.settimeout(10)
            with plain, suppress(OSError), self._context.wrap_socket(plain, server_side=True) as secure:
                self.heard.append(secure.recv(1000))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def broker(url: str) -> None:
    app = Celery("tls", set_as_current=False)
    app.conf.update(configuration(load({"PUSHQ_BROKER_URL": url})))
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=2, interval_start=0, interval_step=0, timeout=5)


def cache(url: str) -> None:
    with open_redis(ServiceUrl(url)) as client:
        client.ping()


def exporter(url: str) -> None:
    with closing(RabbitMqQueues(ServiceUrl(url), None)) as queues:
        try:
            queues.depths()
        except ServiceUnavailable as unavailable:
            raise unavailable.__cause__ or unavailable from None


def doctor(url: str) -> None:
    (finding,) = services.broker(load({"PUSHQ_BROKER_URL": url}))
    raise OSError(finding.found)


TARGETS: list[tuple[str, Callable[[str], None]]] = [
    ("amqps://user:password@localhost:{port}//", broker),
    ("amqps://user:password@localhost:{port}//", exporter),
    ("amqps://user:password@localhost:{port}//", doctor),
    ("rediss://:password@localhost:{port}/0", broker),
    ("rediss://:password@localhost:{port}/0", doctor),
    ("rediss://:password@localhost:{port}/0", cache),
]


@pytest.fixture(params=["trusted", "of_nobody", "of_another"])
def listener(
    request: pytest.FixtureRequest, authority: Authority, tmp_path: Path
) -> Iterator[tuple[Listener, bool]]:
    """Somebody with a certificate, and whether it is one to believe: from a known authority, and for this name."""
    unknown = Authority(tmp_path, "nobody")
    certificate = {
        "trusted": lambda: authority.issue("localhost"),
        "of_nobody": lambda: unknown.issue("localhost"),
        "of_another": lambda: authority.issue("other.example", "127.0.0.2"),
    }[request.param]()
    opened = Listener(certificate)
    yield opened, request.param == "trusted"
    opened.close()


@pytest.mark.parametrize(
    ("url", "connect"), TARGETS, ids=lambda value: getattr(value, "__name__", str(value).partition(":")[0])
)
def test_nothing_is_said_to_a_server_that_nobody_vouches_for(
    listener: tuple[Listener, bool],
    url: str,
    connect: Callable[[str], None],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The listener speaks neither AMQP nor Redis: the calls fail in any case, the question is what it has heard by then."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    server, trusted = listener
    with pytest.raises((OperationalError, RedisError, OSError)) as failure:
        connect(url.format(port=server.port))
    assert ("CERTIFICATE_VERIFY_FAILED" in str(failure.value)) == (not trusted)
    assert any(server.heard) == trusted


def test_each_of_several_brokers_is_measured_by_its_own_name(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kombu keeps the name of the first one; after a failover that would condemn the second."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    first, second = (Listener(authority.issue(f"127.0.0.{n}", f"127.0.0.{n}")) for n in (1, 2))
    try:
        urls = [f"amqps://u:p@127.0.0.{n}:{each.port}//" for n, each in ((1, first), (2, second))]
        with pytest.raises(OperationalError):
            broker(";".join(urls))
        assert first.heard[0][:4] == second.heard[0][:4] == b"AMQP"
    finally:
        first.close()
        second.close()
