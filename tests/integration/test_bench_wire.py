"""``pushq bench wire`` as a user runs it, against servers that were written with other people's HTTP/2."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.h2_server import Authority, H2Server, Request

#: The figures that others read, in this order.
KEYS = [
    "requests",
    "ok",
    "failed",
    "wall_seconds",
    "cpu_seconds",
    "per_second",
    "per_cpu_second",
    "peak_rss_mb",
]
#: No run here needs a tenth of this, on a machine of its own.
LIMIT_S = 60


def wire(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pushq", "bench", "wire", *options],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def url_of(server: H2Server) -> list[str]:
    assert server.origin.ca_file is not None
    return ["--url", f"https://localhost:{server.port}", "--cafile", str(server.origin.ca_file)]


def measured(server: H2Server) -> list[Request]:
    """What came after the first request of each connection, which only warms it."""
    with server.lock:
        return [request for request in server.requests if request.stream_id != 1]


def test_every_request_is_counted_and_has_a_token_of_its_own(authority: Authority) -> None:
    with H2Server(authority) as server:
        done = wire(
            *url_of(server), "--requests", "600", "--connections", "3", "--path-prefix", "/p/", "--json"
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert list(found)[: len(KEYS)] == KEYS
        assert (found["requests"], found["ok"], found["failed"]) == (600, 600, 0)
        assert found["statuses"] == {"200": 600}
        assert found["per_second"] == pytest.approx(600 / found["wall_seconds"], rel=0.01)
        assert found["per_cpu_second"] == pytest.approx(600 / found["cpu_seconds"], rel=0.01)
        assert 10 < found["peak_rss_mb"] < 150
        assert len(server.connections) == 3
        tokens = server.tokens()
    assert len(tokens) == len(set(tokens)) == 600 + 3
    assert all(len(token) == 64 and int(token, 16) for token in tokens)
    assert {request.headers[":path"].rpartition("/")[0] for request in server.requests} == {"/p"}
    assert {len(request.body) for request in server.requests} == {150}
    assert len({bytes(request.body) for request in server.requests}) == 1


def test_bodies_and_ids_can_differ_per_request(authority: Authority) -> None:
    with H2Server(authority) as server:
        options = ["--requests", "300", "--body", "distinct", "--body-bytes", "200", "--request-ids"]
        done = wire(*url_of(server), *options, "--header", "X-Campaign: c-42", "--json")
        assert done.returncode == 0, done.stderr
        requests = measured(server)
    assert len(requests) == len({bytes(request.body) for request in requests}) == 300
    assert all(len(request.body) == 200 and json.loads(request.body)["aps"] for request in requests)
    assert len({uuid.UUID(request.headers["apns-id"]) for request in requests}) == 300
    assert {request.headers["x-campaign"] for request in requests} == {"c-42"}
    assert "authorization" not in requests[0].headers


def test_other_statuses_are_failures_and_counted_by_status(authority: Authority) -> None:
    def behave(request: Request) -> None:
        last = int(request.token[-1], 16)
        if last < 4:
            request.answer(410, b'{"reason":"Unregistered"}')
        elif last < 5:
            request.answer(503)
        else:
            request.answer()

    with H2Server(authority, behave) as server:
        # The first token of a burst ends in 0, so the request that warms is answered with 410, which is an answer.
        options = [*url_of(server), "--requests", "1600"]
        found = json.loads(wire(*options, "--json").stdout)
        picture = wire(*options).stdout
    assert (found["requests"], found["ok"], found["failed"]) == (1600, 1100, 500)
    assert found["statuses"] == {"200": 1100, "410": 400, "503": 100}
    assert found["unanswered"] == {}
    assert "1,100  ok (status 200)" in picture
    assert "400    status 410" in picture


def test_what_was_refused_is_sent_again_and_counted_once(authority: Authority) -> None:
    seen: set[str] = set()

    def behave(request: Request) -> None:
        first = request.token not in seen
        seen.add(request.token)
        if first and request.stream_id != 1 and request.token.endswith("7"):
            request.connection.reset(request.stream_id, 7)  # REFUSED_STREAM
        elif request.token.endswith("8"):
            request.connection.reset(request.stream_id, 2)  # INTERNAL_ERROR: may have been processed
        else:
            request.answer()

    with H2Server(authority, behave) as server:
        done = wire(*url_of(server), "--requests", "320", "--body", "distinct", "--request-ids", "--json")
        sent = [
            (request.token, bytes(request.body), request.headers["apns-id"]) for request in server.requests
        ]
    found = json.loads(done.stdout)
    assert (found["requests"], found["ok"], found["failed"], found["resent"]) == (320, 300, 20, 20)
    assert found["unanswered"] == {"stream_reset": 20}
    # Again means the same: token, body and id.
    assert len(sent) == 1 + 320 + 20
    assert len(set(sent)) == len({token for token, _, _ in sent}) == 1 + 320


def test_a_server_that_falls_silent_ends_the_run_with_what_was_counted(authority: Authority) -> None:
    answered = 0

    def behave(request: Request) -> None:
        nonlocal answered
        if answered < 101:  # one of them is the one that warms
            answered += 1
            request.answer()

    with H2Server(authority, behave) as server:
        done = wire(*url_of(server), "--requests", "1000000", "--timeout", "3", "--streams", "50", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["ok"] == 100
    assert 100 < found["requests"] < 1_000_000
    assert found["failed"] == sum(found["unanswered"].values()) == found["requests"] - 100
    assert found["stopped"].startswith("the server answered nothing for 5 s")
    assert "error: stopped after" in done.stderr


def test_after_its_duration_no_more_requests_begin(authority: Authority) -> None:
    with H2Server(authority) as server:
        done = wire(
            *url_of(server), "--requests", "1000000", "--duration", "0.2", "--streams", "50", "--json"
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["requests"] == found["ok"] < 1_000_000
    assert found["stopped"] is None


def refused(options: Sequence[str], *expected: str, timeout: str = "30") -> None:
    done = wire(*options, "--requests", "100", "--timeout", timeout, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {expected[0]}"), done.stderr
    assert "Traceback" not in done.stderr
    for text in expected[1:]:
        assert text in done.stderr


def test_a_closed_port_is_named(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = ["--url", f"https://127.0.0.1:{port}", "--cafile", str(authority.ca_file)]
    refused(url, "--url", f"127.0.0.1:{port} refused", "check the port")


def test_a_wrong_authority_is_named(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "another authority")
    with H2Server(authority) as server:
        url = ["--url", f"https://localhost:{server.port}"]
        refused([*url, "--cafile", str(other.ca_file)], "--cafile", "PEM file")
        refused(url, "--cafile", "PEM file")


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    refused(["--url", "https://localhost:1", "--cafile", str(empty)], f"ca_file {empty}", "PEM")


def test_a_server_without_http2_is_named(authority: Authority) -> None:
    with H2Server(authority, alpn="http/1.1") as server:
        refused(url_of(server), "--url", "does not offer HTTP/2")


def test_a_server_that_never_says_anything_is_named_in_time(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = ["--url", f"https://127.0.0.1:{listener.getsockname()[1]}", "--cafile", str(authority.ca_file)]
        refused(url, "--url", "not connected in 2 s", timeout="2")


def test_a_server_that_does_not_answer_the_first_request_is_named_in_time(authority: Authority) -> None:
    with H2Server(authority, lambda request: None) as server:
        refused(url_of(server), "--url", "first request got no answer", "timeout", timeout="3")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--url", "http://localhost:80"],
            "'--url': found 'http://localhost:80'; expected https://HOST:PORT",
        ),
        (["--url", "localhost:443"], "'--url'"),
        (["--url", "https://localhost:99999"], "Port out of range"),
        (["--url", "https://localhost/3/device"], "--path-prefix"),
        (["--url", "https://localhost", "--cafile", "/nonexistent.pem"], "'--cafile'"),
        (["--url", "https://localhost", "--path-prefix", "a b"], "--path-prefix"),
        (["--url", "https://localhost", "--header", "no colon"], "expected 'name: value'"),
        (["--url", "https://localhost", "--header", "a b: c"], "--header"),
        (["--url", "https://localhost", "--header", "a: \u20ac"], "Latin-1"),
        (["--url", "https://localhost", "--requests", "0"], "'--requests'"),
        (["--url", "https://localhost", "--connections", "0"], "'--connections'"),
        (["--url", "https://localhost", "--body-bytes", "10"], "'--body-bytes'"),
        ([], "'--url'"),
    ],
)
def test_wrong_options_are_named(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pushq.cli.root import run  # noqa: PLC0415 - the command line is read when it runs

    monkeypatch.setattr(sys, "argv", ["pushq", "bench", "wire", *options])
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err
