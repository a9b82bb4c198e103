"""The connections to HMS against the mock over TLS: what is known of a request when its connection fails, and how the pool ends."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import gevent
import pytest

from pushq.app_settings import HmsSettings, load_apps
from pushq.http2 import Code, HeaderTemplate, PoolClosed, PoolSaturated, Proxy
from pushq.http2.figures import NullObserver
from pushq.http2.greenlets import Task
from pushq.mock import MockProcess
from pushq.providers.dialling import Dialling
from pushq.providers.hms import pool as pool_module
from pushq.providers.hms import request
from pushq.providers.hms.burst import Request, TokenBurst
from pushq.providers.hms.credentials import ServiceAccount
from pushq.providers.hms.pool import HmsPool
from pushq.providers.pool_metrics import PoolMetrics
from tests.integration.connect_proxy import ESTABLISHED, ConnectProxy
from tests.integration.counted import value
from tests.integration.h2_server import Authority

CONTENT = b'{"data":"x","android":{"ttl":"60s"}}'
PATIENT = 20.0


@pytest.fixture
def settings(mock: MockProcess) -> HmsSettings:
    found = load_apps(mock.config_file)["shop"].hms
    assert found is not None
    account = {
        "client_secret_file": None,
        "service_account_file": mock.ready["hms"]["service_account_file"],
    }
    return HmsSettings.model_validate(found.model_dump() | account)


class Opener:
    """Makes pools, and closes them."""

    def __init__(self, settings: HmsSettings) -> None:
        self.settings = settings
        self.pools: list[HmsPool] = []

    def __call__(
        self, url: str | None = None, *, trusted: bool = True, proxy: Proxy | None = None, **options: Any
    ) -> HmsPool:
        url = url or self.settings.url
        chosen: dict[str, Any] = {
            "max_connections": 4,
            "request_timeout_s": 1.0,
            "idle_close_s": 30.0,
            "observer": NullObserver(),
            "random": lambda: 0.0,
        }
        dialling = Dialling(url, self.settings.ca_file if trusted else None, proxy)
        pool = HmsPool("hms/test", url, dialling, **(chosen | options))
        self.pools.append(pool)
        return pool


@pytest.fixture
def opener(settings: HmsSettings) -> Iterator[Opener]:
    made = Opener(settings)
    yield made
    for pool in made.pools:
        pool.close(1.0)


@pytest.fixture
def template(settings: HmsSettings) -> HeaderTemplate:
    authorization = ServiceAccount("shop", settings, time.time).authorization()
    headers = ((b"authorization", authorization), (b"content-type", b"application/json"))
    return HeaderTemplate(request.path("v2", settings.path_id), headers)


def burst(template: HeaderTemplate, *sizes: int) -> TokenBurst:
    """One request for each of the sizes."""
    requests, start = [], 0
    for size in sizes:
        tokens = [b"token-%030d" % number for number in range(start, start + size)]
        requests.append(Request(range(start, start + size), tokens, request.body("v2", CONTENT, tokens)))
        start += size
    return TokenBurst(template, start, requests)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def done(pool: HmsPool, sent: TokenBurst) -> TokenBurst:
    pool.submit(sent, PATIENT)
    assert sent.wait(PATIENT), sent
    return sent


@pytest.mark.parametrize("http2", [True, False])
def test_over_either_version_of_http(
    opener: Opener, mock: MockProcess, template: HeaderTemplate, *, http2: bool
) -> None:
    pool = opener(http2=http2)
    sent = done(pool, burst(template, 1000, 500, 1))
    assert set(sent.codes) == {Code.OK}
    assert len(mock.accepted("hms")) == 1501
    assert (sent.count, sent.exchanges) == (1501, 3)
    stats = pool.stats()
    assert (stats.queued, stats.streams, stats.lost) == (0, 0, 0)
    assert stats.opened == stats.connections >= 1
    assert stats.latency_s is not None


@pytest.mark.parametrize(
    ("where", "reason"),
    [("refused", "connect_refused"), ("untrusted", "tls_verify_failed"), ("nowhere", "dns")],
)
def test_without_a_connection_nothing_was_sent(
    opener: Opener, mock: MockProcess, template: HeaderTemplate, where: str, reason: str
) -> None:
    urls = {"refused": f"https://127.0.0.1:{free_port()}", "nowhere": "https://host.invalid"}
    pool = opener(urls.get(where), trusted=where != "untrusted")
    sent = done(pool, burst(template, 3, 2))
    assert set(sent.codes) == {Code.NOT_SENT}
    assert set(sent.reasons.values()) == {reason}
    assert len(sent.reasons) == 5
    assert pool.stats().failed >= 1
    assert pool.stats().opened == 0
    assert mock.accepted("hms") == {}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "proxy_auth"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "proxy_bad_gateway"),
        (b"", "connect_failed"),  # cut
        (None, "connect_timeout"),
        (ESTABLISHED, "tls_verify_failed"),
    ],
)
def test_where_a_proxy_makes_no_connection_nothing_was_sent(
    opener: Opener, mock: MockProcess, template: HeaderTemplate, said: bytes | None, reason: str
) -> None:
    """The CONNECT was written, the request was not."""
    with ConnectProxy(lambda head: said) as proxy:
        pool = opener(trusted=said != ESTABLISHED, proxy=Proxy.parse(proxy.url), request_timeout_s=0.3)
        sent = done(pool, burst(template, 3))
        assert (set(sent.codes), set(sent.reasons.values())) == ({Code.NOT_SENT}, {reason})
        # Counted as such, so that the next lane waits for the back-off.
        stats = pool.stats()
        assert (stats.failed, stats.lost, stats.opened) == (1, 0, 0)
    assert mock.accepted("hms") == {}


@pytest.mark.parametrize("http2", [True, False])
@pytest.mark.parametrize("tls", [True, False])
def test_through_a_proxy(
    opener: Opener,
    mock: MockProcess,
    template: HeaderTemplate,
    authority: Authority,
    *,
    http2: bool,
    tls: bool,
) -> None:
    with ConnectProxy(certificate=authority.issue("localhost") if tls else None) as proxy:
        through = Proxy.parse(proxy.url, ca_file=authority.ca_file if tls else None)
        pool = opener(proxy=through, http2=http2)
        for _ in range(2):
            assert set(done(pool, burst(template, 2)).codes) == {Code.OK}
        stats = pool.stats()
        assert (stats.opened, stats.connections, stats.failed, len(proxy.heads)) == (1, 1, 0, 1)
        # What was written in the tunnel may have been processed.
        mock.set_faults([{"platform": "hms", "times": 1, "per": "total", "stall": True, "processed": True}])
        sent = done(pool, burst(template, 2))
        assert (set(sent.codes), set(sent.reasons.values())) == ({Code.UNKNOWN}, {"timeout"})
        pool.close(1.0)


@pytest.mark.parametrize(("broken", "code"), [("_Lane._post", Code.NOT_SENT), ("divide", Code.UNKNOWN)])
def test_a_request_on_which_pushq_breaks_down_holds_up_no_other(
    opener: Opener, template: HeaderTemplate, monkeypatch: pytest.MonkeyPatch, broken: str, code: Code
) -> None:
    """Neither those behind it in the queue, for which there is no other lane, nor itself."""
    whole = attrgetter(broken)(pool_module)
    calls = []

    def breaks_down(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError
        return whole(*args)

    monkeypatch.setattr(f"pushq.providers.hms.pool.{broken}", breaks_down)
    sent = done(opener(max_connections=1), burst(template, 2, 1))
    assert list(sent.codes) == [code, code, Code.OK]
    assert sent.reasons == {0: "internal_error", 1: "internal_error"}


def test_a_host_that_is_away_is_not_dialled_again_and_again(opener: Opener, template: HeaderTemplate) -> None:
    pool = opener(f"https://127.0.0.1:{free_port()}")
    done(pool, burst(template, 1))
    failed = pool.stats().failed
    pool.submit(burst(template, 1), PATIENT)
    gevent.sleep(0.05)
    # The back-off of half a second, of which the jitter leaves a half.
    assert pool.stats().failed == failed


def test_a_request_that_was_written_and_not_answered_is_unknown(
    opener: Opener, mock: MockProcess, template: HeaderTemplate
) -> None:
    mock.set_faults([{"platform": "hms", "times": 1, "per": "total", "stall": True, "processed": True}])
    pool = opener()
    sent = done(pool, burst(template, 3))
    assert (set(sent.codes), set(sent.reasons.values())) == ({Code.UNKNOWN}, {"timeout"})
    assert set(done(pool, burst(template, 3)).codes) == {Code.OK}
    assert pool.stats().lost == 1
    assert set(mock.accepted("hms").values()) == {2}


def test_what_waits_in_the_queue_waits_no_longer_than_it_may(
    opener: Opener, template: HeaderTemplate
) -> None:
    now = [0.0]
    pool = opener(clock=lambda: now[0])
    sent = burst(template, 2, 3)
    pool.submit(sent, PATIENT)
    now[0] = pool_module.QUEUE_TIMEOUT_S + 1
    assert sent.wait(PATIENT)
    assert (set(sent.codes), set(sent.reasons.values())) == ({Code.NOT_SENT}, {"queue_timeout"})
    assert pool.stats().queued == 0


def test_a_burst_that_is_cancelled_is_not_sent(
    opener: Opener, mock: MockProcess, template: HeaderTemplate
) -> None:
    pool = opener()
    sent = burst(template, 2, 3)
    pool.submit(sent, PATIENT)
    sent.cancel("paused")
    assert sent.done
    assert (set(sent.codes), set(sent.reasons.values())) == ({Code.NOT_SENT}, {"paused"})
    assert pool.stats().queued == 0
    assert set(done(pool, burst(template, 1)).codes) == {Code.OK}
    assert mock.stats()["platforms"]["hms"]["requests"] == 1


def test_a_full_queue_takes_no_more(
    opener: Opener, template: HeaderTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "QUEUE_LIMIT", 10)
    pool = opener(f"https://127.0.0.1:{free_port()}", random=lambda: 1.0)
    done(pool, burst(template, 1))
    # More than may wait, but nobody else waits.
    pool.submit(burst(template, 20), PATIENT)
    with pytest.raises(PoolSaturated):
        pool.submit(burst(template, 1), 0.01)


def test_a_closed_pool_sends_nothing_more(opener: Opener, template: HeaderTemplate) -> None:
    pool = opener(f"https://127.0.0.1:{free_port()}", random=lambda: 1.0)
    done(pool, burst(template, 1))
    waits = burst(template, 2)
    pool.submit(waits, PATIENT)
    pool.close(1.0)
    assert (set(waits.codes), set(waits.reasons.values())) == ({Code.NOT_SENT}, {"pool_closed"})
    with pytest.raises(PoolClosed):
        pool.submit(burst(template, 1), PATIENT)
    assert pool.stats().connections == 0


def test_closing_waits_for_nobody_who_has_nothing_to_do(
    opener: Opener, mock: MockProcess, template: HeaderTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither lanes that rest nor those that wait to dial: who has to be killed took the whole grace."""
    killed: list[Task] = []

    def kill(task: Task) -> None:
        killed.append(task)

    monkeypatch.setattr(Task, "kill", kill)
    pool = opener()
    done(pool, burst(template, 1, 1))
    pool.close(PATIENT)
    away = opener(f"https://127.0.0.1:{free_port()}", random=lambda: 1.0)
    done(away, burst(template, 1, 1))
    away.submit(burst(template, 1), PATIENT)
    gevent.sleep(0.05)
    away.close(PATIENT)
    assert killed == []


