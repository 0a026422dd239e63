"""The documents keep up with the code: options and metrics are listed as they are, and links lead somewhere."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.metrics import MetricWrapperBase
from ruamel.yaml import YAML

from benchmarks.report import END, START, Cell, Conditions, Row, for_readme, write_readme
from proxy_cache.mitm import access_values
from proxy_cache.mitm.options import OPTIONS
from proxy_cache.observe.histograms import PlainHistogram
from proxy_cache.observe.metrics import NOT_STORED, PREFIX, Metrics
from proxy_cache.workers.exposition import OWN
from tests.support.proxy import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
OPERATING = ROOT / "docs" / "operating.md"
ACCESS_LOG = ROOT / "docs" / "access-log.md"


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level, with its subsections."""
    _, found, rest = text.partition(f"\n## {title}\n")
    assert found, f"no section {title!r}"
    return rest.partition("\n## ")[0]


def rows(text: str, head: str) -> list[list[str]]:
    """The rows of all tables whose first column has this head, cell by cell."""
    found, is_inside = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            is_inside = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[0] == head:
            is_inside = True
        elif is_inside and set(line) - set("|-: "):
            found.append(cells)
    return found


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# -- options ---------------------------------------------------------------------------------------------------


def shown_default(default: object) -> str:
    """A default as it would be given to ``--set``, or none."""
    if default in ("", []):
        return "none"
    if isinstance(default, list):
        default = ",".join(default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_option_is_listed_once_with_its_default() -> None:
    """What may stand behind a default: in brackets what it means, and what none means after a colon."""
    listed = rows(section(OPERATING.read_text(), "Options"), "option")
    assert all(len(row) == 3 and row[2] for row in listed)
    found = [(name.strip("`"), re.sub(r" \(.*\)$|: .*$", "", default)) for name, default, _ in listed]
    assert sorted(found) == sorted((name, shown_default(default)) for name, _, default, _ in OPTIONS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_of_rules_of_access_are_taken(document: Path) -> None:
    """As they stand in config.yaml, where quotes within a text belong to it."""
    for block in re.findall(r"^```yaml\n(.*?)^```$", document.read_text(), flags=re.MULTILINE | re.DOTALL):
        if "access_" in block:
            values = {"access_destinations": [], "access_connect_ports": [], "access_clients": [], "mode": ["regular"]}
            options = SimpleNamespace(**values | YAML(typ="safe").load(block))
            assert access_values.destinations(options).rules or access_values.clients(options)


# -- metrics ---------------------------------------------------------------------------------------------------


def metrics() -> dict[str, MetricWrapperBase | PlainHistogram]:
    """All that the proxy counts by itself, by their names without the prefix, as a scraper sees them."""
    found = {}
    for one in vars(Metrics()).values():
        if isinstance(one, PlainHistogram) or (isinstance(one, MetricWrapperBase) and not one._labelvalues):
            (family,) = one.describe()
            ending = "_total" if family.type == "counter" else ""
            found[family.name.removeprefix(f"{PREFIX}_") + ending] = one
    return found


def labels_of(metric: MetricWrapperBase | PlainHistogram) -> list[str]:
    return list(metric.label_names if isinstance(metric, PlainHistogram) else metric._labelnames)


def type_of(metric: MetricWrapperBase | PlainHistogram) -> str:
    (family,) = metric.describe()
    return family.type


def listed_metrics() -> list[list[str]]:
    return rows(section(OPERATING.read_text(), "Metrics"), "metric")


def test_every_metric_is_listed_once_with_its_type_and_labels() -> None:
    listed = listed_metrics()
    assert all(len(row) == 4 and row[3] for row in listed)
    found = [(name.strip("`"), kind, in_backticks(labels)) for name, kind, labels, _ in listed]
    there = [(name, type_of(one), labels_of(one)) for name, one in metrics().items()]
    assert sorted(found) == sorted(there)


def test_no_metric_is_unlisted_because_it_is_kept_elsewhere() -> None:
    """What is scraped is what was looked at above."""
    scraped = {family.name for family in Metrics().registry.collect() if family.name.startswith(PREFIX)}
    assert scraped == {f"{PREFIX}_{name.removesuffix('_total')}" for name in metrics()}


def values_from_the_start() -> Iterator[tuple[str, str]]:
    """Metrics, and the values of their labels that are there before anything has happened."""
    for name, one in metrics().items():
        if not labels_of(one):
            continue
        (family,) = one.collect()
        values = {sample.labels[label] for sample in family.samples for label in labels_of(one)}
        yield from ((name, value) for value in sorted(values))


def test_the_values_of_labels_are_told() -> None:
    meanings = {row[0].strip("`"): row[3] for row in listed_metrics()}
    untold = [
        (name, value)
        for name, value in values_from_the_start()
        if value not in in_backticks(meanings[name]) and name != "origin_responses_not_stored_total"
    ]
    assert not untold


def test_every_reason_for_not_storing_is_told() -> None:
    listed = rows(section(ACCESS_LOG.read_text(), "Why responses are not stored"), "reason")
    assert sorted(reason for row in listed for reason in in_backticks(row[0])) == sorted(NOT_STORED)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_looks_like_a_metric_is_one(document: Path) -> None:
    """In examples and alerts, too."""
    known = {f"{PREFIX}_{name}" for name in metrics()}
    known |= {f"{name}_total" if kind == "counter" else name for name, (kind, _) in OWN.items()}
    series = re.findall(rf"\b({PREFIX}_[a-z_]+[a-z])\b", document.read_text())
    assert [one for one in series if re.sub(r"_(count|sum|bucket)$", "", one) not in known] == []


# -- links -----------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Without code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#{1,6} +(.+?) *$", prose(text), flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = (f"{anchor}-{number}" for number in range(1, 100))
        found.add(anchor if anchor not in found else next(one for one in again if one not in found))
    return found


def dead_links(document: Path) -> list[str]:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        page = (document.parent / name).resolve() if name else document
        if not page.exists() or (anchor and anchor not in anchors(page.read_text())):
            dead.append(target)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    assert not dead_links(document)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One\n## What `it` is, and why\n## One\n```\n## Code\n```\n")
    page.write_text(
        "[a](other.md) [b](other.md#what-it-is-and-why) [c](#here) [d](other.md#one-1) [e](https://example.com/x#y)\n"
        "[f](gone.md) [g](other.md#code) [h](other.md#one-2) [i](#there)\n## Here\n```\n[j](gone-too.md)\n```\n"
    )
    assert dead_links(page) == ["gone.md", "other.md#code", "other.md#one-2", "#there"]


# -- files and functions ---------------------------------------------------------------------------------------

NAMED = re.compile(r"`([\w./-]+\.py)(?::([\w.]+)(?:\(\))?)?`")
"""``store/index.py``, or ``store/index.py:Index.add``. The beginning of a path may be left out."""
METHOD = re.compile(r"`([A-Z]\w*[a-z]\w*\.[a-z_]\w*)`")
"""``Index.add``, of any file."""
SOURCES = [
    path for folder in ("addons", "benchmarks", "proxy_cache", "tests") for path in (ROOT / folder).rglob("*.py")
]


@functools.cache
def defined_in(path: Path) -> frozenset[str]:
    """Functions, constants, classes and their methods (``Class.method``)."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        found.update(names_of(node))
        if isinstance(node, ast.ClassDef):
            found.update(f"{node.name}.{name}" for inner in node.body for name in names_of(inner))
    return frozenset(found)


def names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def names_of_nothing(text: str, *, methods: bool = False) -> list[str]:
    """Files, and names in them, that don't exist. ``methods``: also those that are named without a file."""
    wrong = []
    for path, name in NAMED.findall(text):
        found = [source for source in SOURCES if f"/{source.relative_to(ROOT)}".endswith(f"/{path}")]
        if not found or (name and not any(name in defined_in(source) for source in found)):
            wrong.append(f"{path}:{name}" if name else path)
    if methods:
        wrong += [name for name in METHOD.findall(text) if not any(name in defined_in(source) for source in SOURCES)]
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_that_are_named_exist(document: Path) -> None:
    assert not names_of_nothing(document.read_text(), methods=document.name == "CONTRIBUTING.md")


def test_a_name_of_something_gone_is_found() -> None:
    text = "`store/index.py:Index.add` `index.py:Index.gone()` `store/gone.py` `observe/metrics.py:NOT_STORED` `ex.py`"
    assert names_of_nothing(text) == ["index.py:Index.gone", "store/gone.py", "ex.py"]
    assert names_of_nothing("`Index.add` `Index.gone` `Release.gpg`") == []
    assert names_of_nothing("`Index.add` `Index.gone`", methods=True) == ["Index.gone"]


# -- the benchmark's table -------------------------------------------------------------------------------------


def test_the_benchmark_puts_its_table_into_the_readme(tmp_path: Path) -> None:
    """In the place of the one that is there, which looks like it: the same kinds of requests, and sizes as columns."""
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    ours, others = Cell([20_000.0]), Cell([1_000.0])
    measured: list[Row] = [
        (
            f"{kind}, {size}",
            {"ours": ours} if kind == "range hit" else {"ours": ours, "textbook": others, "plain": others},
        )
        for kind in ("hit", "range hit", "miss")
        for size in ("1 kB", "10 kB", "100 kB", "1 MB")
    ]
    write_readme(readme, for_readme(measured, Conditions(runs=3, seconds=4, cores=2, command="just bench")))
    before, after = (ROOT / "README.md").read_text(), readme.read_text()
    assert rows(after, "requests per second")[0] == ["hit", *["20 000"] * 4]
    assert {row[0] for row in rows(after, "requests per second")} <= {
        row[0] for row in rows(before, "requests per second")
    }
    for text in (before, after):
        assert text.count(START) == text.count(END) == 1
    assert [before.partition(START)[0], before.partition(END)[2]] == [
        after.partition(START)[0],
        after.partition(END)[2],
    ]
