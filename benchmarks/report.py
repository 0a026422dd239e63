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


def markdown(rows: Sequence[Row], *, runs: int, seconds: int, cores: int, command: str) -> str:
    """The table with what a reader needs to judge it."""
    pinned = "the proxy on one core, nginx and wrk on another" if cores > 1 else "everything on one core"
    times = f"Medians of {runs} runs of {seconds} s" if runs > 1 else f"One run of {seconds} s"
    parts = [
        f"{times}, 32 connections, {pinned}: `{command}`, {datetime.date.today().isoformat()}, "
        f"Python {platform.python_version()}, mitmproxy {importlib.metadata.version('mitmproxy')}, "
        f"{cores} {'core' if cores == 1 else 'cores'} of {machine()}.",
        table(rows),
    ]
    parts += filter(None, (rule_ratios(rows), range_ratios(rows)))
    if found := troubles(rows):
        parts.append("Not clean:\n\n" + "\n".join(f"- {trouble}" for trouble in found))
    return "\n\n".join(parts)


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