def test_a_lane_that_has_nothing_to_do_lets_its_connection_go(
    opener: Opener, mock: MockProcess, template: HeaderTemplate
) -> None:
    pool = opener(idle_close_s=0.05)
    done(pool, burst(template, 1))
    deadline = gevent.Timeout(PATIENT)
    with deadline:
        while pool.stats().connections or mock.stats()["platforms"]["hms"]["connections"]["open"]:
            gevent.sleep(0.02)
    assert set(done(pool, burst(template, 1)).codes) == {Code.OK}
    assert pool.stats().opened == 2


def test_what_it_counts(opener: Opener, mock: MockProcess, template: HeaderTemplate) -> None:
    """A request is one answer, however many devices it names; waiting for one lane is one episode, however many requests wait."""

    def seen(suffix: str, **more: str) -> float:
        return value(f"push_provider_latency_seconds_{suffix}", app="test", platform="hms", **more) or 0.0

    mock.set_latency(60)
    pool = opener(max_connections=1, observer=PoolMetrics())
    for episode in (1, 2):
        done(pool, burst(template, 1000, 2, 1))
        assert pool.stats().exhausted == episode
        done(pool, burst(template, 1))
    mock.set_latency(0)
    assert seen("count") == 8
    assert seen("bucket", le="0.05") == 0
    assert value("pushq_http2_pool_exhausted_total", pool="hms/test") == 2
    assert value("pushq_http2_connections_opened_total", pool="hms/test") == 1


def test_a_burst_of_scattered_devices(opener: Opener, mock: MockProcess, template: HeaderTemplate) -> None:
    """Indices that are no range: who gets the same content is not who stands together."""
    tokens = [b"token-%030d" % number for number in range(6)]
    dead = b"deaddeaddead" + b"0" * 30
    tokens[4] = dead
    parts = [[0, 2, 4], [1, 3, 5]]
    sent = TokenBurst(
        template,
        6,
        [
            Request(
                part, [tokens[at] for at in part], request.body("v2", CONTENT, [tokens[at] for at in part])
            )
            for part in parts
        ],
    )
    done(opener(), sent)
    assert list(sent.codes) == [Code.OK] * 4 + [Code.ANSWERED, Code.OK]
    assert set(sent.answers) == {4}
    assert mock.accepted("hms") == {token.decode(): 1 for token in tokens if token != dead}
