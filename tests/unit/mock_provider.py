"""Providers of the mock without a network: rules with known keys, and good requests for them."""

from __future__ import annotations

import json
from functools import cache

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pushq.mock.apns import ApnsRules
from pushq.mock.endpoint import Endpoint, Latency
from pushq.mock.exchange import Request, Rules
from pushq.mock.faults import FaultTable
from pushq.mock.fcm import FcmRules
from pushq.mock.provider_token import ProviderTokenVerifier
from pushq.mock.tally import Tally

NOW = 1_800_000_000.0
TEAM, KEY_ID, TOPIC = "TEAM123456", "KEY1234567", "com.example.shop"
DEAD = "deaddeaddead" + "0" * 52
ALIVE = "ab" * 32
FCM_ALIVE = "fcm-Token_1:" + "x" * 120
FCM_DEAD = "deaddeaddead:" + "x" * 120
ACCESS_TOKEN = "ya29.good"
PROJECT = "pushq-demo"
BODY = b'{"aps":{"alert":"hi"}}'


@cache
def apns_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def provider_token(
    issued_at: float = NOW,
    team: str = TEAM,
    key_id: str = KEY_ID,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> str:
    return jwt.encode({"iss": team, "iat": int(issued_at)}, key or apns_key(), "ES256", {"kid": key_id})


@cache
def good_provider_token() -> str:
    return provider_token()


def apns_rules(environment: str = "production", streams: int = 1000) -> ApnsRules:
    verifier = ProviderTokenVerifier(TEAM, KEY_ID, apns_key().public_key())
    return ApnsRules(environment, verifier, (TOPIC,), b"deaddeaddead", streams)


def fcm_rules(streams: int = 100) -> FcmRules:
    def good_until(token: str, now: float) -> float | None:
        return now + 3600 if token == ACCESS_TOKEN else None

    return FcmRules(PROJECT, good_until, b"deaddeaddead", streams, lambda now: None)


def endpoint(rules: Rules, *faults: dict[str, object], latency: Latency | None = None) -> Endpoint:
    return Endpoint(rules, Tally(), FaultTable(faults), latency or Latency())


def apns_headers(**changes: str | None) -> list[tuple[str, str]]:
    """Good headers; a keyword replaces one (``apns_topic``), None leaves it out."""
    headers: dict[str, str | None] = {
        "authorization": f"bearer {good_provider_token()}",
        "apns-topic": TOPIC,
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": "0",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return [(name, value) for name, value in headers.items() if value is not None]


def apns_request(token: str = ALIVE, body: bytes = BODY, **changes: str | None) -> Request:
    return Request("POST", f"/3/device/{token}", tuple(apns_headers(**changes)), body, len(body))


def fcm_body(token: str = FCM_ALIVE, **message: object) -> bytes:
    parts = {"token": token, "notification": {"title": "Sale", "body": "20%"}, "data": {"c": "42"}}
    return json.dumps({"message": parts | message}, separators=(",", ":")).encode()


def fcm_request(
    body: bytes | None = None, project: str = PROJECT, access_token: str = ACCESS_TOKEN
) -> Request:
    content = fcm_body() if body is None else body
    headers = (("authorization", f"Bearer {access_token}"), ("content-type", "application/json"))
    return Request("POST", f"/v1/projects/{project}/messages:send", headers, content, len(content))
