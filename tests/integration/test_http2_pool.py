"""The pool over real sockets and TLS, against a strict server in real threads."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import gevent
import pytest

from pushq.errors import SettingsError
from pushq.http2 import (
    Code,
    Origin,
    Pool,
    PoolClosed,
    PoolSaturated,
    Reason,
)
from pushq.http2.frames import ErrorCode
from tests.integration.h2_server import Authority, H2Server, Request, Settings, accept_all
from tests.integration.pool_world import MAX, PATIENT, Pools, burst_of, heard, number_of, send, tally, until

# The ordinary way


def test_many_bursts_over_several_connections(authority: Authority, pools: Pools) -> None:
    with H2Server(authority, settings={Settings.MAX_CONCURRENT_STREAMS: 50}) as server:
        pool = pools(server.origin, min_connections=2, max_connections=4)
        bursts = [burst_of(200, start=200 * number) for number in range(8)]
        for burst in bursts:
            pool.submit(burst, PATIENT)
        for burst in bursts:
            assert burst.wait(PATIENT)
            assert tally(burst) == {Code.OK: 200}
            assert burst.first_written_at is not None
        assert sorted(server.tokens()) == [f"{number:064x}" for number in range(1600)]
        assert {request.headers["apns-topic"] for request in server.requests} == {"com.example.shop"}
        assert len({request.connection.number for request in server.requests}) > 1
        pool.close(PATIENT)
        assert set(heard(pool).ended) == {"pool_closed"}


def test_answers_reach_their_requests(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        if number_of(request) % 3:
            request.answer()
        else:
            request.answer(410, b'{"reason":"Unregistered"}', apns_id=request.token[-8:])

    with H2Server(authority, behave) as server:
        burst = send(pools(server.origin), burst_of(90))
        assert tally(burst) == {Code.OK: 60, Code.ANSWERED: 30}
        for index, answer in burst.answers.items():
            assert index % 3 == 0
            assert (answer.status, answer.body) == (410, b'{"reason":"Unregistered"}')
            assert answer.headers["apns-id"] == f"{index:08x}"


def test_greenlets_submit_side_by_side(authority: Authority, pools: Pools) -> None:
    with H2Server(authority) as server:
        pool = pools(server.origin, queue_limit=100, max_connections=3)
        bursts = [burst_of(37, start=37 * number) for number in range(20)]
        jobs = [gevent.spawn(send, pool, burst) for burst in bursts]
        gevent.joinall(jobs, timeout=PATIENT, raise_error=True)
        assert all(tally(burst) == {Code.OK: 37} for burst in bursts)
        assert len(set(server.tokens())) == len(server.requests) == 740


def test_one_stream_until_the_credential_is_accepted(authority: Authority, pools: Pools) -> None:
    """As APNs does it: limit 1, raised by the first good request."""
    started = threading.Event()

    def behave(request: Request) -> None:
        if not started.is_set():
            started.set()
            request.connection.update_settings({Settings.MAX_CONCURRENT_STREAMS: 100})
        request.answer()

    with H2Server(authority, behave, settings={Settings.MAX_CONCURRENT_STREAMS: 1}) as server:
        burst = send(pools(server.origin, max_connections=1), burst_of(300))
        assert tally(burst) == {Code.OK: 300}
        assert len(server.connections) == 1


def test_a_limit_dropped_to_one_in_flight(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        if number_of(request) == 50:
            request.connection.update_settings({Settings.MAX_CONCURRENT_STREAMS: 1})
        if number_of(request) == 120:
            request.connection.update_settings({Settings.MAX_CONCURRENT_STREAMS: 40})
        request.answer()

    with H2Server(authority, behave, settings={Settings.MAX_CONCURRENT_STREAMS: 40}) as server:
        burst = send(pools(server.origin, max_connections=1), burst_of(200))
        assert tally(burst) == {Code.OK: 200}


def test_large_bodies_through_small_windows(authority: Authority, pools: Pools) -> None:
    with H2Server(authority, settings={Settings.INITIAL_WINDOW_SIZE: 1000}) as server:
        burst = send(pools(server.origin), burst_of(40, body=b"x" * 4096))
        assert tally(burst) == {Code.OK: 40}
        assert {len(request.body) for request in server.requests} == {4096}


# What goes wrong on a connection


def test_goaway_refuses_what_is_above_and_the_rest_finishes(authority: Authority, pools: Pools) -> None:
    held: list[Request] = []

    def behave(request: Request) -> None:
        if request.connection.number or number_of(request) == 0:
            request.answer()
            return
        held.append(request)
        if len(held) == 20:
            request.connection.goaway(held[9].stream_id, 0, b'{"reason":"Shutdown"}')
            for waiting in held[:10]:
                waiting.answer()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin)
        burst = send(pool, burst_of(21))
        assert tally(burst) == {Code.OK: 11, Code.REFUSED: 10}
        assert set(burst.reasons.values()) == {"goaway"}
        assert heard(pool).goaways == [0]
        assert "Shutdown" in pool.stats().last_error
        assert tally(send(pool, burst_of(5, start=100))) == {Code.OK: 5}
        assert len(server.connections) == 2


def test_a_cut_connection_leaves_unknown_and_is_replaced(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        if request.connection.number or number_of(request) < 5:
            request.answer()
        elif number_of(request) == 29:
            request.connection.flush()
            request.connection.cut()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin)
        burst = send(pool, burst_of(30))
        assert tally(burst) == {Code.OK: 5, Code.UNKNOWN: 25}
        assert set(burst.reasons.values()) == {"connection_lost"}
        assert tally(send(pool, burst_of(5, start=100))) == {Code.OK: 5}
        assert pool.stats().lost == 1


def test_resets_per_stream(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        kind = number_of(request) % 3
        if kind == 0:
            request.answer()
        else:
            code = ErrorCode.REFUSED_STREAM if kind == 1 else ErrorCode.INTERNAL_ERROR
            request.connection.reset(request.stream_id, code)

    with H2Server(authority, behave) as server:
        burst = send(pools(server.origin), burst_of(30))
        assert tally(burst) == {Code.OK: 10, Code.REFUSED: 10, Code.UNKNOWN: 10}
        assert set(burst.reasons.values()) == {"refused_stream", "stream_reset"}


def test_a_request_without_an_answer_times_out_alone(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        if number_of(request) != 7:
            request.answer()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin, request_timeout_s=0.3)
        burst = send(pool, burst_of(20))
        assert tally(burst) == {Code.OK: 19, Code.UNKNOWN: 1}
        assert burst.reasons == {7: "timeout"}
        until(lambda: server.resets == 1)


def test_a_wedged_connection_is_replaced(authority: Authority, pools: Pools) -> None:
    """It echoes PINGs and never answers: the outage after which a client sat for six hours."""

    def behave(request: Request) -> None:
        if request.connection.number or number_of(request) == 0:
            request.answer()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin, request_timeout_s=0.3, ping_after_s=0.1)
        assert tally(send(pool, burst_of(10))) == {Code.OK: 1, Code.UNKNOWN: 9}
        assert tally(send(pool, burst_of(10, start=100))) == {Code.OK: 10}
        assert "wedged" in heard(pool).ended


def test_a_peer_that_is_gone_without_a_word_is_found_by_ping(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        request.answer()
        request.connection.deaf = True

    with H2Server(authority, behave) as server:
        pool = pools(server.origin, ping_after_s=0.1, ping_timeout_s=0.2)
        burst = send(pool, burst_of(10))
        assert tally(burst) == {Code.OK: 1, Code.UNKNOWN: 9}
        assert set(burst.reasons.values()) == {"ping_timeout"}


def test_a_peer_that_stops_reading_is_given_up(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        request.answer()
        request.connection.deaf = not request.connection.number

    wide = {Settings.INITIAL_WINDOW_SIZE: 1 << 20}
    with H2Server(authority, behave, settings=wide, connection_window=(1 << 31) - 70_000) as server:
        pool = pools(server.origin, write_timeout_s=0.3, max_connections=1)
        burst = send(pool, burst_of(900, body=b"x" * 16_000))
        assert burst.codes[0] == Code.OK
        assert Reason.WRITE_STALLED in burst.reasons.values()
        assert set(tally(burst)) <= {Code.OK, Code.UNKNOWN, Code.NOT_SENT}


def test_a_violation_is_named(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        request.connection.flush()
        if not request.connection.number:
            request.connection._sock.sendall(b"\0\0\1\0\0\0\0\0\0x")  # DATA on stream 0
        else:
            request.answer()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin)
        burst = send(pool, burst_of(1))
        assert tally(burst) == {Code.UNKNOWN: 1}
        assert burst.reasons == {0: "protocol_violation"}
        assert "DATA on stream 0" in pool.stats().last_error
        assert tally(send(pool, burst_of(3))) == {Code.OK: 3}


def test_an_answer_can_retire_its_connection(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        if request.connection.number:
            request.answer()
        else:
            request.answer(403, b'{"reason":"ExpiredProviderToken"}')

    with H2Server(authority, behave) as server:
        pool = pools(server.origin, retire_on=lambda answer: b"Expired" in answer.body)
        burst = send(pool, burst_of(10))
        assert tally(burst) == {Code.ANSWERED: 1, Code.OK: 9}
        assert heard(pool).ended == ["retired_by_answer"]
        assert pool.stats().lost == 0


def test_a_peer_that_cannot_do_without_a_header_table_gets_one(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        if request.connection.number == 0:
            request.connection.goaway(0, ErrorCode.COMPRESSION_ERROR)
            request.connection.cut()
        else:
            request.answer(200, b"", apns_id=request.token)

    with H2Server(authority, behave) as server:
        pool = pools(server.origin)
        assert tally(send(pool, burst_of(1))) == {Code.REFUSED: 1}
        assert tally(send(pool, burst_of(20))) == {Code.OK: 20}
        assert [each.client_header_table_size for each in server.connections] == [0, 4096]


# Connecting


def test_nobody_listens(authority: Authority, pools: Pools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    pool = pools(Origin("127.0.0.1", port, authority.ca_file), queue_timeout_s=0.3)
    burst = send(pool, burst_of(5))
    assert tally(burst) == {Code.NOT_SENT: 5}
    assert set(burst.reasons.values()) == {"connect_refused"}
    assert pool.stats().failed > 1, "it kept trying"
    assert pool.stats().connections == 0


def test_a_server_that_comes_back_gets_what_waited(authority: Authority, pools: Pools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    pool = pools(Origin("localhost", port, authority.ca_file))
    pool.submit(burst := burst_of(5), PATIENT)
    until(lambda: "connect_refused" in heard(pool).failed)
    with H2Server(authority, port=port):
        assert burst.wait(PATIENT)
        assert tally(burst) == {Code.OK: 5}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("foreign authority", "tls_verify_failed"),
        ("another name", "tls_verify_failed"),
        ("no HTTP/2", "no_alpn_h2"),
        ("no SETTINGS", "no_settings"),
        ("no TLS", "connect_timeout"),
        ("hangs up", "tls_failed"),
        ("no such name", "dns"),
    ],
)
def test_why_there_is_no_connection(
    case: str, reason: str, authority: Authority, pools: Pools, tmp_path: Path
) -> None:
    alpn = "http/1.1" if case == "no HTTP/2" else "h2"
    silent = case == "no SETTINGS"
    with (
        H2Server(authority, alpn=alpn, silent=silent) as server,
        socket.create_server(("127.0.0.1", 0)) as mute,
    ):
        origin = {
            "foreign authority": Origin("localhost", server.port, Authority(tmp_path, "foreign").ca_file),
            "another name": Origin("127.0.0.1", server.port, authority.ca_file, server_name="example.com"),
            "no TLS": Origin("127.0.0.1", mute.getsockname()[1], authority.ca_file),
            "hangs up": Origin("127.0.0.1", mute.getsockname()[1], authority.ca_file),
            "no such name": Origin("x" * 70 + ".invalid", 443, authority.ca_file),
        }.get(case, server.origin)
        if case == "hangs up":
            threading.Thread(target=_hang_up_on_all, args=(mute,), daemon=True).start()
        pool = pools(origin, queue_timeout_s=1.0, connect_timeout_s=0.3)
        burst = send(pool, burst_of(2))
        assert tally(burst) == {Code.NOT_SENT: 2}
        assert set(burst.reasons.values()) == {reason}, pool.stats()
        assert pool.stats().last_error.startswith(reason)


def _hang_up_on_all(listener: socket.socket) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        peer.close()


def test_client_certificates(authority: Authority, pools: Pools, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    pem = clients.issue("provider")
    with H2Server(authority, client_ca=clients.ca_file) as server:
        origin = Origin("localhost", server.port, authority.ca_file, client_cert=pem, client_key=pem)
        assert tally(send(pools(origin), burst_of(3))) == {Code.OK: 3}
        assert server.connections[0].peer_certificate
        without = pools(server.origin, queue_timeout_s=0.5)
        burst = send(without, burst_of(3))
        assert tally(burst) == {Code.NOT_SENT: 3}
        assert without.stats().connections == 0


@pytest.mark.parametrize("field", ["ca_file", "client_cert"])
def test_certificate_files_that_cannot_be_used_are_named(field: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    with pytest.raises(SettingsError, match=rf"{field}\b.*broken\.pem"):
        Pool("test", Origin("localhost", 443, **{field: broken}))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"missing\.pem"):
        Pool("test", Origin("localhost", 443, **{field: tmp_path / "missing.pem"}))  # type: ignore[arg-type]


def test_the_tls_session_is_used_again(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        request.answer()
        if number_of(request) == 0:
            request.connection.goaway(MAX)

    with H2Server(authority, behave) as server:
        pool = pools(server.origin)
        send(pool, burst_of(1))
        send(pool, burst_of(1, start=1))
        assert [each.session_reused for each in server.connections] == [False, True]


# Growth, back-pressure, end


def test_the_pool_grows_while_work_waits_and_says_when_it_cannot(authority: Authority, pools: Pools) -> None:
    held: list[Request] = []

    def behave(request: Request) -> None:
        if number_of(request) < 1000:
            request.answer()
        else:
            held.append(request)

    with H2Server(authority, behave, settings={Settings.MAX_CONCURRENT_STREAMS: 10}) as server:
        pool = pools(server.origin, max_connections=3, first_request_alone=False, request_timeout_s=PATIENT)
        send(pool, burst_of(1))
        assert len(server.connections) == 1
        burst = burst_of(100, start=1000)
        pool.submit(burst, PATIENT)
        until(lambda: len(held) == 27)
        assert len(server.connections) == 3
        until(lambda: heard(pool).exhaustions == 1)
        assert pool.stats().streams == pool.stats().stream_limit == 27
        assert pool.stats().queued == 73
        burst.cancel("enough")
        assert pool.stats().queued == 0
        assert tally(burst) == {Code.IN_FLIGHT: 27, Code.NOT_SENT: 73}


def test_a_full_queue_holds_the_submitter_back(authority: Authority, pools: Pools) -> None:
    release = threading.Event()

    def behave(request: Request) -> None:
        if number_of(request) == 0:
            release.wait(PATIENT)
        request.answer()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin, queue_limit=10, queue_timeout_s=PATIENT, request_timeout_s=PATIENT)
        first, second, third = burst_of(10), burst_of(8, start=100), burst_of(9, start=200)
        pool.submit(first, PATIENT)
        until(lambda: pool.stats().streams == 1)
        with pytest.raises(PoolSaturated):
            pool.submit(second, 0.05)
        assert tally(second) == {Code.QUEUED: 8}
        jobs = [gevent.spawn(send, pool, second), gevent.spawn(send, pool, third)]
        gevent.sleep(0.05)
        assert pool.stats().queued == 9
        release.set()
        gevent.joinall(jobs, timeout=PATIENT, raise_error=True)
        assert tally(second) == {Code.OK: 8}
        assert tally(third) == {Code.OK: 9}


def test_work_that_is_not_written_in_time_is_not_sent(authority: Authority, pools: Pools) -> None:
    held: list[Request] = []
    with H2Server(authority, held.append, settings={Settings.MAX_CONCURRENT_STREAMS: 1}) as server:
        pool = pools(server.origin, max_connections=1, queue_timeout_s=0.2, request_timeout_s=PATIENT)
        burst = burst_of(5)
        pool.submit(burst, PATIENT)
        until(lambda: burst.codes.count(Code.NOT_SENT) == 4)
        assert set(burst.reasons.values()) == {"queue_timeout"}
        assert burst.codes[0] == Code.IN_FLIGHT


def test_close_finishes_what_is_in_flight_and_returns_the_rest(authority: Authority, pools: Pools) -> None:
    release = threading.Event()

    def behave(request: Request) -> None:
        if number_of(request):
            release.wait(PATIENT)
        request.answer()

    with H2Server(authority, behave, settings={Settings.MAX_CONCURRENT_STREAMS: 10}) as server:
        pool = pools(server.origin, max_connections=1, request_timeout_s=PATIENT)
        burst = burst_of(50)
        pool.submit(burst, PATIENT)
        until(lambda: burst.codes.count(Code.IN_FLIGHT) == 9)
        gevent.spawn_later(0.1, release.set)
        pool.close(PATIENT)
        assert tally(burst) == {Code.OK: 10, Code.NOT_SENT: 40}
        assert set(burst.reasons.values()) == {"pool_closed"}
        with pytest.raises(PoolClosed):
            pool.submit(burst_of(1), 1)


def test_close_without_grace_leaves_unknown(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        if number_of(request) == 0:
            request.answer()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin, request_timeout_s=PATIENT)
        burst = burst_of(5)
        pool.submit(burst, PATIENT)
        until(lambda: burst.codes.count(Code.IN_FLIGHT) == 4)
        pool.close(0)
        assert tally(burst) == {Code.OK: 1, Code.UNKNOWN: 4}
        assert pool.stats().connections == 0


def test_close_wakes_who_waits_for_room_and_who_waits_for_a_connection(
    authority: Authority, pools: Pools
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        pool = pools(Origin("127.0.0.1", mute.getsockname()[1], authority.ca_file), queue_limit=10)
        waiting, outside = burst_of(10), burst_of(5)
        pool.submit(waiting, PATIENT)
        job = gevent.spawn(pool.submit, outside, PATIENT)
        gevent.sleep(0.05)
        pool.close(1)
        with pytest.raises(PoolClosed):
            job.get(timeout=PATIENT)
        assert waiting.wait(0)
        assert tally(waiting) == {Code.NOT_SENT: 10}
        assert tally(outside) == {Code.QUEUED: 5}


def test_connections_are_opened_in_advance(authority: Authority, pools: Pools) -> None:
    with H2Server(authority, accept_all) as server:
        pool = pools(server.origin, min_connections=3)
        pool.start()
        until(lambda: pool.stats().connections == 3)
        assert not server.requests
        assert "3 connections" in repr(pool)


def test_a_server_that_throws_everybody_out_is_not_stormed(authority: Authority, pools: Pools) -> None:
    """Attempts that end at once without an answer count as failures, and the back-off grows."""

    def behave(request: Request) -> None:
        request.connection.goaway(0, ErrorCode.ENHANCE_YOUR_CALM)
        request.connection.cut()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin, backoff_min_s=0.05)
        for _ in range(4):
            assert tally(send(pool, burst_of(1))) == {Code.REFUSED: 1}
        until(lambda: pool._opener._admission.failures >= 4)
        assert len(server.connections) <= 6


PATCHED_WORKER = """
from gevent import monkey
monkey.patch_all()
import sys
from pathlib import Path
from pushq.http2 import Burst, Code, HeaderTemplate, Origin, Pool

pool = Pool("patched", Origin("localhost", int(sys.argv[1]), Path(sys.argv[2])))
burst = Burst(HeaderTemplate(b"/3/device/", ()), 300, targets=[b"%064x" % n for n in range(300)], bodies=b"{}")
pool.submit(burst, 30)
assert burst.wait(30)
pool.close(5)
print(burst.codes.count(Code.OK))
"""


def test_a_monkey_patched_worker_does_the_same(authority: Authority) -> None:
    with H2Server(authority) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PATCHED_WORKER, str(server.port), str(authority.ca_file)],
            capture_output=True,
            text=True,
            timeout=PATIENT,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert (done.stdout.strip(), done.stderr) == ("300", "")
