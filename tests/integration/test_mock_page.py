"""docs/mock.md: its examples run as they stand there, and its fault table is one that the mock takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pushq.mock.faults import load_faults

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/mock.md").read_text(encoding="utf-8")
TIMEOUT_S = 90.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def environment() -> dict[str, str]:
    """No proxy and no trust from outside, and this checkout's pushq."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith(("_proxy", "_bundle", "cert_file"))
    }
    return ours | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("example", blocks("python"), ids=lambda text: re.findall(r"import (\w+)", text)[0])
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    file = tmp_path / "test_example.py"
    file.write_text(example, encoding="utf-8")
    command = [sys.executable, str(file)]
    if "import pytest" in example:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            str(file),
        ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_its_examples() -> None:
    assert len(blocks("python")) == 5


def test_the_fault_table_is_one(tmp_path: Path) -> None:
    (table,) = blocks("toml")
    file = tmp_path / "faults.toml"
    file.write_text(table)
    assert len(load_faults(file)) == len(tomllib.loads(table)["fault"]) == 3
