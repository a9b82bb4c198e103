"""The providers: each is asked to deliver to a device that cannot exist, the way a worker would ask.

So everything that a send needs is tried in one go: the key file, the token that is made of it, the name, the way there, TLS and
HTTP/2, and what the provider makes of the credential. No phone rings.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import gevent
import redis

from pushq.app_settings import ProviderSettings
from pushq.doctor.clocks import date_header, judge_clock
from pushq.doctor.clocks import now as clock
from pushq.doctor.files import expiry
from pushq.doctor.findings import Finding, Status, failed, ok, warning
from pushq.errors import PushqError
from pushq.http2 import Burst, Code, Proxy
from pushq.http2.greenlets import pause
from pushq.notification import parse_notification
from pushq.platforms import TITLES
from pushq.providers.answers import Effect, Verdict
from pushq.providers.client import CredentialUnavailable, Message, ProviderClient, RequestPool
from pushq.providers.opening import CLIENTS
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings

ADVICE: Final = "Check that this machine may open connections to the provider (port 443; a proxy belongs into PUSHQ_HTTP_PROXY)."
#: By the pool's word for what kept it from connecting.
_CONNECTING: Final[Mapping[str, str]] = {
    "dns": "Check that this machine can look up names, or name a proxy in PUSHQ_HTTP_PROXY.",
    "connect_refused": "Check the url in {table}: nothing listens there.",
    "connect_timeout": "Let a firewall open port 443 (APNs: 2197 as well), or name a proxy in PUSHQ_HTTP_PROXY.",
    "connect_failed": "Let a firewall open port 443 (APNs: 2197 as well), or name a proxy in PUSHQ_HTTP_PROXY.",
    "tls_verify_failed": "Install this machine's CA certificates (package ca-certificates); for a mock or an inspecting proxy name"
    " its CA as ca_file in {table}. Check the clock, too.",
    "tls_failed": "Check that the url in {table} is the provider's and that nothing between breaks TLS 1.2 and newer.",
    "no_alpn_h2": "Something between speaks HTTP/1.1 only: let connections to the provider through untouched.",
    "no_settings": "Something between holds the connection up: let connections to the provider through untouched.",
    "proxy_auth": "Check user and password in PUSHQ_HTTP_PROXY or PUSHQ_HTTP_PROXY_PASSWORD_FILE.",
    "proxy_forbidden": "Let the proxy's rules allow CONNECT to the provider's host and port.",
}
_PROXY: Final = "Check PUSHQ_HTTP_PROXY (docs/connections.md)."
#: Tokens that every provider calls wrong, whatever it knows: no hex digits, too short.
NOBODY: Final = b"pushq-doctor-nobody"
#: Where nothing listens: credentials are then made without sharing them.
_NO_REDIS: Final = ServiceUrl("redis://127.0.0.1:1/0")
REDIS_S: Final = 1.0


def environments(platform: str) -> tuple[str, ...]:
    """Where an app's devices may live."""
    return ("production", "sandbox") if platform == "apns" else ("production",)


def provider(
    app: str,
    platform: str,
    section: ProviderSettings,
    settings: Settings,
    proxy: Proxy | None,
    timeout_s: float,
) -> Callable[[], Sequence[Finding]]:
    """A check of one app's access to one provider, to be run in a thread of its own."""

    def run() -> Sequence[Finding]:
        shared = open_redis(
            settings.redis_url or _NO_REDIS,
            connect_timeout=REDIS_S,
            command_timeout=REDIS_S,
            max_connections=4,
        )
        try:
            return _provider(app, platform, section, shared, proxy, timeout_s)
        finally:
            shared.close()
            # This thread's own; it would keep a file descriptor.
            gevent.get_hub().destroy()

    return run


