"""The Dockerfile's steps, done in a clean folder: what they make runs every role, without what only a developer has."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.deployment import ROOT, compose_processes, dockerfile

#: Some sixty packages, which may have to be fetched.
STEP_TIMEOUT_S = 400
pytestmark = pytest.mark.timeout(2 * STEP_TIMEOUT_S)
#: Where the image has what the steps make.
INSTALLED = "/opt/pushq"
#: The interpreter that make-venv took, outside of any environment: the image has no other.
PYTHON = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")

#: Every module of pushq, but those that need an extra which the image leaves out.
IMPORT_ALL = """
import importlib, pkgutil, pushq
for module in pkgutil.walk_packages(pushq.__path__, "pushq."):
    if not module.name.endswith(("__main__", "migrations.env")):
        importlib.import_module(module.name)
"""


def clean_environment(folder: Path) -> dict[str, str]:
    """What a container has, and where packages come from."""
    kept = {
        key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.endswith("_proxy")
    }
    return {
        **kept,
        "PIP_NO_COMPILE": "1",  # which takes longer than all the rest, and changes nothing that could fail here
        "PATH": f"{folder / 'path'}:/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/root"),
        "LC_ALL": "C.UTF-8",
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the steps of the stage `build` fill."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "path").mkdir()
    (folder / "path" / "python").symlink_to(PYTHON)
    source, target = folder / "src", folder / "opt"
    ignored = (ROOT / ".dockerignore").read_text().split()
    for instruction, arguments in dockerfile()["build"]:
        if instruction == "COPY":
            *names, place = shlex.split(arguments)
            for name in names:
                _copy(ROOT / name, source / place, ignored)
        elif instruction == "RUN":
            step = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", arguments.replace(INSTALLED, str(target))],
                cwd=source,
                env=clean_environment(folder),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=STEP_TIMEOUT_S,
                check=False,
            )
            assert step.returncode == 0, f"{arguments}\n{step.stdout[-2000:]}\n{step.stderr[-2000:]}"
        else:
            # PIP_NO_CACHE_DIR would fetch everything again.
            assert instruction in {"FROM", "ENV", "WORKDIR"}
    return target


def _copy(path: Path, place: Path, ignored: list[str]) -> None:
    names = {pattern.removeprefix("**/") for pattern in ignored}
    if path.is_dir():
        shutil.copytree(
            path, place, ignore=lambda _, found: {n for n in found if any(fnmatch(n, i) for i in names)}
        )
    else:
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


#: The newest migration that is in the image, and the one that its workers ask for.
REVISIONS = """
from alembic.config import Config
from alembic.script import ScriptDirectory
from pushq import migrations
config = Config()
config.set_main_option("script_location", migrations.__path__[0])
print(ScriptDirectory.from_config(config).get_current_head(), migrations.HEAD)
"""


def run(installed: Path, *command: str) -> str:
    """Run a program of the image, with nothing else on PATH."""
    program, *arguments = command
    done = subprocess.run(
        [installed / "bin" / program, *arguments],
        env={"PATH": str(installed / "bin"), "LC_ALL": "C.UTF-8"},
        cwd=installed,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_role_is_in_the_image_with_the_tested_versions_and_nothing_to_install_more(
    installed: Path,
) -> None:
    for program, command in {tuple(process.command[:2]) for process in compose_processes()}:
        # Flower's own options are behind those of celery.
        words = (command, "--help") if program == "pushq" else ("-A", "pushq.app", "flower", "--help")
        assert "Usage" in run(installed, program, *words)
    assert run(installed, "python", "-c", IMPORT_ALL) == ""
    listed = subprocess.run(
        [PYTHON, "-m", "pip", "--python", installed / "bin" / "python", "list", "--format", "json"],
        env=clean_environment(installed.parent),
        capture_output=True,
        timeout=STEP_TIMEOUT_S,
        check=True,
    )
    found = {_name(entry["name"]): entry["version"] for entry in json.loads(listed.stdout)}
    constraints = (ROOT / "constraints.txt").read_text()
    pinned = re.findall(r"^([\w.-]+)==(\S+)", constraints, re.MULTILINE)
    tested = {_name(name): version for name, version in pinned}
    assert found.pop("pushq")
    assert found.items() <= tested.items()
    assert {"flower", "opentelemetry-sdk"} <= found.keys()
    assert not found.keys() & {"pip", "pytest", "selenium", "ruff"}
    newest, needed = run(installed, "python", "-c", REVISIONS).split()
    assert newest == needed
    assert not list(installed.rglob("tests/conftest.py"))


def _name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_the_last_stage_takes_what_the_first_has_made() -> None:
    stages = dockerfile()
    assert ("COPY", f"--from=build {INSTALLED} {INSTALLED}") in stages["pushq"]
    (environment,) = [arguments for name, arguments in stages["pushq"] if name == "ENV"]
    assert f"PATH={INSTALLED}/bin:" in environment
    for name, arguments in stages["pushq"]:
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", arguments], timeout=10, check=True)
