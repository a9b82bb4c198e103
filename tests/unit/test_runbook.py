"""What the runbook tells people to type, to read and to look at is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from pushq.cli.root import cli
from tests.services.dashboard import panels

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "runbook.md").read_text()
ID = "0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c"
COMMANDS = sorted(
    {
        line
        for block in re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    }
    | {f"pushq {words}" for words in re.findall(r"`pushq ([a-z][^`]*)`", TEXT)}
)
SOURCE = "\n".join(path.read_text() for path in (ROOT / "pushq").rglob("*.py"))


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_of_pushq(line: str) -> None:
    program, *arguments = shlex.split(line.replace("ID", ID))
    assert program == "pushq"
    context = click.Context(cli, info_name="pushq")
    group: click.Command = cli
    while isinstance(group, click.Group) and arguments:
        name, command, arguments = group.resolve_command(context, arguments)
        assert command is not None
        group, context = command, click.Context(command, parent=context, info_name=name)
    if arguments:  # `pushq show` in a sentence is the command's name
        group.make_context(group.name, arguments)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10


def test_every_log_event_is_one_that_is_logged() -> None:
    """Words with an underscore, in backticks and in a sentence that speaks of a log."""
    events = {
        word
        for sentence in re.split(r"(?<=[.?;:])\s|\n\n", TEXT)
        if re.search(r"\blogs?\b", sentence)
        for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", sentence)
    }
    assert len(events) > 10
    reasons = {"tls_verify_failed", "proxy_unreachable", "local_share"}
    assert {event for event in events - reasons if f'"{event}"' not in SOURCE} == set()


def test_every_panel_that_it_names_is_on_the_dashboard() -> None:
    titles = {panel["title"] for panel in panels()}
    named = set(re.findall(r'"([A-Z][^"]+)"', TEXT.replace("\n", " "))) - {"The guard of the tokens"}
    assert named
    assert named <= titles
    top = re.findall(r"^\| ([A-Z][^|]*?) \|", TEXT, re.MULTILINE)
    assert top
    assert set(top) <= titles


def test_every_case_of_the_chaos_suite_is_in_it() -> None:
    table = (ROOT / "docs" / "chaos.md").read_text()
    cases = set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE))
    assert len(cases) == 18
    covered = {
        number
        for paragraph in re.findall(r"^Chaos (.*?)(?:\n\n|\*\*See)", TEXT, re.MULTILINE | re.DOTALL)
        for number in re.findall(r"(?:^|[\s,(])(\d+)[a-e]?\b", paragraph)
    }
    assert cases <= covered


def test_every_link_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / "docs" / path).is_file(), target
        assert path or anchor in anchors, target
