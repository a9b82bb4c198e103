"""The Grafana dashboard is one that Grafana can show, and asks for metrics that there are."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.services.dashboard import PATH, Query, dashboard, panels, queries, variables
from tests.services.promql import metric_names, series_in

ROOT = Path(__file__).resolve().parents[2]
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
#: Ids from Grafana's list of units (its package data, valueFormats/categories.ts) that the dashboard uses.
UNITS = {"none", "short", "percentunit", "s", "dtdurations", "bytes", "cps"}
KINDS = {"stat", "bargauge", "table", "timeseries", "state-timeline"}
WIDTH = 24


def every() -> list[dict[str, Any]]:
    return [*panels(), *(panel for panel in dashboard()["panels"] if panel["type"] == "row")]


def names() -> list[str]:
    return [f"{panel['id']} {panel['title']}" for panel in panels()]


def test_ids_and_titles_are_unique() -> None:
    for key in ("id", "title"):
        found = [panel[key] for panel in every()]
        assert len(set(found)) == len(found), key
    assert dashboard()["uid"] == "pushq"
    assert (
        "id" not in dashboard()
    )  # the number of one installation's database: with it, provisioning overwrites another one


def test_panels_stand_on_the_grid_and_do_not_overlap() -> None:
    for panel in every():
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= WIDTH, panel["title"]
        assert at["h"] > 0
    for one, other in combinations(every(), 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], other["title"])


def test_the_top_answers_a_strangers_questions() -> None:
    top = [panel["title"] for panel in panels() if panel["gridPos"]["y"] == 0]
    assert top == ["Is it up?", "Alerts", "How fast?", "What fails, and why", "Until done"]
    covered = sum(
        panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels() if panel["gridPos"]["y"] < 8
    )
    assert covered == WIDTH * 8


@pytest.mark.parametrize("panel", panels(), ids=names())
def test_every_panel_is_complete(panel: dict[str, Any]) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["type"] in KINDS
    assert panel["datasource"] == chosen
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    for override in panel["fieldConfig"]["overrides"]:
        assert {each["value"] for each in override["properties"] if each["id"] == "unit"} <= UNITS
    targets = panel["targets"]
    assert targets
    assert len({target["refId"] for target in targets}) == len(targets)
    for target in targets:
        assert target["datasource"] == chosen
        assert target["instant"] is not target["range"]
        # Labels of a legend must be left over by the expression.
        for label in re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]):
            assert re.search(rf'\bby \([^)]*\b{label}\b|"{label}"', target["expr"]), (label, target["expr"])


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.panel} {query.ref}")
def test_every_query_asks_for_metrics_that_there_are(query: Query) -> None:
    series = series_in(query.filled_in(60))
    assert series
    assert series <= metric_names() | {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def test_the_variables_are_a_datasource_an_app_and_a_platform() -> None:
    assert {name: variable["type"] for name, variable in variables().items()} == {
        "datasource": "datasource",
        "app": "query",
        "platform": "query",
    }
    assert variables()["datasource"]["query"] == "prometheus"


def test_provisioning_finds_datasource_and_dashboard() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == (
        "prometheus",
        "http://prometheus:9090",
        True,
    )
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "pushq.yml").read_text())["providers"]
    mounted = f"./{PATH.parent.relative_to(ROOT)}:{provider['options']['path']}:ro"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert mounted in compose["services"]["grafana"]["volumes"]


def test_the_scrape_interval_is_the_same_everywhere() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
