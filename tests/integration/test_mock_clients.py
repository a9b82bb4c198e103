"""Real clients against the mock over real TLS: httpx, google-auth, and h2 on a plain socket. One suite, both engines."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import httpx
import jwt
import pytest
from google.auth import exceptions, transport
from google.oauth2 import service_account

from pushq.mock import MockProcess
from pushq.mock.process import MockFailed

ALIVE, DEAD = "ab" * 32, "deaddeaddead" + "0" * 52
FCM_ALIVE, FCM_DEAD = "fcm-Token_1:" + "x" * 120, "deaddeaddead:" + "x" * 120
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
TIMEOUT_S = 10.0


@pytest.fixture(scope="module", params=["strict", "fast"])
def running(request: pytest.FixtureRequest) -> Iterator[MockProcess]:
    with MockProcess(engine=request.param) as mock:
        yield mock


def trusting(mock: MockProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=mock.ready["ca_file"])


@pytest.fixture
def http(mock: MockProcess) -> Iterator[httpx.Client]:
    with httpx.Client(http2=True, verify=trusting(mock), timeout=TIMEOUT_S) as client:
        yield client


class HttpxTransport(transport.Request):
    """google-auth over httpx; the answer has the three attributes that it reads."""

    class Response(transport.Response):
        def __init__(self, answer: httpx.Response) -> None:
            self._answer = answer

        @property
        def status(self) -> int:
            return self._answer.status_code

        @property
        def headers(self) -> Mapping[str, str]:
            return self._answer.headers

        @property
        def data(self) -> bytes:
            return self._answer.content

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __call__(  # type: ignore[no-untyped-def]
        self, url, method="GET", body=None, headers=None, timeout=None, **_
    ) -> HttpxTransport.Response:
        return self.Response(self._client.request(method, url, content=body, headers=headers))


def provider_token(mock: MockProcess) -> str:
    apns = mock.ready["apns"]
    key = Path(apns["key_file"]).read_text()
    return jwt.encode(
        {"iss": apns["team_id"], "iat": int(time.time())}, key, "ES256", {"kid": apns["key_id"]}
    )


def apns_headers(mock: MockProcess) -> dict[str, str]:
    return {
        "authorization": f"bearer {provider_token(mock)}",
        "apns-topic": mock.ready["apns"]["topic"],
        "apns-push-type": "alert",
        "apns-priority": "10",
    }


def access_token(mock: MockProcess) -> str:
    account = service_account.Credentials.from_service_account_file(
        mock.ready["fcm"]["service_account_file"], scopes=[SCOPE]
    )
    with httpx.Client(verify=trusting(mock), timeout=TIMEOUT_S) as client:
        account.refresh(HttpxTransport(client))
    return str(account.token)


def fcm_url(mock: MockProcess) -> str:
    fcm = mock.ready["fcm"]
    return f"{fcm['url']}/v1/projects/{fcm['project_id']}/messages:send"


def fcm_message(token: str) -> dict[str, Any]:
    return {
        "message": {"token": token, "notification": {"title": "Sale", "body": "20%"}, "data": {"c": "42"}}
    }


def test_apns_over_httpx(mock: MockProcess, http: httpx.Client) -> None:
    headers = apns_headers(mock)
    url = mock.ready["apns"]["url"]
    answers = [
        http.post(f"{url}/3/device/{token}", headers=headers, json={"aps": {"alert": "hi"}})
        for token in (ALIVE, DEAD, "cd" * 32, "zz", ALIVE)
    ]
    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert [answer.status_code for answer in answers] == [200, 410, 200, 400, 200]
    assert answers[0].content == b""
    gone = answers[1].json()
    assert gone["reason"] == "Unregistered"
    assert abs(gone["timestamp"] / 1000 - time.time()) < 60
    assert mock.accepted("apns") == {ALIVE: 2, "cd" * 32: 1}
    counts = mock.stats()["platforms"]["apns"]
    assert (counts["requests"], counts["accepted"], counts["distinct"], counts["duplicates"]) == (5, 3, 2, 1)
    assert counts["answers"] == {"200": 3, "400 BadDeviceToken": 1, "410 Unregistered": 1}


def test_sandbox_says_that_it_is_one(mock: MockProcess, http: httpx.Client) -> None:
    url = mock.ready["apns"]["sandbox_url"]
    answer = http.post(f"{url}/3/device/{ALIVE}", headers=apns_headers(mock), json={"aps": {}})
    assert "apns-unique-id" in answer.headers


def test_fcm_over_httpx_with_a_google_credential(mock: MockProcess, http: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {access_token(mock)}"}
    answers = [
        http.post(fcm_url(mock), headers=headers, json=fcm_message(token))
        for token in (FCM_ALIVE, FCM_DEAD, "short", FCM_ALIVE)
    ]
    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert [answer.status_code for answer in answers] == [200, 404, 400, 200]
    assert answers[0].json()["name"].startswith("projects/pushq-demo/messages/")
    assert mock.accepted("fcm") == {FCM_ALIVE: 2}


def test_fcm_speaks_http1_too(mock: MockProcess) -> None:
    headers = {"authorization": f"Bearer {access_token(mock)}"}
    with httpx.Client(verify=trusting(mock), timeout=TIMEOUT_S) as client:
        answers = [client.post(fcm_url(mock), headers=headers, json=fcm_message(FCM_ALIVE)) for _ in range(2)]
        refused = client.post(fcm_url(mock), headers=headers, json=fcm_message(FCM_DEAD))
    assert {answer.http_version for answer in answers} == {"HTTP/1.1"}
    assert [answer.status_code for answer in [*answers, refused]] == [200, 200, 404]
    assert mock.accepted("fcm") == {FCM_ALIVE: 2}


def test_expired_credentials(mock: MockProcess, http: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {access_token(mock)}"}
    assert http.post(fcm_url(mock), headers=headers, json=fcm_message(FCM_ALIVE)).status_code == 200
    mock.expire_credentials("fcm")
    refused = http.post(fcm_url(mock), headers=headers, json=fcm_message(FCM_ALIVE))
    assert (refused.status_code, refused.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    fresh = {"authorization": f"Bearer {access_token(mock)}"}
    assert http.post(fcm_url(mock), headers=fresh, json=fcm_message(FCM_ALIVE)).status_code == 200


def test_a_failing_token_endpoint(mock: MockProcess) -> None:
    mock.set_faults([{"platform": "oauth", "answer": {"status": 400, "reason": "invalid_grant"}}])
    with pytest.raises(exceptions.RefreshError, match="invalid_grant"):
        access_token(mock)
    mock.set_faults([])
    assert access_token(mock).startswith("ya29.")


def test_faults_by_control(mock: MockProcess, http: httpx.Client) -> None:
    headers = apns_headers(mock)
    url = f"{mock.ready['apns']['url']}/3/device/"
    answer = {"status": 429, "reason": "TooManyRequests", "retry_after": 2}
    mock.set_faults([{"platform": "apns", "token_prefix": "ab", "times": 1, "answer": answer}])
    first, other, second = (
        http.post(url + token, headers=headers, json={"aps": {}}) for token in (ALIVE, "cd" * 32, ALIVE)
    )
    assert [first.status_code, other.status_code, second.status_code] == [429, 200, 200]
    assert (first.headers["retry-after"], first.json()) == ("2", {"reason": "TooManyRequests"})
    with pytest.raises(MockFailed, match=r"fault\[0\].answr"):
        mock.set_faults([{"platform": "apns", "stall": True, "answr": 1}])


def test_latency_can_be_set(mock: MockProcess, http: httpx.Client) -> None:
    mock.set_latency(300)
    began = time.monotonic()
    answer = http.post(
        f"{mock.ready['apns']['url']}/3/device/{ALIVE}", headers=apns_headers(mock), json={"aps": {}}
    )
    assert answer.status_code == 200
    assert time.monotonic() - began >= 0.3


def test_an_http1_client_gets_nowhere_at_apns(mock: MockProcess) -> None:
    with (
        httpx.Client(verify=trusting(mock), timeout=TIMEOUT_S) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.post(f"{mock.ready['apns']['url']}/3/device/{ALIVE}")


def test_strangers_are_not_trusted(mock: MockProcess) -> None:
    with (
        httpx.Client(http2=True, timeout=TIMEOUT_S) as client,
        pytest.raises(httpx.ConnectError, match="certificate"),
    ):
        client.post(f"{mock.ready['apns']['url']}/3/device/{ALIVE}")


class Wire:
    """h2 on a blocking TLS socket."""

    def __init__(self, mock: MockProcess, url: str) -> None:
        context = trusting(mock)
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection(("localhost", urlsplit(url).port or 0), TIMEOUT_S)
        self.socket = context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.received = b""
        self.eof = False

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def push(self, mock: MockProcess, token: str = ALIVE) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        pseudo = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", f"/3/device/{token}"),
        ]
        self.h2.send_headers(stream, [*pseudo, *self.headers(mock).items()])
        self.h2.send_data(stream, b'{"aps":{}}', end_stream=True)
        return stream

    def headers(self, mock: MockProcess) -> dict[str, str]:
        if not hasattr(self, "_headers"):
            self._headers = apns_headers(mock)
        return self._headers

    def until(self, kind: type[h2.events.Event]) -> Any:
        """The next event of this kind, or None when the connection ends first."""
        while not self.eof:
            self.socket.sendall(self.h2.data_to_send())
            data = self.socket.recv(65_536)
            self.received += data
            self.eof = not data
            found = self.h2.receive_data(data) if data else []
            self.events += found
            for event in found:
                if isinstance(event, kind):
                    self.socket.sendall(self.h2.data_to_send())
                    return event
        return None

    def drain(self) -> bytes:
        """Everything the server still says, as bytes."""
        self.socket.sendall(self.h2.data_to_send())
        rest = b""
        while data := self.socket.recv(65_536):
            rest += data
        return rest


@pytest.fixture
def wire(mock: MockProcess) -> Iterator[Wire]:
    with Wire(mock, mock.ready["apns"]["url"]) as client:
        yield client


def test_the_stream_limit_rises_with_the_first_answer(mock: MockProcess, wire: Wire) -> None:
    wire.until(h2.events.RemoteSettingsChanged)
    assert wire.h2.remote_settings.max_concurrent_streams == 1
    wire.push(mock)
    wire.until(h2.events.StreamEnded)
    assert wire.h2.remote_settings.max_concurrent_streams == 1000
    streams = [wire.push(mock, f"{number:064x}") for number in range(100)]
    ended: set[int] = set()
    while len(ended) < 100:
        assert wire.until(h2.events.StreamEnded) is not None
        ended = {event.stream_id for event in wire.events if isinstance(event, h2.events.StreamEnded)} - {1}
    assert ended == set(streams)


def test_the_stream_limit_is_enforced_with_goaway(mock: MockProcess, wire: Wire) -> None:
    mock.set_latency(2000)
    for _ in range(2):
        wire.push(mock)
    goaway = wire.until(h2.events.ConnectionTerminated)
    assert (goaway.error_code, goaway.last_stream_id) == (7, 1)
    assert goaway.additional_data == b"Maximum active streams violated for this endpoint"
    assert wire.drain() == b""
    assert mock.stats()["platforms"]["apns"]["violations"] == {
        "Maximum active streams violated for this endpoint": 1
    }


def test_goaway_closes_after_the_last_answer(mock: MockProcess, wire: Wire) -> None:
    mock.set_latency(100)
    mock.set_faults([{"platform": "apns", "token": ALIVE, "goaway": {"reason": "Shutdown"}}])
    wire.push(mock)
    goaway = wire.until(h2.events.ConnectionTerminated)
    assert (goaway.error_code, goaway.last_stream_id) == (0, 1)
    assert json.loads(goaway.additional_data) == {"reason": "Shutdown"}
    # h2 refuses frames after GOAWAY, so bytes are counted: one HEADERS frame with its answer, then the end.
    rest = wire.drain()
    assert rest.count(b"\x00\x00\x00\x01") >= 1
    assert mock.accepted("apns") == {ALIVE: 1}


@pytest.mark.parametrize("how", ["now", "mid_frame"])
def test_a_cut_is_abrupt(mock: MockProcess, wire: Wire, how: str) -> None:
    mock.set_faults([{"platform": "apns", "cut": how, "processed": True}])
    wire.push(mock)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        while wire.until(h2.events.StreamEnded) is None:
            assert not wire.eof, "an orderly end"
    assert mock.accepted("apns") == {ALIVE: 1}
    assert mock.stats()["platforms"]["apns"]["unanswered"] == {"cut": 1}


def test_a_reset_arrives(mock: MockProcess, wire: Wire) -> None:
    mock.set_faults([{"platform": "apns", "rst": "REFUSED_STREAM"}])
    wire.push(mock)
    assert wire.until(h2.events.StreamReset).error_code == 7


def test_a_stall_stays_silent(mock: MockProcess, wire: Wire) -> None:
    mock.set_faults([{"platform": "apns", "token": ALIVE, "stall": True}])
    wire.push(mock)
    wire.h2.ping(b"are here")
    assert wire.until(h2.events.PingAckReceived) is not None
    assert not any(isinstance(event, h2.events.ResponseReceived) for event in wire.events)


def test_the_files_are_private_and_fit_together(mock: MockProcess) -> None:
    ready = mock.ready
    folder = Path(ready["folder"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (ready["apns"]["key_file"], ready["fcm"]["service_account_file"], folder / "server-key.pem"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600
    shop = tomllib.loads(mock.config_file.read_text())["apps"]["shop"]
    assert shop["apns"] == {
        "team_id": ready["apns"]["team_id"],
        "key_id": ready["apns"]["key_id"],
        "key_file": ready["apns"]["key_file"],
        "topic": "com.example.shop",
        "url": ready["apns"]["url"],
        "sandbox_url": ready["apns"]["sandbox_url"],
        "manage_url": ready["apns"]["manage_url"],
        "sandbox_manage_url": ready["apns"]["sandbox_manage_url"],
        "ca_file": ready["ca_file"],
    }
    assert shop["fcm"] == {
        "project_id": "pushq-demo",
        "service_account_file": ready["fcm"]["service_account_file"],
        "url": ready["fcm"]["url"],
        "iid_url": ready["fcm"]["iid_url"],
        "ca_file": ready["ca_file"],
        "rate_per_minute": "unlimited",  # the mock has no quota unless a fault says so
    }
    assert (
        json.loads(Path(shop["fcm"]["service_account_file"]).read_text())["token_uri"] == ready["oauth_url"]
    )


def test_the_last_requests_can_be_read(mock: MockProcess, http: httpx.Client) -> None:
    url = mock.ready["apns"]["url"]
    for token in (ALIVE, "cd" * 32):
        http.post(
            f"{url}/3/device/{token}",
            headers=apns_headers(mock) | {"apns-collapse-id": "c1"},
            json={"aps": {}},
        )
    if mock.ready["engine"] == "fast":
        with pytest.raises(MockFailed, match="strict engine only"):
            mock.requests("apns")
        return
    last = mock.requests("apns", 1)
    assert [request["path"] for request in last] == ["/3/device/" + "cd" * 32]
    assert ["apns-collapse-id", "c1"] in last[0]["headers"]
    assert json.loads(last[0]["body"]) == {"aps": {}}
