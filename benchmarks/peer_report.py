"""The comparison with other proxies as Markdown: absolute numbers, and ratios to nginx."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peer_measure import IDLE, PROBES, Results
from peer_servers import CACHE_SIZE
from report import machine

START, END = "<!-- peers:start -->", "<!-- peers:end -->"
YARDSTICK = "nginx"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the tables."""

    row: str
    """Of the results."""
    unit: str
    more_is_better: bool
    title: str = ""
    """What the reader sees, if it isn't the row's name."""
    in_ratios: bool = True

    @property
    def label(self) -> str:
        return self.title or self.row


THROUGHPUT = (
    *(Line(f"hit, {size}", "requests/s", True) for size in ("1 kB", "10 kB", "100 kB", "1 MB")),
    Line("hit, 1 GB", "GB/s", True, "hit, 1 GB, one client"),
    *(Line(f"miss, {size}", "requests/s", True) for size in ("10 kB", "1 MB")),
    Line("miss, 1 GB", "GB/s", True, "miss, 1 GB, one client"),
)
BESIDE_IDLE = f"hit, 10 kB, beside {IDLE} idle connections: first byte"
LATENCY = (
    *(Line(f"p99, hit, {size}", "ms", False, f"hit, {size}, p99") for size in ("1 kB", "10 kB", "100 kB", "1 MB")),
    *(Line(f"p99, miss, {size}", "ms", False, f"miss, {size}, p99") for size in ("10 kB", "1 MB")),
    Line(f"first byte of a hit, {IDLE} idle connections", "ms", False, BESIDE_IDLE),
    Line(f"p99, first byte of a hit, {IDLE} idle connections", "ms", False, f"{BESIDE_IDLE}, p99"),
    # The difference of two small times may be about nothing, and a ratio to it anything.
    Line("first byte of a miss, 1 GB", "ms", False, "miss, 1 GB: first byte, later than the origin's", False),
)
ANONYMOUS = "anonymous memory"
MEMORY = (
    Line("RssAnon at the start", "MB", False, f"{ANONYMOUS} at the start"),
    Line(f"RssAnon with {IDLE} idle connections", "MB", False, f"{ANONYMOUS} with {IDLE} idle connections, after hits"),
    Line("RssAnon added by a hit of 1 GB", "MB", False, f"{ANONYMOUS} added while a hit of 1 GB is sent", False),
    Line("RssAnon at the end", "MB", False, f"{ANONYMOUS} at the end"),
    Line("VmRSS at the end", "MB", False, "resident memory at the end, mapped files included"),
)
LINES = (*THROUGHPUT, *LATENCY, *MEMORY)
PLOT_ROWS = THROUGHPUT


def ratios(results: Results, titles: Mapping[str, str], lines: Sequence[Line]) -> list[tuple[str, dict[str, float]]]:
    """Each line's label and the contenders' ratios to nginx, of which more than 1 is better than nginx, always."""
    found = []
    for line in lines:
        yardstick = results.value(line.row, YARDSTICK)
        values = {name: results.value(line.row, name) for name in titles}
        row = {
            name: value / yardstick if line.more_is_better else yardstick / value
            for name, value in values.items()
            if value and value > 0 and yardstick and yardstick > 0
        }
        if row:
            found.append((line.label, row))
    return found


def number(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(corner: str, titles: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [f"| {' | '.join([corner, *titles])} |", f"|---{'|---:' * len(titles)}|"]
    lines += [f"| {' | '.join([label, *cells])} |" for label, cells in rows]
    return "\n".join(lines)


def absolute_table(results: Results, titles: Mapping[str, str]) -> str:
    rows = [
        (f"{line.label} ({line.unit})", [number(results.value(line.row, name)) for name in titles]) for line in LINES
    ]
    return table("", list(titles.values()), rows)


def ratio_table(results: Results, titles: Mapping[str, str]) -> str:
    others = [name for name in titles if name != YARDSTICK]
    rows = [
        (label, [f"{row[name]:.2f}" if name in row else "–" for name in others])
        for label, row in ratios(results, titles, [line for line in LINES if line.in_ratios])
    ]
    return table("compared with nginx", [titles[name] for name in others], rows)


def loop_lag_lines(results: Results, titles: Mapping[str, str]) -> list[str]:
    return [
        f"- {titles[name]}: p50 {lag['p50']:.1f} ms, p99 {lag['p99']:.1f} ms, p99.9 {lag['p99.9']:.1f} ms, "
        f"longest {lag['max']:.0f} ms ({number(lag['count'])} samples)"
        for name, lag in results.loop_lag.items()
    ]


def troubles(results: Results, titles: Mapping[str, str]) -> list[str]:
    return [
        f"- {titles[name]}, {row}: {trouble}"
        for row, cells in results.cells.items()
        for name, cell in cells.items()
        for trouble in cell.troubles
    ]


def markdown(
    results: Results,
    titles: Mapping[str, str],
    versions: Sequence[str],
    *,
    runs: int,
    seconds: int,
    cores: int,
    command: str,
    plot: str | None,
) -> str:
    """Everything between the marks of docs/performance.md."""
    pinned = "the proxy on one core, the origin and the client on another" if cores > 1 else "everything on one core"
    times = f"medians of {runs} runs of {seconds} s" if runs > 1 else f"one run of {seconds} s"
    parts = [
        f"`{command}`, {datetime.date.today().isoformat()}, {cores} {'core' if cores == 1 else 'cores'} of "
        f"{machine()}: {times}, 32 connections, {pinned}.",
        f"{'; '.join(versions)}.",
    ]
    if plot:
        parts.append(f"![Throughput compared with nginx, for each kind of request]({plot})")
    parts += [
        absolute_table(results, titles),
        f"Each cache may take {CACHE_SIZE >> 30} GiB, on disk or, with Varnish, in memory; the textbook addon's memory "
        f"has no bound. A p99 is the time in which 99 of 100 answers were complete; of first bytes there were "
        f"{PROBES} a run.",
    ]
    if any(name != YARDSTICK for name in titles) and YARDSTICK in titles:
        parts += [
            "Ratios to nginx. More than 1 is better than nginx, in every line: more requests, less time, less memory.",
            ratio_table(results, titles),
        ]
    if lag := loop_lag_lines(results, titles):
        parts.append(
            "How late the event loop woke a task that sleeps 5 ms, over all measurements of this proxy (up to 1 ms is "
            "asyncio's rounding):\n\n" + "\n".join(lag)
        )
    if found := troubles(results, titles):
        parts.append("Not clean:\n\n" + "\n".join(found))
    return "\n\n".join(parts)
