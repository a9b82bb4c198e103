"""The mock as a process: how it starts, what it says when it cannot, and that it never outlives its owner."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pushq.errors import PushqError
from pushq.mock import MockProcess

DEADLINE_S = 20.0
COMMAND = [sys.executable, "-c", "from pushq.cli.mock import mock; mock(prog_name='pushq mock')"]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A zombie that nobody waited for has ended too.
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.05)


def test_it_leaves_nothing_behind() -> None:
    with MockProcess() as mock:
        pid, folder = mock.pid, Path(mock.ready["folder"])
        assert mock.ready["pid"] == pid
        assert folder.exists()
    assert gone(pid)
    assert not folder.exists()
    mock.stop()


def test_a_restart_in_the_same_folder_is_the_same_provider(tmp_path: Path) -> None:
    with MockProcess(tmp_path) as mock:
        first = mock.ready
        ca, key = Path(first["ca_file"]).read_bytes(), Path(first["apns"]["key_file"]).read_bytes()
        account = json.loads(Path(first["fcm"]["service_account_file"]).read_text())
        ports = {
            name: int(url.split(":")[2].split("/")[0])
            for name, url in (
                ("apns", first["apns"]["url"]),
                ("sandbox", first["apns"]["sandbox_url"]),
                ("fcm", first["fcm"]["url"]),
                ("manage", first["apns"]["manage_url"]),
                ("sandbox_manage", first["apns"]["sandbox_manage_url"]),
                ("topics", first["fcm"]["iid_url"]),
                ("hms", first["hms"]["url"]),
                ("hms_oauth", first["hms"]["oauth_url"]),
                ("oauth", first["oauth_url"]),
                ("control", first["control_url"]),
                ("proxy", first["proxy_url"]),
            )
        }
    assert not (tmp_path / "ready.json").exists()
    with MockProcess(tmp_path, ports=ports) as mock:
        assert {**mock.ready, "pid": 0} == {**first, "pid": 0}
        assert Path(mock.ready["ca_file"]).read_bytes() == ca
        assert Path(mock.ready["apns"]["key_file"]).read_bytes() == key
        assert json.loads(Path(mock.ready["fcm"]["service_account_file"]).read_text()) == account


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PushqError, match=f"port {port} on 127.0.0.1 cannot be used"):
            MockProcess(tmp_path, ports={"apns": port}).start()


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = subprocess.run(
        [*COMMAND, "--dir", str(tmp_path / "file" / "x")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert str(tmp_path / "file") in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_fault_at_the_start_is_named() -> None:
    mock = MockProcess(faults=[{"platform": "apns", "stal": True}])
    with pytest.raises(PushqError, match=r"fault\[0\]"):
        mock.start()


def test_it_ends_with_its_parent() -> None:
    script = (
        "import sys, time\n"
        "from pushq.mock import MockProcess\n"
        "mock = MockProcess(); mock.start(); print(mock.pid, mock.ready['folder'], flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        assert not gone(int(pid))
        parent.send_signal(signal.SIGKILL)
        parent.wait(DEADLINE_S)
    wait_until_gone(int(pid))
    # Nobody was left to remove the folder; the mock itself took back that it is ready.
    assert not (Path(folder) / "ready.json").exists()
    subprocess.run(["rm", "-r", folder], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_things_are_and_ends_clean(tmp_path: Path, number: signal.Signals) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nplatform = "apns"\nstall = true\n')
    options = ["--dir", str(tmp_path / "mock"), "--engine", "strict", "--json", "--faults", str(faults)]
    with subprocess.Popen(
        [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert json.loads((tmp_path / "mock" / "ready.json").read_text()) == ready
        process.send_signal(number)
        out, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, errors) == (0, "", "")
    assert not (tmp_path / "mock" / "ready.json").exists()


def test_a_wrong_fault_file_stops_the_command(tmp_path: Path) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nplatform = "apns"\nevery = 0\nstall = true\n')
    result = subprocess.run(
        [*COMMAND, "--dir", str(tmp_path / "mock"), "--faults", str(faults)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr == "Error: fault[0].every: found 0; expected a whole number of at least 1\n"


def test_importing_the_process_needs_no_gevent() -> None:
    script = "import sys, pushq.mock, pushq.cli.mock; sys.exit('gevent' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
