"""The Grafana dashboard as data: its panels and what they ask Prometheus."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards" / "pushq.json"
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|([a-zA-Z_]\w*))")


@dataclass(frozen=True)
class Query:
    """One query of a panel, or of the annotations (then ``panel`` is their name)."""

    panel: str
    ref: str
    expression: str

    def filled_in(self, seconds: int) -> str:
        """As Grafana would ask it with everything chosen, for a time range and a rate interval of so many seconds.

        Raises:
            KeyError: it uses a variable that the dashboard does not have.
        """
        values = {name: ".*" for name in variables() if name != "datasource"}
        values |= {"__rate_interval": f"{seconds}s", "__range": f"{seconds}s", "__interval": f"{seconds}s"}
        return _VARIABLE.sub(lambda match: values[match[1] or match[2]], self.expression)


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(PATH.read_text())
    return document


def panels() -> list[dict[str, Any]]:
    """Every panel but the headings, those of folded rows included."""
    found = []
    for panel in dashboard()["panels"]:
        found += [inner for inner in (panel, *panel.get("panels", ())) if inner["type"] != "row"]
    return found


def variables() -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard()["templating"]["list"]}


def queries() -> list[Query]:
    """What all panels ask, and the annotations."""
    of_panels = [
        Query(panel["title"], target["refId"], target["expr"])
        for panel in panels()
        for target in panel["targets"]
    ]
    annotations = [each for each in dashboard()["annotations"]["list"] if "expr" in each]
    return [*of_panels, *(Query(each["name"], "A", each["expr"]) for each in annotations)]
