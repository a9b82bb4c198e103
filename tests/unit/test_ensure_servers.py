"""scripts/ensure-servers decides rightly where apt, sudo and docker are there, missing or broken.

The script and its shell are real; apt-get, sudo, docker and the question "what is missing?" are stand-ins on PATH.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ensure-servers"
TOOLS = ("bash", "cat", "dirname", "env", "mktemp", "rm", "sed", "tail", "timeout", "tr")
ASK = '#!/bin/sh\ncat "$STATE"\n'
INSTALLS = '#!/bin/sh\necho "$*" >>"$CALLS"\ncase "$*" in *install*) : >"$STATE" ;; esac\n'
NEEDS_UPDATE = (
    '#!/bin/sh\necho "$*" >>"$CALLS"\n'
    'case "$*" in *update*) : >"$STATE.fresh" ;; *install*) [ -e "$STATE.fresh" ] && : >"$STATE" ;; esac\n'
)
FAILS = '#!/bin/sh\necho "$*" >>"$CALLS"\necho "E: no such luck"\nexit 100\n'
WORKS = "#!/bin/sh\nexit 0\n"


class Machine:
    """A machine with just the tools the script uses, and the programs a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.state, self.calls = folder / "missing", folder / "calls"
        self.calls.write_text("")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)
        self.program("python", ASK)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, *, missing: str, uid: int) -> subprocess.CompletedProcess[str]:
        self.state.write_text(missing)
        self.program("id", f"#!/bin/sh\necho {uid}\n")
        environment = {"PATH": str(self.bin), "STATE": str(self.state), "CALLS": str(self.calls)}
        environment["TMPDIR"] = str(self.bin.parent)
        return subprocess.run(
            [self.bin / "bash", SCRIPT, self.bin / "python"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_with_everything_there_nothing_is_done(machine: Machine) -> None:
    machine.program("apt-get", INSTALLS)
    answer = machine.run(missing="", uid=0)
    assert (answer.returncode, answer.stdout, machine.calls.read_text()) == (0, "", "")


def test_root_installs_exactly_what_is_missing(machine: Machine) -> None:
    machine.program("apt-get", INSTALLS)
    assert machine.run(missing="redis-server\nrabbitmq-server\n", uid=0).returncode == 0
    (call,) = machine.calls.read_text().splitlines()
    assert call.endswith("install --no-install-recommends redis-server rabbitmq-server")


def test_stale_package_lists_are_updated(machine: Machine) -> None:
    machine.program("apt-get", NEEDS_UPDATE)
    assert machine.run(missing="redis-server\n", uid=0).returncode == 0
    assert [call.split()[3] for call in machine.calls.read_text().splitlines()] == [
        "install",
        "update",
        "install",
    ]


def test_a_user_with_passwordless_sudo_installs(machine: Machine) -> None:
    machine.program("apt-get", INSTALLS)
    machine.program("sudo", '#!/bin/sh\nshift\n[ "$1" = true ] && exit 0\nexec "$@"\n')
    assert machine.run(missing="redis-server\n", uid=1000).returncode == 0
    assert "install" in machine.calls.read_text()


@pytest.mark.parametrize("sudo", [None, "#!/bin/sh\necho 'a password is required' >&2\nexit 1\n"])
def test_a_user_without_is_told_what_to_install(machine: Machine, sudo: str | None) -> None:
    machine.program("apt-get", INSTALLS)
    if sudo is not None:
        machine.program("sudo", sudo)
    answer = machine.run(missing="redis-server\nrabbitmq-server\n", uid=1000)
    assert answer.returncode == 1
    assert machine.calls.read_text() == ""
    assert "sudo apt-get install redis-server rabbitmq-server\n" in answer.stderr
    assert "brew install redis rabbitmq\n" in answer.stderr


def test_where_apt_fails_its_output_is_shown_and_docker_is_next(machine: Machine) -> None:
    machine.program("apt-get", FAILS)
    machine.program("docker", WORKS)
    answer = machine.run(missing="rabbitmq-server\n", uid=0)
    assert answer.returncode == 3
    assert "E: no such luck" in answer.stderr
    assert "Docker" in answer.stdout


def test_a_docker_that_does_not_run_is_none(machine: Machine) -> None:
    machine.program("docker", FAILS)
    answer = machine.run(missing="rabbitmq-server\n", uid=0)
    assert answer.returncode == 1
    assert "rabbitmq-server" in answer.stderr
