"""`pushq sends`, `show`, `pause`, `resume`, `cancel`, `rate`, `replay` and `export`, and the same from Python."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pushq import control
from pushq.cli.root import COMMANDS, cli
from pushq.cli.send import SUBCOMMANDS
from pushq.embedded.postgres import PostgresServer
from pushq.errors import InvalidRequest, PushqError
from pushq.ledger.outcomes import Outcome
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings
from tests.integration.ledger_world import World, bare_app, open_world

BATCH = 10
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(ledger_url, bare_app(tmp_path), batch_size=BATCH, plan_page=100) as world:
        world.empty()
        world.add_devices("apns", 3 * BATCH)
        yield world


Run = Callable[..., Result]


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PUSHQ_DATABASE_URL", world.database.url.reveal())

    def command(*arguments: str, code: int = 0, data: str | None = None) -> Result:
        result = CliRunner().invoke(cli, arguments, input=data)
        if isinstance(result.exception, PushqError):
            # What pushq.cli.root.run makes of it.
            result.exit_code, result.stderr_bytes = 1, str(result.exception).encode()
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.stdout + result.stderr
        return result

    return command


@pytest.fixture
def send_id(world: World) -> uuid.UUID:
    """Three queued batches of ten."""
    return world.send(audience={"user_ids": list(range(1, 3 * BATCH + 1))})


def end(world: World, send_id: uuid.UUID, outcome: Outcome = Outcome.EXHAUSTED, **columns: Any) -> None:
    """Settle everything so, and end the send."""
    name = {Outcome.EXHAUSTED: "exhausted", Outcome.ACCEPTED: "accepted", Outcome.UNKNOWN: "unknown"}[outcome]
    world.change(
        f"UPDATE send_batches SET state = 'done', settled_at = now(), outcomes = :o, {name} = recipients WHERE send_id = :id",
        id=send_id,
        o=bytes([outcome]) * BATCH,
    )
    world.change("UPDATE sends SET state = 'done', finished_at = now() WHERE id = :id", id=send_id)


def state(world: World, send_id: uuid.UUID) -> str:
    return str(world.value("SELECT state FROM sends WHERE id = :id", id=send_id))


class TestBrake:
    def test_pause_and_resume(self, world: World, run: Run, send_id: uuid.UUID) -> None:
        assert run("pause", str(send_id)).stdout == f"{send_id} paused\n"
        assert state(world, send_id) == "paused"
        assert run("pause", str(send_id)).stdout == f"{send_id} is paused already\n"
        assert json.loads(run("resume", str(send_id), "--json").stdout) == {
            "send_id": str(send_id),
            "changed": True,
            "state": "sending",
        }
        assert "is not paused: it is sending" in run("resume", str(send_id), code=1).stderr
        assert json.loads(run("resume", str(send_id), "--json", code=1).stdout)["changed"] is False

    def test_resume_with_trust(self, world: World, run: Run, send_id: uuid.UUID) -> None:
        run("pause", str(send_id))
        run("resume", str(send_id), "--trust-rejections")
        assert world.value("SELECT options->'trust_rejections' FROM sends") is True

    def test_cancel_tells_what_is_in_flight_and_leaves_nothing_else(
        self, world: World, run: Run, send_id: uuid.UUID
    ) -> None:
        world.acquire(send_id, world.queued(send_id)[0])
        said = run("cancel", str(send_id)).stdout
        assert said.startswith(f"{send_id} cancelled\n1 batches were with a worker")
        assert world.totals(send_id) == {"devices": 30, "cancelled": 20, "pending": 10}
        assert f"{send_id} is cancelled already\n" in run("cancel", str(send_id)).stdout
        assert "it is cancelled" in run("pause", str(send_id), code=1).stderr

    def test_cancel_of_what_has_ended_is_refused(self, world: World, run: Run, send_id: uuid.UUID) -> None:
        end(world, send_id)
        assert "has ended before: it is done" in run("cancel", str(send_id), code=1).stderr

    def test_the_rate(self, world: World, run: Run, send_id: uuid.UUID) -> None:
        assert "makes 1,500 requests a second at most" in run("rate", str(send_id), "1500").stdout
        assert world.value("SELECT rate FROM sends") == 1500
        assert "limited to 1,500 requests a second" in run("show", str(send_id)).stdout
        assert json.loads(run("rate", str(send_id), "--unlimited", "--json").stdout)["rate"] is None
        assert world.value("SELECT rate FROM sends") is None
        end(world, send_id)
        assert "has ended: it is done" in run("rate", str(send_id), "5", code=1).stderr

    @pytest.mark.parametrize("arguments", [(), ("0",), ("5", "--unlimited"), ("2000000",), ("fast",)])
    def test_a_wrong_rate_is_refused(self, run: Run, arguments: tuple[str, ...]) -> None:
        assert "RATE" in run("rate", NOBODY, *arguments, code=2).stderr

    @pytest.mark.parametrize(
        "command",
        [
            ("show",),
            ("pause",),
            ("resume",),
            ("cancel",),
            ("rate", "--unlimited"),
            ("replay", "--outcome", "expired"),
            ("export",),
        ],
    )
    def test_an_unknown_send_is_said_by_each(self, run: Run, command: tuple[str, ...]) -> None:
        said = run(command[0], NOBODY, *command[1:], code=1)
        assert said.stderr == f"No send has the id {NOBODY}. See: pushq sends"
        assert said.stdout == ""
        assert "is not a valid UUID" in run(command[0], "promo-42", *command[1:], code=2).stderr


class TestSendGroup:
    def test_every_command_about_a_send_stands_below_send_too(
        self, world: World, run: Run, send_id: uuid.UUID
    ) -> None:
        for name, target in SUBCOMMANDS.items():
            assert COMMANDS[name] == target
            assert "Example" in run("send", name, "--help").stdout
        assert run("send", "pause", str(send_id)).stdout == f"{send_id} paused\n"
        shown = json.loads(run("send", "show", str(send_id), "--json").stdout)
        assert (shown["state"], shown["devices"]) == ("paused", 30)

    def test_options_of_a_notification_do_not_go_with_a_command(self, run: Run, send_id: uuid.UUID) -> None:
        said = run("send", "--title", "Sale", "pause", str(send_id), code=2).stderr
        assert "go with a notification, not with 'pause'" in said


class TestShow:
    def test_parked_batches_stand_there_with_their_reason(
        self, world: World, run: Run, send_id: uuid.UUID
    ) -> None:
        world.change(
            "UPDATE send_batches SET state = 'parked', error = 'killed [its] worker', runs = 3, exhausted = 10, outcomes = :o"
            " WHERE batch_no = :no",
            no=world.queued(send_id)[0],
            o=bytes([Outcome.EXHAUSTED]) * BATCH,
        )
        found = json.loads(run("show", str(send_id), "--json").stdout)
        assert (found["parked"], found["in_flight"], found["pending"]) == (1, 2, 20)
        assert [(b["recipients"], b["runs"], b["error"]) for b in found["parked_batches"]] == [
            (10, 3, "killed [its] worker")
        ]
        assert "parked after 3 runs, 10 recipients: killed [its] worker" in " ".join(
            run("show", str(send_id)).stdout.split()
        )

    def test_options_of_the_call_are_shown(self, world: World, run: Run) -> None:
        send_id = world.send(rate=7, retry={"max_attempts": 1})
        found = json.loads(run("show", str(send_id), "--json").stdout)
        assert (found["rate"], found["retry"]) == (7, {"max_attempts": 1})
        assert found["expires_at"] > found["called_at"]

    def test_watching_as_json_gives_a_line_for_each_change_and_ends_with_the_send(
        self, world: World, run: Run, send_id: uuid.UUID
    ) -> None:
        def work() -> None:
            time.sleep(0.6)
            end(world, send_id, Outcome.ACCEPTED)

        worker = threading.Thread(target=work)
        worker.start()
        lines = [
            json.loads(line) for line in run("show", str(send_id), "--watch", "--json").stdout.splitlines()
        ]
        worker.join()
        assert [(line["state"], line["accepted"]) for line in (lines[0], lines[-1])] == [
            ("sending", 0),
            ("done", 30),
        ]
        assert len(lines) <= 3
        assert "30 settled" in run("show", str(send_id), "--watch").stdout

    def test_ctrl_c_ends_the_watching_only(self, world: World, send_id: uuid.UUID) -> None:
        watch = subprocess.Popen(
            [sys.executable, "-m", "pushq", "show", str(send_id), "--watch", "--json"],
            env=os.environ | {"PUSHQ_DATABASE_URL": world.database.url.reveal()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with watch:
            assert watch.stdout is not None
            assert json.loads(watch.stdout.readline())["state"] == "sending"
            watch.send_signal(signal.SIGINT)
            _, said = watch.communicate(timeout=30)
        assert watch.returncode == 130
        assert f"the send goes on: pushq show {send_id}" in said
        assert "Traceback" not in said
        assert state(world, send_id) == "sending"


class TestReplay:
    def test_it_says_how_many_and_asks(self, world: World, run: Run, send_id: uuid.UUID) -> None:
        end(world, send_id)
        for data in ("n\n", None):
            said = run("replay", str(send_id), "--outcome", "exhausted", data=data, code=1)
            assert "30  recipients in 3 batches" in said.stdout
            assert "Send again to 30 recipients?" in said.stderr
            assert "nothing was changed" in said.stderr
            assert state(world, send_id) == "done"
        assert "goes on" in run("replay", str(send_id), "--outcome", "exhausted", data="y\n").stdout
        assert state(world, send_id) == "sending"
        assert world.totals(send_id) == {"devices": 30, "pending": 30}
        assert world.states(send_id) == {"planned": 3}

    def test_dry_run_and_json(self, world: World, run: Run, send_id: uuid.UUID) -> None:
        end(world, send_id)
        dry = json.loads(run("replay", str(send_id), "--outcome", "exhausted", "--dry-run", "--json").stdout)
        assert dry == {
            "dry_run": True,
            "send_id": str(send_id),
            "recipients": 30,
            "batches": 3,
            "platforms": {"apns": {"exhausted": 30}},
            "unplanned": False,
        }
        assert state(world, send_id) == "done"
        assert "--yes" in run("replay", str(send_id), "--outcome", "exhausted", "--json", code=2).stderr
        done = json.loads(run("replay", str(send_id), "--outcome", "exhausted", "--yes", "--json").stdout)
        assert done == dry | {"dry_run": False}
        assert "is sending" in run("replay", str(send_id), "--outcome", "exhausted", code=1).stderr

    def test_nobody_chosen_is_no_question(self, world: World, run: Run, send_id: uuid.UUID) -> None:
        end(world, send_id)
        assert "0  recipients" in run("replay", str(send_id), "--outcome", "expired").stdout
        assert state(world, send_id) == "done"

    def test_unknown_needs_a_word_more(self, world: World, run: Run, send_id: uuid.UUID) -> None:
        end(world, send_id, Outcome.UNKNOWN)
        assert (
            "--may-duplicate" in run("replay", str(send_id), "--outcome", "unknown", "--yes", code=1).stderr
        )
        run("replay", str(send_id), "--outcome", "unknown", "--may-duplicate", "--yes")
        assert state(world, send_id) == "sending"
        assert "accepted" in run("replay", str(send_id), "--outcome", "accepted", code=2).stderr


class TestExport:
    def test_to_standard_output_and_to_files(
        self, world: World, run: Run, send_id: uuid.UUID, tmp_path: Path
    ) -> None:
        rows = list(csv.DictReader(io.StringIO(run("export", str(send_id)).stdout)))
        assert [row["user_id"] for row in rows] == [str(n) for n in range(1, 31)]
        lines = run("export", str(send_id), "--format", "jsonl", "--outcome", "pending").stdout.splitlines()
        assert [json.loads(line)["user_id"] for line in lines] == list(range(1, 31))
        for name in ("out.csv", "out.jsonl", "out.parquet"):
            path = tmp_path / name
            assert f"30 rows in {path}" in run("export", str(send_id), "--output", str(path)).stdout
        assert (tmp_path / "out.csv").read_text() == run("export", str(send_id)).stdout
        assert sum(len(path.read_bytes()) > 0 for path in tmp_path.glob("out.*")) == 3
        told = json.loads(run("export", str(send_id), "--output", str(tmp_path / "x.csv"), "--json").stdout)
        assert (told["rows"], told["format"]) == (30, "csv")

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (("--format", "parquet"), 1, "expected a file"),
            (("--output", "out.xls"), 1, "out.xls"),
            (("--format", "xml"), 2, "'xml'"),
            (("--json",), 2, "--output"),
            (("--output", "no/such/folder/out.csv"), 1, "cannot be written"),
            (("--outcome", "eaten"), 2, "'eaten'"),
        ],
    )
    def test_wrong_orders_leave_no_file(
        self,
        run: Run,
        send_id: uuid.UUID,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        code: int,
        says: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        before = set(tmp_path.iterdir())
        assert says in run("export", str(send_id), *arguments, code=code).stderr
        assert set(tmp_path.iterdir()) == before

    def test_a_reader_that_had_enough_is_no_error(self, world: World, send_id: uuid.UUID) -> None:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m pushq export {send_id} | head -n 1"],
            env=os.environ | {"PUSHQ_DATABASE_URL": world.database.url.reveal()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("send_id,batch_no,position")


class TestPython:
    """The same with an open database, with settings, and from the environment."""

    def test_a_send_is_steered(self, world: World, send_id: uuid.UUID, tmp_path: Path) -> None:
        database = world.database
        assert control.pause(send_id, database=database) == control.Change(send_id, True, "paused")
        assert control.pause(str(send_id), database=database) == control.Change(send_id, False, "paused")
        assert control.resume(send_id, database=database).state == "sending"
        assert control.set_rate(send_id, 50, database=database).changed
        assert control.progress(send_id, database=database).rate == 50
        assert [row["id"] for row in control.sends(5, database=database)] == [send_id]
        assert control.cancel(send_id, database=database).state == "cancelled"
        assert control.replay(send_id, ["cancelled"], dry_run=True, database=database).recipients == 30
        stream = io.BytesIO()
        assert control.export(send_id, stream, format="parquet", database=database) == 30
        assert stream.getvalue()[:4] == b"PAR1"
        assert control.export(send_id, str(tmp_path / "all.csv"), database=database) == 30

    def test_by_settings_or_environment(
        self, world: World, send_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = world.database.url.reveal()
        assert control.progress(send_id, settings=Settings(database_url=ServiceUrl(url))).state == "sending"
        monkeypatch.setenv("PUSHQ_DATABASE_URL", url)
        assert control.pause(send_id).changed

    def test_wrong_arguments_are_named(self, world: World) -> None:
        database = world.database
        calls: list[tuple[str, Callable[[], object]]] = [
            ("send_id", lambda: control.pause("promo-42", database=database)),
            ("rate", lambda: control.set_rate(NOBODY, 0, database=database)),
            ("outcome", lambda: control.replay(NOBODY, ["accepted"], database=database)),
            ("outcome", lambda: control.export(NOBODY, io.BytesIO(), outcomes=["eaten"], database=database)),
            ("format", lambda: control.export(NOBODY, io.BytesIO(), format="xml", database=database)),
            ("limit", lambda: control.sends(0, database=database)),
        ]
        for field, call in calls:
            with pytest.raises(InvalidRequest) as refused:
                call()
            assert refused.value.field == field
        with pytest.raises(control.UnknownSend):
            control.export(NOBODY, io.BytesIO(), database=database)
