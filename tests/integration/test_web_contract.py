"""The OpenAPI document and `pushq web` against each other: schemathesis calls everything that is in it, rightly and wrongly."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from pushq.embedded.redis import RedisServer
from pushq.ledger import sends
from pushq.settings import Settings
from pushq.submission import submit
from tests.integration.ledger_world import bare_app
from tests.integration.web_process import Web, open_web, urls
from tests.services.fixtures import Fleet

#: Calls for each operation, beside those that the document's examples and every bound in it lead to.
EXAMPLES = 4
RUN_S = 240.0
#: What a JSON Schema cannot say (two fields that exclude each other, placeholders without a value) is a 422 that names the field.
CONFIG = """
[parameters]
"path.send_id" = "{send_id}"
"path.user_id" = 42
"path.device_id" = {device_id}
"path.app" = "shop"

[[operations]]
include-operation-id = "follow_send"
parameters = {{ "path.send_id" = "{ended}" }}

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422"]
"""
HOOKS = """
import schemathesis

@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
"""


@pytest.fixture(scope="module")
def web(_fleet: Fleet, ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    redis = _fleet.ready("redis")
    assert isinstance(redis, RedisServer)
    folder = tmp_path_factory.mktemp("web")
    with open_web(urls(ledger_url, redis.url(0), redis.url(1)), folder) as opened:
        yield opened


def accepted(web: Web, tmp_path: Path) -> uuid.UUID:
    """A send that is there, and in a state that orders can change."""
    made = uuid.uuid4()
    call = submit(
        "broadcast",
        notification={"title": "Sale"},
        audience={"segments": ["all"]},
        guarantee="at_most_once",
        called_at=datetime.now(UTC),
    )
    sends.accept(web.database, Settings(apps={"shop": bare_app(tmp_path)}), made, call)
    return made


def device(client: httpx.Client) -> int:
    made = client.post(
        "/v1/devices",
        json={"user_id": 42, "app": "shop", "platform": "fcm", "token": "fcm-" + "4" * 40},
    )
    return int(made.json()["device_id"])


@pytest.mark.timeout(RUN_S + 60)
def test_every_answer_is_as_documented_whatever_is_asked(web: Web, tmp_path: Path) -> None:
    client = web.client()
    send_id, ended = accepted(web, tmp_path), accepted(web, tmp_path)
    assert client.post(f"/v1/sends/{ended}/cancel").json()["changed"]
    (tmp_path / "schemathesis.toml").write_text(
        CONFIG.format(send_id=send_id, ended=ended, device_id=device(client))
    )
    (tmp_path / "hooks_of_test.py").write_text(HOOKS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{web.address}/openapi.json"),
            *("-H", f"Authorization: {client.headers['Authorization']}"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
            *("--seed", "8", "--generation-deterministic", "--request-timeout", "60", "--workers", "1"),
            *("--warnings", "off", "--no-color", "--suppress-health-check", "all"),
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks_of_test", "PYTHONPATH": _path(tmp_path)},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-12_000:]}\n{done.stderr[-2_000:]}"
    operations = sum(len(methods) for methods in client.get("/openapi.json").json()["paths"].values())
    assert f"Tested: {operations}" in done.stdout, done.stdout[-3_000:]
    failed = [line for line in web.lines() if line["level"] == "error"]
    assert not failed, failed[:3]


def _path(first: Path) -> str:
    return os.pathsep.join([str(first), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_examples_of_the_document_are_accepted(web: Web) -> None:
    client = web.client()
    document: dict[str, Any] = client.get("/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            for media_type, body in content.items():
                if "{send_id}" in path or "{device_id}" in path or "{name}" in path:
                    continue  # of things that are not there; above they are
                address = path.replace("{app}", "examples")
                sent: Any = (
                    {"json": body["example"]}
                    if media_type == "application/json"
                    else {"content": body["example"], "headers": {"Content-Type": media_type}}
                )
                answer = client.request(method, address, **sent)
                assert answer.is_success, f"{method} {path} {media_type}: {answer.text}"
                tried += 1
    assert tried >= 8
