"""The mock as one process: APNs (production and sandbox), FCM, HMS, OAuth and the control API on loopback.

Everything goes through gevent's own sockets, so nothing needs to be monkey-patched.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.pool
import gevent.socket
from gevent.server import StreamServer

from pushq.errors import SettingsError
from pushq.mock.apns import ApnsRules
from pushq.mock.apns_channels import ChannelRules
from pushq.mock.channel import Channel, PlainChannel, TlsChannel
from pushq.mock.client_certificates import make_client_certificates
from pushq.mock.connection import serve_http2
from pushq.mock.control import Control
from pushq.mock.credentials import (
    CLIENT_EMAIL,
    HMS_APP_ID,
    HMS_KEY_ID,
    HMS_PROJECT_ID,
    HMS_SUB_ACCOUNT,
    PROJECT_ID,
    Credentials,
    make_credentials,
    write_private,
)
from pushq.mock.endpoint import Endpoint, Latency
from pushq.mock.engine import Engine
from pushq.mock.exchange import Request, Rules
from pushq.mock.fast import FastEngine
from pushq.mock.faults import PLATFORMS, FaultTable, load_faults
from pushq.mock.fcm import FcmRules
from pushq.mock.fcm_topics import TopicRules
from pushq.mock.gateway import Gateway
from pushq.mock.hms import HmsRules
from pushq.mock.hms_endpoint import HmsEndpoint, HmsTally
from pushq.mock.hms_oauth import HmsOAuthRules
from pushq.mock.http1 import MAX_CONTROL_BODY_BYTES, endpoint_handler, serve_http1
from pushq.mock.keyring import ApnsKeyring, FcmKeyring, HmsKeyring, Keyring
from pushq.mock.lanes import ApnsLane, FcmLane, Lane
from pushq.mock.oauth import OAuthRules
from pushq.mock.provider_token import ProviderTokenVerifier
from pushq.mock.settings import LOOPBACK, MockSettings
from pushq.mock.strict import StrictEngine
from pushq.mock.tally import Tally

log = logging.getLogger("pushq.mock")

RECENT_REQUESTS = 1000
#: Each may be 150 KB.
RECENT_HMS_REQUESTS = 100
MAX_CONNECTIONS = 2000
BACKLOG = 512
PARENT_POLL_S = 0.25
HTTP2_ONLY = ["h2"]
HTTP2_OR_1 = ["h2", "http/1.1"]
HTTP1_ONLY = ["http/1.1"]


@dataclass(frozen=True, slots=True)
class _Listener:
    """``server`` listens; ``url`` is where clients reach it."""

    server: StreamServer
    url: str


class MockServer:
    """Listens from the constructor on; serves until ``close``.

    Raises:
        SettingsError: a port is taken, or the folder cannot be written.
        InvalidRequest: the fault file is wrong.
    """

    def __init__(self, settings: MockSettings) -> None:
        self._settings = settings
        self._connections = gevent.pool.Pool(MAX_CONNECTIONS)
        try:
            self._credentials = make_credentials(settings.folder, settings.host)
            self._client_certificates = make_client_certificates(settings.folder, settings.topic)
            faults = FaultTable(
                load_faults(settings.faults_file) if settings.faults_file else (), settings.seed
            )
        except OSError as error:
            raise SettingsError(f"mock: {error.filename} cannot be used: {error.strerror}") from error
        tallies = {platform: Tally() for platform in PLATFORMS} | {"hms": HmsTally()}
        self._tallies = tallies
        recent: dict[str, deque[Request]] = {}
        if settings.engine == "strict":
            recent = {platform: deque(maxlen=RECENT_REQUESTS) for platform in PLATFORMS}
            recent["hms"] = deque(maxlen=RECENT_HMS_REQUESTS)
        oauth_rules = OAuthRules(
            CLIENT_EMAIL, self._credentials.service_account_key.public_key(), settings.oauth_lifetime_s
        )
        fcm_rules = FcmRules(
            PROJECT_ID,
            oauth_rules.good_until,
            settings.dead_prefix.encode(),
            settings.fcm_streams,
            oauth_rules.expire_credentials,
        )
        credentials = self._credentials
        hms_oauth_rules = HmsOAuthRules(HMS_APP_ID, credentials.hms_secret)
        hms_rules = HmsRules(
            HMS_APP_ID,
            HMS_PROJECT_ID,
            hms_oauth_rules.good_until,
            (HMS_KEY_ID, HMS_SUB_ACCOUNT, credentials.service_account_key.public_key()),
            settings.dead_prefix.encode(),
        )
        verifier = ProviderTokenVerifier(credentials.team_id, credentials.key_id, credentials.apns_public_key)
        production, sandbox = (
            self._apns_rules(environment, verifier) for environment in ("production", "sandbox")
        )

        def endpoint(rules: Rules, *, delayed: bool = True, kind: type[Endpoint] = Endpoint) -> Endpoint:
            latency = (
                Latency(settings.latency_ms / 1000, settings.latency_spread_ms / 1000)
                if delayed
                else Latency()
            )
            return kind(rules, tallies[rules.platform], faults, latency, recent.get(rules.platform))

        apns_endpoints = [endpoint(production), endpoint(sandbox)]
        fcm_endpoint, oauth_endpoint = endpoint(fcm_rules), endpoint(oauth_rules, delayed=False)
        hms_endpoint, hms_oauth_endpoint = (
            endpoint(hms_rules, kind=HmsEndpoint),
            endpoint(hms_oauth_rules, delayed=False),
        )
        by_platform = {
            "apns": apns_endpoints,
            "fcm": [fcm_endpoint],
            "hms": [hms_endpoint],
            "oauth": [oauth_endpoint],
            "hms_oauth": [hms_oauth_endpoint],
        }
        topic_rules = TopicRules(
            oauth_rules.good_until, settings.dead_prefix.encode(), oauth_rules.expire_credentials
        )
        fcm_rules.change_subscription = topic_rules.change
        topics_endpoint = endpoint(topic_rules)
        manage_endpoints = [endpoint(ChannelRules(rules)) for rules in (production, sandbox)]
        by_platform |= {"channels": manage_endpoints, "topics": [topics_endpoint]}
        keyrings: dict[str, Keyring] = {
            "apns": ApnsKeyring(credentials, verifier),
            "fcm": FcmKeyring(credentials, oauth_rules),
            "hms": HmsKeyring(credentials, hms_oauth_rules),
        }
        control = Control(
            settings.engine, by_platform, tallies, faults, recent, keyrings, topic_rules.subscribed
        )

        # Who has no provider token may show a certificate; which of the two it is, the rules find out.
        clients = self._client_certificates.authority_file
        self._apns = self._listen(
            settings.apns_port,
            self._http2(apns_endpoints[0], lambda: ApnsLane(production)),
            HTTP2_ONLY,
            clients,
        )
        self._sandbox = self._listen(
            settings.sandbox_port,
            self._http2(apns_endpoints[1], lambda: ApnsLane(sandbox)),
            HTTP2_ONLY,
            clients,
        )
        self._manage = self._listen(
            settings.manage_port, self._http2(manage_endpoints[0], None), HTTP2_ONLY, clients
        )
        self._sandbox_manage = self._listen(
            settings.sandbox_manage_port, self._http2(manage_endpoints[1], None), HTTP2_ONLY, clients
        )
        self._topics = self._listen(settings.topics_port, self._http2(topics_endpoint, None), HTTP2_OR_1)
        self._fcm = self._listen(
            settings.fcm_port, self._http2(fcm_endpoint, lambda: FcmLane(fcm_rules)), HTTP2_OR_1
        )
        # A thousand devices a request: there is nothing to answer from memory, so the strict engine serves both.
        self._hms = self._listen(settings.hms_port, self._http2(hms_endpoint, None), HTTP2_OR_1)
        self._oauth = self._listen(settings.oauth_port, _http1(oauth_endpoint), HTTP1_ONLY)
        self._hms_oauth = self._listen(settings.hms_oauth_port, _http1(hms_oauth_endpoint), HTTP1_ONLY)
        self._control = self._listen(
            settings.control_port,
            lambda channel: serve_http1(channel, control.handle, MAX_CONTROL_BODY_BYTES),
            None,
        )
        listeners = {
            "apns": self._apns,
            "sandbox": self._sandbox,
            "fcm": self._fcm,
            "oauth": self._oauth,
            "hms": self._hms,
            "hms_oauth": self._hms_oauth,
            "manage": self._manage,
            "sandbox_manage": self._sandbox_manage,
            "topics": self._topics,
        }
        gateway = Gateway({name: listener.server.server_port for name, listener in listeners.items()})
        self._proxy = self._listen(settings.proxy_port, gateway.serve, None)
        oauth_rules.audience = f"{self._oauth.url}/token"
        self._credentials.write_service_account(oauth_rules.audience)

    def ready(self) -> dict[str, Any]:
        """What ``ready.json`` holds."""
        credentials = self._credentials
        return {
            "pid": os.getpid(),
            "engine": self._settings.engine,
            "folder": str(credentials.folder),
            "config_file": str(credentials.folder / "pushq.toml"),
            "control_url": self._control.url,
            "proxy_url": self._proxy.url,
            "ca_file": str(credentials.ca_file),
            "apns": {
                "url": self._apns.url,
                "sandbox_url": self._sandbox.url,
                "team_id": credentials.team_id,
                "key_id": credentials.key_id,
                "key_file": str(credentials.apns_key_file),
                "topic": self._settings.topic,
                "manage_url": self._manage.url,
                "sandbox_manage_url": self._sandbox_manage.url,
                "certificate_file": str(self._client_certificates.pem_file),
                "certificate_p12_file": str(self._client_certificates.p12_file),
                "certificate_password_file": str(self._client_certificates.password_file),
            },
            "fcm": {
                "url": self._fcm.url,
                "project_id": PROJECT_ID,
                "service_account_file": str(credentials.service_account_file),
                "iid_url": self._topics.url,
            },
            "hms": {
                "url": self._hms.url,
                "oauth_url": self._hms_oauth.url,
                "client_id": HMS_APP_ID,
                "client_secret_file": str(credentials.hms_secret_file),
                "project_id": HMS_PROJECT_ID,
                "service_account_file": str(credentials.hms_account_file),
            },
            "oauth_url": f"{self._oauth.url}/token",
        }

    def announce(self) -> None:
        """Write ``pushq.toml``, then ``ready.json``: who sees the latter finds everything in place."""
        ready = self.ready()
        folder = self._credentials.folder
        write_private(folder / "pushq.toml", configuration(ready, self._settings.app).encode())
        write_private(folder / "ready.json", json.dumps(ready, indent=2).encode())

    def close(self) -> None:
        (self._credentials.folder / "ready.json").unlink(missing_ok=True)
        for listener in (
            self._apns,
            self._sandbox,
            self._fcm,
            self._hms,
            self._oauth,
            self._hms_oauth,
            self._control,
            self._proxy,
            self._manage,
            self._sandbox_manage,
            self._topics,
        ):
            listener.server.stop(timeout=1)
        self._connections.kill(timeout=2)
        for tally in self._tallies.values():
            tally.close()

    def _apns_rules(self, environment: str, verifier: ProviderTokenVerifier) -> ApnsRules:
        settings = self._settings
        return ApnsRules(
            environment, verifier, (settings.topic,), settings.dead_prefix.encode(), settings.apns_streams
        )

    def _http2(self, endpoint: Endpoint, make_lane: Callable[[], Lane] | None) -> Callable[[Channel], None]:
        chance = random.Random(self._settings.seed).random

        def serve(channel: Channel) -> None:
            with endpoint.tally.connection():
                if channel.protocol == "http/1.1":
                    serve_http1(channel, endpoint_handler(endpoint), endpoint.max_body)
                elif channel.protocol == "h2":
                    engine: Engine
                    if make_lane is None or self._settings.engine == "strict":
                        engine = StrictEngine(endpoint, chance)
                    else:
                        engine = FastEngine(endpoint, make_lane(), chance)
                    engine.session.certificate = channel.certificate
                    serve_http2(channel, engine, endpoint)

        return serve

    def _listen(
        self,
        port: int,
        serve: Callable[[Channel], None],
        protocols: list[str] | None,
        clients: Path | None = None,
    ) -> _Listener:
        """``clients``: the authority of certificates that clients may show."""
        context = None if protocols is None else server_context(self._credentials, protocols, clients)

        def accept(raw: Any, _: object) -> None:
            with _quiet_end():
                channel = PlainChannel(raw) if context is None else TlsChannel(raw, context)
                try:
                    serve(channel)
                finally:
                    channel.close()

        host = self._settings.host
        address = "127.0.0.1" if host == LOOPBACK else "0.0.0.0"  # noqa: S104 - asked for by --host
        try:
            server = StreamServer((address, port), accept, spawn=self._connections, backlog=BACKLOG)
            server.start()
        except OSError as error:
            raise SettingsError(f"mock: port {port} on {address} cannot be used: {error.strerror}") from error
        if context is None:
            return _Listener(server, f"http://127.0.0.1:{server.server_port}")
        return _Listener(server, f"https://{host}:{server.server_port}")


def server_context(
    credentials: Credentials, protocols: list[str], clients: Path | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(credentials.certificate_file, credentials.certificate_key_file)
    context.set_alpn_protocols(protocols)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def configuration(ready: dict[str, Any], app: str) -> str:
    """A ``pushq.toml`` for pushq that points at this mock."""

    def line(name: str, value: str) -> str:
        # JSON's escapes are a subset of those of a TOML basic string.
        return f"{name} = {json.dumps(value)}\n"

    apns, fcm, hms = ready["apns"], ready["fcm"], ready["hms"]
    return (
        f"[apps.{app}.apns]\n"
        + "".join(
            line(name, apns[name])
            for name in (
                "team_id",
                "key_id",
                "key_file",
                "topic",
                "url",
                "sandbox_url",
                "manage_url",
                "sandbox_manage_url",
            )
        )
        + line("ca_file", ready["ca_file"])
        + f"\n[apps.{app}.fcm]\n"
        + "".join(line(name, fcm[name]) for name in ("project_id", "service_account_file", "url", "iid_url"))
        + line("ca_file", ready["ca_file"])
        # The mock has a quota only where a fault sets one.
        + line("rate_per_minute", "unlimited")
        + f"\n[apps.{app}.hms]\n"
        + line("api", "v2")
        + "".join(
            line(name, hms[name])
            for name in ("client_id", "client_secret_file", "project_id", "url", "oauth_url")
        )
        + line("ca_file", ready["ca_file"])
        + line("rate_per_minute", "unlimited")
    )


def run(settings: MockSettings, announce: Callable[[dict[str, Any]], None]) -> None:
    """Serve until SIGTERM, SIGINT or, with ``parent_pid``, the end of that process. ``announce`` gets what is ready."""
    stop = gevent.event.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    server = MockServer(settings)
    try:
        server.announce()
        announce(server.ready())
        log.info("mock_ready", extra={"engine": settings.engine, "folder": str(settings.folder)})
        while not stop.wait(PARENT_POLL_S if settings.parent_pid is not None else None):
            # Also where the kernel could signal a parent's death, that signal comes with the end of the parent's *thread*.
            if settings.parent_pid is not None and os.getppid() != settings.parent_pid:
                break
    finally:
        server.close()


def _http1(endpoint: Endpoint) -> Callable[[Channel], None]:
    def serve(channel: Channel) -> None:
        with endpoint.tally.connection():
            serve_http1(channel, endpoint_handler(endpoint))

    return serve


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """A client that leaves is no error of ours."""
    try:
        yield
    except OSError as error:
        log.info("mock_connection_ended", extra={"error": type(error).__name__})