def _provider(
    app: str,
    platform: str,
    section: ProviderSettings,
    shared: redis.Redis,
    proxy: Proxy | None,
    timeout_s: float,
) -> list[Finding]:
    subject, table = f"{TITLES[platform]} {app}", f"apps.{app}.{platform}"
    try:
        made = CLIENTS[platform](app, section, shared, request_timeout_s=timeout_s, proxy=proxy)
    except (PushqError, OSError) as exc:
        return [
            failed(
                subject, str(exc), f"Correct {table}, or fetch the file again from the provider's console."
            )
        ]
    client: ProviderClient = made  # type: ignore[assignment]
    deadline = time.monotonic() + timeout_s
    findings: list[Finding] = []
    ends = getattr(client, "credential_expires_at", None)
    if ends is not None:
        findings += expiry(subject, f"the client certificate of {table}", ends, datetime.now(UTC))
    try:
        for environment in environments(platform):
            name = subject if environment == "production" else f"{subject} {environment}"
            findings += _environment(client, environment, name, table, deadline)
    finally:
        client.close(0.0)
        gevent.sleep(0)
    return findings


def _environment(
    client: ProviderClient, environment: str, subject: str, table: str, deadline: float
) -> list[Finding]:
    now = datetime.now(UTC)
    message = Message(
        send_id=uuid.uuid4(),
        notification=parse_notification({"title": "pushq doctor"}),
        starts_at=now,
        expires_at=now + timedelta(minutes=1),
        collapse_id=None,
        environment=environment,
    )
    try:
        burst = client.burst(message, [NOBODY], [0], now)
    except CredentialUnavailable as exc:
        return [failed(subject, str(exc), ADVICE)]
    except PushqError as exc:
        return [failed(subject, str(exc), "See above.")]
    pool = client.pool(environment)
    asked = clock()
    pool.submit(burst, 1.0)
    reason = _wait(pool, burst, deadline)
    answered = clock()
    if reason is not None:
        return [_softened(environment, _unreached(subject, table, reason, pool.stats().last_error))]
    answer = burst.answers.get(0)
    if answer is None:
        return [ok(subject, "reachable, and takes the credential")]
    verdict = client.judge(answer, sent_at=now, now=datetime.now(UTC))
    findings = [_softened(environment, _answered(client, subject, verdict))]
    reading = date_header(answer.headers, asked, answered)
    if reading is not None:
        findings.append(judge_clock("clock", f"that of {subject}", reading))
    return findings


def _wait(pool: RequestPool, burst: Burst, deadline: float) -> str | None:
    """None when there is an answer, else why there is none."""
    while not burst.wait(0.05):
        stats = pool.stats()
        if stats.failed and not stats.connections:
            return stats.last_error.partition(":")[0]
        if time.monotonic() >= deadline:
            return "timeout"
        pause(0)
    code = burst.codes[0]
    return None if code in (Code.OK, Code.ANSWERED) else burst.reasons.get(0, "unknown")


def _unreached(subject: str, table: str, reason: str, error: str) -> Finding:
    advice = _CONNECTING.get(reason, _PROXY if reason.startswith("proxy_") else ADVICE)
    return failed(subject, f"no answer ({error or reason})", advice.format(table=table))


def _answered(client: ProviderClient, subject: str, verdict: Verdict) -> Finding:
    said = f"{verdict.status} {verdict.reason}"
    if verdict.effect is Effect.RETRY:
        text = f"reachable, but it answers {said}"
        return warning(
            subject, text, "Try again in a few minutes; if it stays, see the provider's status page."
        )
    if verdict.effect in (Effect.CONFIGURATION, Effect.REAUTHENTICATE):
        text, _, advice = client.explain(verdict).partition(". ")
        detail = f" ({verdict.detail})" if verdict.detail and verdict.detail not in text else ""
        return failed(subject, text + detail, f"{advice or text}")
    return ok(subject, f"reachable, and takes the credential (a made-up token: {said})")


def _softened(environment: str, finding: Finding) -> Finding:
    """Most apps have no sandbox devices, and Apple makes keys that are good for production only."""
    if environment == "production" or finding.status is not Status.FAILED:
        return finding
    return warning(finding.subject, finding.found, f"{finding.advice} Only if this app has sandbox devices.")
