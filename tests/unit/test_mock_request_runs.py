"""Requests side by side that look alike: what the fast engine makes of them must be what it makes of each alone."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from hashlib import sha256

import pytest

from pushq.http2 import Burst, Code, HeaderTemplate
from pushq.http2.core import Core
from pushq.mock.endpoint import Endpoint, Latency
from pushq.mock.fast import FastEngine
from pushq.mock.lanes import ApnsLane, FcmLane
from pushq.providers.apns.request import apns_ids
from tests.unit.mock_provider import (
    ACCESS_TOKEN,
    BODY,
    DEAD,
    FCM_DEAD,
    NOW,
    PROJECT,
    apns_headers,
    apns_rules,
    endpoint,
    fcm_rules,
)

LATENCY_S = 0.08


class Sender:
    """pushq's own connection, joined to a fast engine in memory."""

    def __init__(self, platform: str) -> None:
        self.platform = platform
        rules = apns_rules() if platform == "apns" else fcm_rules()
        self.place: Endpoint = endpoint(rules)
        self.place.latency = Latency(LATENCY_S)
        lane = ApnsLane(rules) if platform == "apns" else FcmLane(rules)  # type: ignore[arg-type]
        self.engine = FastEngine(self.place, lane, lambda: 0.5)
        self.core = Core(b"localhost", max_streams=5000, stream_ceiling=1.0)
        self.tick = 100.0
        self.core.receive(self.engine.opening())

    def burst(self, tokens: Sequence[bytes], bodies: Sequence[bytes] | None = None) -> Burst:
        count = len(tokens)
        if self.platform == "apns":
            headers = tuple(
                (name.encode(), value.encode())
                for name, value in apns_headers()
                if not name.startswith(":") and name != "apns-id"
            )
            template = HeaderTemplate(b"/3/device/", headers, varying=(b"apns-id",))
            ids = apns_ids(uuid.uuid4(), range(count))
            return Burst(
                template,
                count,
                targets=tokens,
                bodies=bodies or [BODY] * count,
                values=list(zip(ids, strict=True)),
            )
        headers = (
            (b"authorization", b"Bearer " + ACCESS_TOKEN.encode()),
            (b"content-type", b"application/json"),
        )
        template = HeaderTemplate(f"/v1/projects/{PROJECT}/messages:send".encode(), headers)
        texts = bodies or [b"hello"] * count
        return Burst(
            template,
            count,
            bodies=[
                b'{"message":{"token":"%b","notification":{"body":"%b"}}}' % pair
                for pair in zip(tokens, texts, strict=True)
            ],
        )

    def send(self, burst: Burst, piece: int = 1 << 20) -> None:
        """Everything, in pieces of so many octets."""
        for _ in range(100):
            self.core.write(burst, burst.count, 0.0, 100.0)
            out = self.core.output()
            answers = b""
            for start in range(0, len(out), piece):
                answers += self.engine.receive(out[start : start + piece], self.tick, NOW)
            self.tick += 2 * LATENCY_S
            self.core.receive(answers + self.engine.release(self.tick))
            if burst.done:
                return
        raise AssertionError(burst)


def tokens_of(platform: str, count: int) -> list[bytes]:
    digests = [sha256(b"%d" % n).hexdigest().encode() for n in range(count)]
    return digests if platform == "apns" else [digest + b":APA91b" + digest for digest in digests]


@pytest.fixture(params=["apns", "fcm"])
def platform(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("piece", [1 << 20, 4093])
def test_each_is_answered_and_counted_once(platform: str, piece: int) -> None:
    sender, tokens = Sender(platform), tokens_of(platform, 900)
    for _ in range(2):
        burst = sender.burst(tokens)
        sender.send(burst, piece)
        assert set(burst.codes) == {Code.OK}
    assert sender.place.tally.accepted == dict.fromkeys(tokens, 2)
    assert sender.place.tally.requests == sender.place.tally.answers["200"] == 1800


def test_those_that_are_not_good_are_told_so_among_hundreds_that_are(platform: str) -> None:
    sender, tokens = Sender(platform), tokens_of(platform, 400)
    dead = (DEAD if platform == "apns" else FCM_DEAD).encode()
    odd = {
        100: dead[:12] + tokens[100][12:],
        101: dead[:12] + tokens[101][12:],
        250: b"!" + tokens[250][1:],  # not what tokens are made of
    }
    for index, token in odd.items():
        tokens[index] = token
    burst = sender.burst(tokens)
    sender.send(burst)
    refused = {index for index, code in enumerate(burst.codes) if code == Code.ANSWERED}
    assert refused == set(odd)
    assert burst.answers[100].status == (410 if platform == "apns" else 404)
    assert burst.answers[250].status == 400
    good = [token for index, token in enumerate(tokens) if index not in odd]
    assert sender.place.tally.accepted == dict.fromkeys(good, 1)


def test_every_recipient_may_have_another_message(platform: str) -> None:
    sender, tokens = Sender(platform), tokens_of(platform, 300)
    bodies = [b'{"aps":{"alert":"%03d"}}' % n if platform == "apns" else b"%03d" % n for n in range(300)]
    for texts in (bodies, [bodies[n % 3] for n in range(300)], [bodies[n // 50] for n in range(300)]):
        burst = sender.burst(tokens, texts)
        sender.send(burst)
        assert set(burst.codes) == {Code.OK}
    assert sender.place.tally.accepted == dict.fromkeys(tokens, 3)


def test_a_connection_that_opens_too_many_streams_is_closed(platform: str) -> None:
    sender = Sender(platform)
    sender.send(sender.burst(tokens_of(platform, 50)))
    limit = sender.place.rules.streams.granted
    sender.core.peer.max_concurrent_streams = None  # the client does not care
    sender.core.write(sender.burst(tokens_of(platform, limit + 50)), limit + 50, 0.0, 100.0)
    sender.engine.receive(sender.core.output(), sender.tick, NOW)
    assert sender.engine.ended == "close"
    assert sender.place.tally.violations.total() == 1


def test_the_engine_knows_how_long_it_has_nothing_to_say(platform: str) -> None:
    sender = Sender(platform)
    sender.send(sender.burst(tokens_of(platform, 20)))
    assert sender.engine.rest(sender.tick) == 0.0
    burst = sender.burst(tokens_of(platform, 20))
    sender.core.write(burst, 20, 0.0, 100.0)
    sender.engine.receive(sender.core.output(), sender.tick, NOW)
    rest = sender.engine.rest(sender.tick)
    assert rest >= LATENCY_S
    assert sender.engine.release(sender.tick + LATENCY_S / 2) == b""
    sender.core.receive(sender.engine.release(sender.tick + rest + 1e-6))
    assert burst.done
