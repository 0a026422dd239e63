"""deploy/monitoring: the alerts, and the dashboard, against what a real run is scraped for."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.dashboard import Panel, panels
from tests.support.origin import Echo, Origin
from tests.support.prometheus import PROGRAM, TOOL, Prometheus
from tests.support.proxy import Metrics
from tests.support.storm import SLOTS, Storm

from .test_fleet import fleet

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "monitoring"
RULES = [FOLDER / "recording.yml", FOLDER / "alerts.yml"]
TESTS = FOLDER / "tests" / "alerts_test.yml"
RUNBOOK = ROOT / "docs" / "runbook.md"

needs_promtool = pytest.mark.skipif(TOOL is None, reason="needs promtool (Debian: prometheus)")
needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="needs Prometheus (Debian: prometheus)")


def loaded(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in loaded(path)["groups"] for rule in group["rules"]]


ALERTS = rules(RULES[1])
RECORDED = {rule["record"] for rule in rules(RULES[0])}
EXPRESSIONS = [rule["expr"] for path in RULES for rule in rules(path)]


# -- alerts ------------------------------------------------------------------------------------------------------


@needs_promtool
@pytest.mark.parametrize("arguments", [("check", "rules", *RULES), ("test", "rules", TESTS)], ids=["rules", "tests"])
def test_promtool_is_content(arguments: tuple[str | Path, ...]) -> None:
    assert TOOL is not None
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_to_fire_and_not_to_fire() -> None:
    tested: dict[bool, set[str]] = {True: set(), False: set()}
    for one in loaded(TESTS)["tests"]:
        for looked in one["alert_rule_test"]:
            tested[bool(looked["exp_alerts"])].add(looked["alertname"])
    assert tested[True] == tested[False] == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_has_its_place_in_the_runbook(alert: dict[str, Any]) -> None:
    """With what it means, what to look at, and what to do."""
    name, annotations = alert["alert"], alert["annotations"]
    assert annotations["runbook_url"].endswith(f"/docs/runbook.md#{name.lower()}")
    assert annotations["summary"]
    assert annotations["description"]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    (section,) = re.findall(rf"^## {name}$(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert part in section


def test_the_runbook_is_about_alerts_that_there_are() -> None:
    sections = re.findall(r"^## (CacheProxy\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == [alert["alert"] for alert in ALERTS]


# -- a real run --------------------------------------------------------------------------------------------------


class Run:
    """A storm that has been scraped."""

    def __init__(self, prometheus: Prometheus, scrapes: list[Metrics]) -> None:
        self.prometheus = prometheus
        self.labels: dict[str, dict[str, set[str]]] = {}
        """Of each series' name: the values of its labels."""
        for name, labels, _ in itertools.chain(*(scrape.samples for scrape in scrapes)):
            known = self.labels.setdefault(name, {})
            for label, value in labels.items():
                known.setdefault(label, set()).add(value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("monitored")
    shared = folder / "shared"
    shared.mkdir()
    options = {"origin_max_in_flight": SLOTS, "cache_shared": f"file://{shared}"}
    with Origin() as origin, Echo() as echo, fleet(folder, 2, **options) as nodes:
        targets = {f"cache-{number}": node.metrics_address for number, node in enumerate(nodes)}
        with Prometheus(folder / "prometheus", targets, RULES) as prometheus:
            prometheus.wait_for("count(cache_proxy_build_info) == 2")  # what has no value before has no rate
            storm = Storm(nodes, origin, echo)
            for _ in range(2):  # a rate needs two scrapes, also of a label that the first wave has brought
                storm.wave()
                settled = [node.settled() for node in nodes]
                for metrics, instance in zip(settled, targets, strict=True):
                    served = metrics.value("request_duration_seconds_count")
                    prometheus.wait_for(
                        f'sum(cache_proxy_request_duration_seconds_count{{instance="{instance}"}}) == {served:.0f}'
                    )
            yield Run(prometheus, settled)


PANELS = panels(FOLDER / "dashboard.json")


@needs_prometheus
def test_each_query_of_the_dashboard_returns_data(run: Run) -> None:
    without = []
    for panel in PANELS:
        for query in panel.queries:
            values = [float(series["value"][1]) for series in run.prometheus.query(query.expression("10m"))]
            if not any(map(math.isfinite, values)):
                without.append((panel.title, query.text, values))
    assert not without


@needs_prometheus
def test_the_variables_of_the_dashboard_have_values(run: Run) -> None:
    assert {tuple(sorted(series["metric"].items())) for series in run.prometheus.query(
        "count by (job, instance) (cache_proxy_build_info)"
    )} == {(("instance", f"cache-{number}"), ("job", "proxy-cache")) for number in range(2)}  # fmt: skip
    queried = {variable["name"]: variable["query"] for variable in dashboard()["templating"]["list"]}
    assert queried["datasource"] == "prometheus"
    assert queried["job"]["query"] == "label_values(cache_proxy_build_info, job)"
    assert queried["instance"]["query"] == 'label_values(cache_proxy_build_info{job=~"$job"}, instance)'


@needs_prometheus
def test_prometheus_evaluates_all_rules(run: Run) -> None:
    found = [rule for group in run.prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert len(found) == len(EXPRESSIONS)
    assert {rule["health"] for rule in found} <= {"ok", "unknown"}  # unknown: not yet
    assert not [rule["name"] for rule in found if rule.get("lastError")]


@needs_prometheus
def test_all_metrics_and_labels_that_are_named_are_scraped(run: Run) -> None:
    wrong = []
    queries = [query.expression("5m") for panel in PANELS for query in panel.queries]
    for expression in (*queries, *EXPRESSIONS):
        named = list(selectors(expression))
        assert named, expression
        for name, matchers in named:
            if name in FROM_PROMETHEUS or name in RECORDED:
                continue
            known = run.labels.get(name)
            if known is None:
                wrong.append(f"no {name}: {expression}")
                continue
            for label, value in matchers:
                if label in ("job", "instance"):
                    continue
                wrong += [
                    f"no {label}={one} of {name}" for one in value.split("|") if one not in known.get(label, set())
                ]
        for label in grouped_by(expression):
            if label not in FROM_TARGETS and not any(label in run.labels.get(name, {}) for name, _ in named):
                wrong.append(f"no label {label}: {expression}")
    assert not wrong


FROM_PROMETHEUS = {"up"}
FROM_TARGETS = {"job", "instance"}
"""Labels that Prometheus adds."""


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The names of series in a query, each with its matchers."""
    for name, matchers in re.findall(
        r"\b((?:cache_proxy|process|instance:)\w+(?::\w+)*|up)\b(?:\{(.*?)\})?", expression
    ):
        yield name, [(label, value) for label, value in re.findall(r'(\w+)[=!]~?"(.*?)"', matchers)]


def grouped_by(expression: str) -> set[str]:
    return set(itertools.chain(*(re.findall(r"\w+", by) for by in re.findall(r"\bby \((.*?)\)", expression))))


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def test_the_dashboard_has_its_rows_and_no_panel_lies_on_another() -> None:
    shown = dashboard()["panels"]
    rows = [panel["title"] for panel in shown if panel["type"] == "row"]
    assert rows == [
        "Traffic", "Hits and bytes saved", "Origin protection", "Latency", "Store", "Peers and the shared store",
        "Errors and the process",
    ]  # fmt: skip
    assert len({panel["id"] for panel in shown}) == len(shown)
    taken: set[tuple[int, int]] = set()
    for panel in shown:
        place = panel["gridPos"]
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
            )
        )  # fmt: skip
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_all_queries_go_by_the_variables() -> None:
    for panel in PANELS:
        for query in panel.queries:
            selected = [matchers for _, matchers in selectors(query.text)]
            assert all({"job", "instance"} <= dict(matchers).keys() for matchers in selected), query.text
            assert '$job"' in query.text


def test_a_panel_names_its_unit_and_its_source() -> None:
    assert all(isinstance(panel, Panel) and panel.unit and panel.is_from_variable for panel in PANELS)
