"""The import check itself: it passes on the project and catches each kind of violation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.import_directions import LAYERS, violations

ROOT = Path(__file__).resolve().parents[2]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "pushq" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_project_keeps_its_directions() -> None:
    assert violations(ROOT) == []


def test_every_module_of_the_project_is_in_a_layer() -> None:
    parts = {p.stem for p in (ROOT / "pushq").iterdir() if p.suffix == ".py" or list(p.glob("*.py"))} - {
        "__init__"
    }
    assert parts <= frozenset().union(*LAYERS)


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("providers/apns/client.py", "from pushq.delivery import run\n", "delivery is not below providers"),
        ("providers/apns/client.py", "import pushq.delivery.run\n", "delivery is not below providers"),
        ("providers/apns/client.py", "from ...delivery import run\n", "delivery is not below providers"),
        ("providers/apns/client.py", "from pushq import delivery\n", "delivery is not below providers"),
        (
            "providers/apns/client.py",
            "def f():\n    from pushq.tasks import x\n",
            "tasks is not below providers",
        ),
        ("ledger/sends.py", "from pushq.tokens import cache\n", "tokens is not below ledger"),
        ("delivery/run.py", "from pushq.cli import main\n", "cli is not below delivery"),
        ("mock/apns.py", "from pushq.ledger import sends\n", "mock stands apart"),
        ("embedded/redis.py", "from pushq.settings import load\n", "embedded stands apart"),
        (
            "delivery/run.py",
            "import sqlalchemy\n",
            "only access, audience, database, ledger, migrations, tokens may",
        ),
        (
            "delivery/run.py",
            "from sqlalchemy.orm import x\n",
            "only access, audience, database, ledger, migrations, tokens may",
        ),
        ("delivery/run.py", "from celery import Task\n", "only app, cli, tasks, web may"),
        ("http2/core.py", "import time\n", "neither sockets nor clocks"),
        ("http2/core.py", "from gevent import socket\n", "neither sockets nor clocks"),
        ("sundries/attic.py", "from pushq.errors import PushqError\n", "sundries is in no layer"),
        ("tasks/deliver.py", "import pushq.sundries\n", "sundries is in no layer"),
    ],
)
def test_a_violation_is_caught(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    found = violations(write(tmp_path, {file: text, "delivery/__init__.py": ""}))
    assert len(found) == 1
    assert complaint in found[0]
    assert f"{file}:" in found[0]


def test_what_the_core_is_made_of_is_pure_too(tmp_path: Path) -> None:
    files = {
        "http2/__init__.py": "from pushq.http2.network import open\n",
        "http2/core.py": "from pushq.http2 import frames\n",
        "http2/frames.py": "import ssl\n",
        "http2/network.py": "import socket\nfrom pushq.http2.core import Core\n",
    }
    found = violations(write(tmp_path, files))
    assert len(found) == 1
    assert "pushq.http2.frames imports ssl" in found[0]


def test_what_points_down_is_fine(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from pushq.tasks import entry\n",
        "cli/send.py": "from pushq import send_broadcast\n",
        "tasks/deliver.py": "import celery\nfrom pushq.delivery import run\nfrom pushq.tasks import entry\n",
        "delivery/run.py": "from pushq.ledger import sends\nfrom pushq.providers.apns import client\nimport time\n",
        "ledger/sends.py": "import sqlalchemy\nfrom pushq.errors import PushqError\n",
    }
    assert violations(write(tmp_path, files)) == []


HEAVY = ("gevent", "psycopg", "sqlalchemy")


@pytest.mark.parametrize("statement", ["import pushq", "from pushq import send_broadcast, send_notification"])
def test_importing_pushq_pulls_in_neither_gevent_nor_a_database_driver(statement: str) -> None:
    """In an interpreter of its own: here everything has been imported already."""
    script = f"import sys\n{statement}\nprint(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    environment = os.environ | {"PUSHQ_BROKER_URL": "redis://127.0.0.1:1/0"}  # what an application has set
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert (answer.returncode, answer.stdout.split()) == (0, []), answer.stderr
