"""The measurements as Markdown, and their place in the README."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START, END = "<!-- bench:start -->", "<!-- bench:end -->"


@dataclass(slots=True)
class Cell:
    """One contender at one kind of request and one size."""

    rates: list[float] = field(default_factory=list)
    """Requests per second, one number a run."""
    troubles: list[str] = field(default_factory=list)
    pairs: list[float] = field(default_factory=list)
    """Rates by those of another run right before or after, where the two are to be compared closely."""

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


Row = tuple[str, Mapping[str, Cell]]
"""What was asked for ("hit, 1 kB"), and the contenders' cells."""


def _number(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.0f}".replace(",", " ") if rate >= 100 else f"{rate:.1f}"


def _ratio(above: float | None, below: float | None) -> str:
    return f"{above / below:.2f}" if above and below else "–"


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| requests/s | this proxy | textbook addon | plain mitmdump | this / textbook | this / plain |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, cells in rows:
        ours, textbook, plain = (
            cells[contender].rate if contender in cells else None for contender in ("ours", "textbook", "plain")
        )
        columns = [name, _number(ours), _number(textbook), _number(plain), _ratio(ours, textbook), _ratio(ours, plain)]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


README_LINES = (
    ("hit", "ours", "hit"),
    ("hit", "textbook", "hit, mitmproxy with a simple cache addon"),
    ("hits with five rules", "ours", "hit, with five rules set"),
    ("range hit", "ours", "range hit: that much of a bigger file"),
    ("miss", "ours", "miss"),
    ("miss", "textbook", "miss, mitmproxy with a simple cache addon"),
    ("miss", "plain", "mitmproxy without a cache"),
)
"""What of the measurements stands in the README: kind of request, contender, and how a reader is told."""


def readme_table(rows: Sequence[Row]) -> str:
    """A line for each kind and contender, a column for each size: to be read without an explanation."""
    rates: dict[tuple[str, str, str], float] = {}
    for name, cells in rows:
        kind, _, size = name.partition(", ")
        rates |= {(kind, contender, size): cell.rate for contender, cell in cells.items()}
    sizes = list(dict.fromkeys(size for _, _, size in rates))
    lines = [f"| requests per second | {' | '.join(sizes)} |", f"|---|{'---:|' * len(sizes)}"]
    for kind, contender, told in README_LINES:
        numbers = [_number(rates.get((kind, contender, size))) for size in sizes]
        if any((kind, contender, size) in rates for size in sizes):
            lines.append(f"| {told} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def range_ratios(rows: Sequence[Row]) -> str:
    """Range hits to whole hits of the same size, by this proxy."""
    rates = {name: cells["ours"].rate for name, cells in rows if "ours" in cells}
    ratios = [
        f"{_ratio(rate, rates.get(name.removeprefix('range ')))} ({name.partition(', ')[2]})"
        for name, rate in rates.items()
        if name.startswith("range ")
    ]
    return f"Range hits to whole hits of the same size: {', '.join(ratios)}." if ratios else ""


def rule_ratios(rows: Sequence[Row]) -> str:
    """Hits with rules to hits without, by this proxy: the median of pairs of neighbouring runs."""
    ratios = [
        f"{statistics.median(cells['ours'].pairs):.2f} ({name.partition(', ')[2]})"
        for name, cells in rows
        if "ours" in cells and cells["ours"].pairs
    ]
    return f"Hits with five rules to hits without any: {', '.join(ratios)}." if ratios else ""


def troubles(rows: Sequence[Row]) -> list[str]:
    return [
        f"{contender}, {name}: {trouble}"
        for name, cells in rows
        for contender, cell in cells.items()
        for trouble in cell.troubles
    ]


def machine() -> str:
    """The CPU's name."""
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1].strip() if match else platform.machine()


@dataclass(frozen=True, slots=True)
class Conditions:
    """How it was measured."""

    runs: int
    seconds: int
    cores: int
    command: str

    def __str__(self) -> str:
        pinned = "the proxy on one core, nginx and wrk on another" if self.cores > 1 else "everything on one core"
        many = self.runs > 1
        times = f"Medians of {self.runs} runs of {self.seconds} s" if many else f"One run of {self.seconds} s"
        return (
            f"{times}, 32 connections, {pinned}: `{self.command}`, {datetime.date.today().isoformat()}, "
            f"Python {platform.python_version()}, mitmproxy {importlib.metadata.version('mitmproxy')}, "
            f"{self.cores} {'core' if self.cores == 1 else 'cores'} of {machine()}."
        )


def markdown(rows: Sequence[Row], conditions: Conditions) -> str:
    """All of it, with what whoever measures needs to judge it."""
    return _parts(str(conditions), table(rows), rule_ratios(rows), range_ratios(rows), _not_clean(rows))


def for_readme(rows: Sequence[Row], conditions: Conditions) -> str:
    return _parts(str(conditions), readme_table(rows), _not_clean(rows))


def _not_clean(rows: Sequence[Row]) -> str:
    found = troubles(rows)
    return "Not clean:\n\n" + "\n".join(f"- {trouble}" for trouble in found) if found else ""


def _parts(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def write_readme(readme: Path, text: str) -> None:
    write_between(readme, text, START, END)


def write_between(page: Path, text: str, first: str, last: str) -> None:
    """Replace what stands between the two marks."""
    content = page.read_text()
    before, start, rest = content.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise SystemExit(f"{page.name} has no {first} … {last}")
    page.write_text(f"{before}{first}\n{text}\n{last}{after}")
