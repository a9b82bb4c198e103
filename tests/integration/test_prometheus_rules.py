"""The alerts are rules that Prometheus takes, fire when they should, and are told to people in a way that helps."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pushq import metrics
from pushq.providers.answers import Effect
from pushq.providers.apns import responses as apns
from pushq.providers.fcm import responses as fcm
from pushq.providers.hms import responses as hms
from tests.services.prometheus import find_promtool, shortened
from tests.services.promql import metric_names, series_in

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "rules" / "pushq.yml"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})
CASES = yaml.safe_load((FOLDER / "tests" / "pushq_test.yml").read_text())["tests"]


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [find_promtool(), *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_configuration_and_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", RULES)


def test_every_case_of_the_rules_holds() -> None:
    assert "SUCCESS" in promtool("test", "rules", "tests/pushq_test.yml")


def test_the_rules_can_be_shortened(tmp_path: Path) -> None:
    text = shortened(RULES.read_text(), 20)
    (tmp_path / "short.yml").write_text(text)
    promtool("check", "rules", tmp_path / "short.yml")
    short = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    assert [rule["for"] for rule in short if rule.get("alert") == "PushqDeliveryRateLow"] == ["6s"]
    assert len(short) == sum(len(group["rules"]) for group in GROUPS)


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_case_in_which_it_fires(name: str) -> None:
    assert any(f'alertname="{name}"' in sample["labels"] for sample in _expected())


def _expected() -> list[dict[str, Any]]:
    return [
        sample
        for case in CASES
        for question in case.get("promql_expr_test", ())
        for sample in question["exp_samples"]
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_says_what_it_means_and_has_a_paragraph_in_the_runbook(name: str) -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert name in headings
    for rule in (rule for rule in ALERTS if rule["alert"] == name):
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_the_runbook_has_no_paragraph_of_an_alert_that_is_not_there() -> None:
    headings = re.findall(r"^### (Pushq\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(headings) == NAMES


def test_the_rules_ask_only_for_metrics_that_there_are() -> None:
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    known = metric_names() | recorded
    for rule in (rule for group in GROUPS for rule in group["rules"]):
        assert series_in(rule["expr"]) <= known, rule


def test_all_refusals_of_a_set_up_raise_the_alert() -> None:
    """A reason that a provider's table calls a fault of the configuration must not be missing in the rule, and no other be in it."""
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "PushqSetupRefused"]
    patterns = dict(re.findall(r'(\w+)_errors_total{\w+=~"([^"]*)"', rule["expr"]))
    tables: dict[str, set[tuple[str, Effect | None]]] = {
        "apns": {(word, row.effect) for (_, word), row in apns.RULES.items()},
        "fcm": {(word or f"status_{status}", row.effect) for (status, word), row in fcm.RULES.items()},
        "hms": {(word, _effect_of_hms(word)) for word in hms.REASONS},
    }
    assert patterns.keys() == tables.keys()
    for platform, table in tables.items():
        found = {row for row in table if re.fullmatch(patterns[platform], row[0])}
        assert found == {row for row in table if row[1] is Effect.CONFIGURATION}, platform


def _effect_of_hms(reason: str) -> Effect | None:
    """Of what is said about whole requests; about single tokens, the others went out all the same."""
    code, _, cause = reason.partition("_")
    if code == "status":
        return hms.BY_STATUS[int(cause)].effect
    if code in hms.RULES:
        return (
            Effect.CONFIGURATION
            if code == hms.ALL_INVALID and cause in hms.SETUP_CAUSES
            else hms.RULES[code].effect
        )
    return None


def test_every_hold_that_no_answer_speaks_of_raises_it_as_well() -> None:
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "PushqSetupRefused"]
    (causes,) = re.findall(r'cause=~"([^"]*)"', rule["expr"])
    # Of the others, the answers or PushqMassInvalidationHeld tell.
    assert set(causes.split("|")) == set(metrics.HOLDS) - {"setup", "tokens"}
