"""docs/logs.md lists every event that the code logs, with its level, and nothing else; and the names keep to the rules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushq import logs

ROOT = Path(__file__).resolve().parents[2]
#: Of the methods of a logger, as the page names them. ``log`` takes a level that the code chooses.
LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")} | {
    "exception": "error",
    "log": "varies",
}
LOGGERS = {"log", "_log", "logger"}
#: Fields that would hide one of the line's own.
TAKEN = {"time", "level", "logger", "event", "role", "pid", "traceback", "message"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a logger in the package: where it stands, and the call."""
    for path in sorted((ROOT / "pushq").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in LOGGERS
            ):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def logged() -> set[tuple[str, str]]:
    """(event, level) of all calls."""
    found = {(logs.LIBRARY, "any")}
    for where, call in calls():
        name = call.args[-1]
        assert isinstance(name, ast.Constant), f"{where}: an event's name is a constant"
        assert isinstance(call.func, ast.Attribute)
        found.add((str(name.value), LEVELS[call.func.attr]))
    return found


def documented() -> set[tuple[str, str]]:
    """(event, level) of the tables in docs/logs.md."""
    page = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| ([a-z, ]+) \| [^|]+\S[^|]* \|$", page, re.MULTILINE)
    return {(event, level) for event, levels in rows for level in levels.split(", ")}


def test_the_page_lists_what_the_code_logs() -> None:
    assert len(logged()) > 50, "the search finds the calls"
    code, page = logged(), documented()
    assert page == code, (
        f"missing in docs/logs.md: {sorted(code - page)}; not in the code: {sorted(page - code)}"
    )


def test_one_name_is_one_fact() -> None:
    """A name in two modules would be two facts, or one that is told twice."""
    modules: dict[str, set[str]] = {}
    for where, call in calls():
        assert isinstance(call.args[-1], ast.Constant)
        modules.setdefault(str(call.args[-1].value), set()).add(where.partition(":")[0])
    assert {name: found for name, found in modules.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("where", "call"), list(calls()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_names_are_snake_case_and_fields_hide_nothing(where: str, call: ast.Call) -> None:
    *level, name = call.args
    assert isinstance(call.func, ast.Attribute)
    assert len(level) == (call.func.attr == "log"), f"{where}: nothing is formatted into an event's name"
    assert isinstance(name, ast.Constant), where
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", str(name.value)), where
    for keyword in call.keywords:
        assert keyword.arg in ("extra", "exc_info"), where
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
            fields = {key.value for key in keyword.value.keys if isinstance(key, ast.Constant)}
            assert not fields & TAKEN, where
