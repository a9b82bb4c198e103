"""The mock, judged by senders that know nothing of pushq: aioapns and firebase-admin send through it and understand its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pushq.mock import MockProcess

ROOT = Path(__file__).resolve().parents[2]
SENDERS = Path(__file__).parent / "senders"
TIMEOUT_S = 90.0
APNS_ALIVE = "ab" * 32
FCM_ALIVE, FCM_DEAD = "a-phone-that-lives-0001", "deaddeaddead-a-phone-of-the-past"


@pytest.fixture(scope="module", params=["strict", "fast"])
def mock(request: pytest.FixtureRequest) -> Iterator[MockProcess]:
    with MockProcess(engine=request.param) as mock:
        yield mock


def run(sender: str, mock: MockProcess, **case: Any) -> dict[str, Any]:
    """Run a sender as a program of its own, with nothing of this process's surroundings but the mock's proxy and CA."""
    ready = mock.ready
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "PYTHONPATH": str(ROOT),
        "HTTPS_PROXY": ready["proxy_url"],
        "NO_PROXY": "localhost,127.0.0.1",
        "REQUESTS_CA_BUNDLE": ready["ca_file"],
    }
    done = subprocess.run(
        [sys.executable, str(SENDERS / sender)],
        input=json.dumps({"ready": ready, **case}),
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def apns(status: int, reason: str) -> dict[str, Any]:
    return {"answer": {"status": status, "reason": reason}}


APNS = {
    "410": (apns(410, "Unregistered"), [False, "410", "Unregistered"]),
    "400": (apns(400, "BadDeviceToken"), [False, "400", "BadDeviceToken"]),
    "413": (apns(413, "PayloadTooLarge"), [False, "413", "PayloadTooLarge"]),
    "429": (apns(429, "TooManyRequests"), [False, "429", "TooManyRequests"]),
    "503": (apns(503, "ServiceUnavailable"), [False, "503", "ServiceUnavailable"]),
    # aioapns takes another connection by itself.
    "goaway": (
        {"times": 1, "per": "total", "goaway": {"reason": "Shutdown", "last_stream_offset": -1}},
        [True, "200", None],
    ),
    "good": ({"delay_ms": 1}, [True, "200", None]),
}


def test_aioapns(mock: MockProcess) -> None:
    mock.reset()
    said = run(
        "aioapns_sender.py", mock, alive=APNS_ALIVE, faults={name: fault for name, (fault, _) in APNS.items()}
    )
    assert {name: said["answers"][name][:2] for name in APNS} == {
        name: answer[:2] for name, (_, answer) in APNS.items()
    }
    for name, (_, (successful, _, description)) in APNS.items():
        if not successful:
            assert said["answers"][name][2] == description
    assert said["many"] == 300
    assert said["rich"][:2] == [True, "200"]
    assert said["background at 10"] == [False, "400", "BadPriority"]
    assert said["too long a collapse id"] == [False, "400", "BadCollapseId"]
    assert mock.accepted("apns")[APNS_ALIVE] == 3
    assert len(mock.accepted("apns")) == 301
    # aioapns takes a fresh connection for one that has a thousand streams; the mock ends it, as APNs would, and aioapns goes on.
    violations = mock.stats()["platforms"]["apns"]["violations"]
    assert set(violations) <= {"Maximum active streams violated for this endpoint"}


def fcm(status: int, reason: str, **more: Any) -> dict[str, Any]:
    return {"answer": {"status": status, "reason": reason}, **more}


FCM = {
    "shape a": ({"answer": {"shape": "a"}}, "InvalidArgumentError", "INVALID_ARGUMENT"),
    "shape c": ({"answer": {"shape": "c"}}, "InvalidArgumentError", "INVALID_ARGUMENT"),
    "unregistered": (fcm(404, "UNREGISTERED"), "UnregisteredError", "NOT_FOUND"),
    "another project's": (fcm(403, "SENDER_ID_MISMATCH"), "SenderIdMismatchError", "PERMISSION_DENIED"),
    "Apple's credential": ({"answer": {"shape": "i"}}, "ThirdPartyAuthError", "UNAUTHENTICATED"),
    "quota": (fcm(429, "QUOTA_EXCEEDED", times=1), "QuotaExceededError", "RESOURCE_EXHAUSTED"),
    # These two it tries again by itself.
    "internal": (fcm(500, "INTERNAL", times=1), None, None),
    "unavailable": (fcm(503, "UNAVAILABLE", times=1), None, None),
}


def test_firebase_admin(mock: MockProcess) -> None:
    mock.reset()
    said = run(
        "firebase_admin_sender.py",
        mock,
        alive=FCM_ALIVE,
        dead=FCM_DEAD,
        faults={name: case[0] for name, case in FCM.items()},
    )
    assert said["answers"] == {name: [error is None, error, code] for name, (_, error, code) in FCM.items()}
    assert said["rich"] == [True, None, None]
    assert said["topic"] == "projects/pushq-demo/messages/fake_message_id"
    assert said["multicast"] == [
        [True, None, None],
        [False, "UnregisteredError", "NOT_FOUND"],
        [False, "InvalidArgumentError", "INVALID_ARGUMENT"],
    ]
    assert said["subscribed"] == [1, ["UNREGISTERED", "INVALID_ARGUMENT"]]
    assert said["unsubscribed"] == 1
    assert said["reserved"] == "InvalidArgumentError"
    assert mock.accepted("fcm") == {FCM_ALIVE: 4}
