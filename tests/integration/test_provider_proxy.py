"""What speaks to a provider goes through the proxy of the settings: both pools, and the token request."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import gevent
import pytest
import redis
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.auth import exceptions

from pushq.app_settings import ApnsSettings, FcmSettings
from pushq.http2 import Proxy
from pushq.providers.apns.client import ApnsClient
from pushq.providers.fcm.client import FcmClient
from pushq.providers.fcm.credentials import HttpxRequest
from tests.integration.connect_proxy import ConnectProxy
from tests.integration.h2_server import Authority, H2Server
from tests.integration.pool_world import until

REQUIRED = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


class TokenEndpoint(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Not on the terminal."""


@pytest.fixture
def endpoint(authority: Authority) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), TokenEndpoint)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("localhost"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"https://localhost:{server.server_port}/token"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_the_token_request(
    endpoint: str, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("hush")
    with ConnectProxy() as proxy, contextlib.ExitStack() as stack:
        # Only the settings say which proxy is used.
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        direct = HttpxRequest(authority.ca_file)
        stack.callback(direct.close)
        assert direct(endpoint, "POST", b"grant").data == b"grant"
        assert proxy.heads == []
        through = HttpxRequest(
            authority.ca_file, Proxy.parse(proxy.url.replace("//", "//user@"), password_file=secret)
        )
        stack.callback(through.close)
        assert through(endpoint, "POST", b"grant").data == b"grant"
        (head,) = proxy.heads
        pair = base64.b64encode(b"user:hush").decode()
        assert f"proxy-authorization: basic {pair}".lower() in head.lower()
        around = HttpxRequest(authority.ca_file, Proxy.parse(proxy.url, no_proxy="localhost"))
        stack.callback(around.close)
        assert around(endpoint, "POST", b"grant").data == b"grant"
        assert len(proxy.heads) == 1
        secret.unlink()
        with pytest.raises(exceptions.TransportError):
            through(endpoint, "POST", b"grant")


def test_a_proxy_that_refuses_the_token_request(endpoint: str, authority: Authority) -> None:
    with ConnectProxy(lambda head: REQUIRED) as proxy:
        request = HttpxRequest(authority.ca_file, Proxy.parse(proxy.url.replace("//", "//user:hush@")))
        with pytest.raises(exceptions.TransportError, match="407") as caught:
            request(endpoint, "POST", b"grant")
        assert "hush" not in repr(caught.value)
        request.close()


def test_the_token_request_over_a_proxy_that_speaks_tls(endpoint: str, authority: Authority) -> None:
    with ConnectProxy(certificate=authority.issue("localhost")) as proxy:
        request = HttpxRequest(authority.ca_file, Proxy.parse(proxy.url, ca_file=authority.ca_file))
        assert request(endpoint, "POST", b"grant").data == b"grant"
        assert len(proxy.heads) == 1
        request.close()


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_both_providers(authority: Authority, tmp_path: Path) -> None:
    key_file, account_file = tmp_path / "key.p8", tmp_path / "account.json"
    key_file.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    account = {
        "type": "service_account",
        "project_id": "shop-12345",
        "private_key_id": "1",
        "private_key": pem(rsa.generate_private_key(65537, 2048)).decode(),
        "client_email": "push@shop-12345.iam.gserviceaccount.com",
        "token_uri": "https://localhost/token",
    }
    account_file.write_text(json.dumps(account))
    # No request is made, so Redis is never asked.
    nobody = redis.Redis(port=1)
    with H2Server(authority) as server, ConnectProxy() as proxy:
        url = f"https://localhost:{server.port}"
        apns = ApnsClient(
            "shop",
            ApnsSettings(
                team_id="A" * 10,
                key_id="B" * 10,
                key_file=key_file,
                topic="com.example.shop",
                url=url,
                sandbox_url=url,
                ca_file=authority.ca_file,
            ),
            nobody,
            request_timeout_s=30,
            proxy=Proxy.parse(proxy.url),
        )
        fcm = FcmClient(
            "shop",
            FcmSettings(
                project_id="shop-12345",
                service_account_file=account_file,
                url=url,
                ca_file=authority.ca_file,
                min_connections=1,
            ),
            nobody,
            request_timeout_s=30,
            proxy=Proxy.parse(proxy.url),
        )
        pools = [apns.pool("production"), apns.pool("sandbox"), fcm.pool("production")]
        fcm.start()
        until(lambda: all(pool.stats().connections == 1 for pool in pools))
        assert len(proxy.heads) == len(server.connections) == 3
        assert all(head.startswith(f"CONNECT localhost:{server.port} ") for head in proxy.heads)
        apns.close(1)
        fcm.close(1)
        nobody.close()
        gevent.sleep(0)
