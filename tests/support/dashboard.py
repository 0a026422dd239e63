"""The panels of a Grafana dashboard, as far as their queries go."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLES = {"$job": ".*", "$instance": ".*"}


@dataclass(frozen=True, slots=True)
class Query:
    text: str
    legend: str

    def expression(self, interval: str) -> str:
        """As Grafana sends it with all jobs and instances chosen. ``interval``: of rates."""
        text = self.text.replace("$__rate_interval", interval)
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        assert "$" not in text
        return text

    def label(self, metric: dict[str, str]) -> str:
        text = self.legend
        for name, value in metric.items():
            text = text.replace("{{" + name + "}}", value)
        return text


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    kind: str
    """``timeseries`` or ``stat``."""
    row: str
    """The title of the row that it is in; empty before the first one."""
    unit: str
    is_stacked: bool
    is_from_variable: bool
    """Whether all of it comes from the data source that is chosen above."""
    place: dict[str, int]
    queries: tuple[Query, ...]


def panels(file: Path) -> list[Panel]:
    """Those of a dashboard, without its rows."""
    found, row = [], ""
    for panel in json.loads(file.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        defaults: dict[str, Any] = panel["fieldConfig"]["defaults"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        found.append(
            Panel(
                panel["title"], panel["type"], row, defaults["unit"],
                defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal",
                all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources),
                panel["gridPos"],
                tuple(Query(target["expr"], target["legendFormat"]) for target in panel["targets"]),
            )
        )  # fmt: skip
    return found
