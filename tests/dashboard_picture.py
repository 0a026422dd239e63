"""A picture of deploy/monitoring/dashboard.json without Grafana: two proxies with a shared store in a storm, scraped by
a real Prometheus, and the results of the panels' own queries drawn where the dashboard has them.

    python -m tests.dashboard_picture docs/dashboard.svg [--seconds 90]
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from .support.dashboard import Panel, Query, panels
from .support.origin import Echo, Origin
from .support.prometheus import INTERVAL, Prometheus
from .support.storm import SLOTS, Storm
from .test_fleet import fleet

DASHBOARD: Final = Path(__file__).parent.parent / "deploy" / "monitoring" / "dashboard.json"
RATES: Final = "15s"
CELL_WIDTH: Final = 60
CELL_HEIGHT: Final = 27
GAP: Final = 8
ROW_HEIGHT: Final = 1
COLOURS: Final = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b6992d", "#b07aa1", "#9c755f", "#d37295", "#79706e",
)  # fmt: skip
LEGEND_MAX: Final = 5
STEPS: Final = {"s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")), "short": ((1, ""),), "none": ((1, ""),)}
BYTES: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))

Points = list[tuple[float, float]]


def shown(value: float, unit: str) -> str:
    """A value with its unit, as Grafana has it."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("bytes", "binBps"):
        steps, tail = BYTES, "/s" if unit == "binBps" else ""
    elif unit in ("reqps", "ops"):
        steps, tail = ((1, ""),), " /s"
    else:
        steps, tail = STEPS[unit], ""
    factor, name = next(((one, name) for one, name in steps if value >= one), steps[-1])
    return f"{value / factor:.3g}{' ' if name else ''}{name}{tail}"


class Picture:
    """Draws the panels of a dashboard with what Prometheus has for them from ``start`` to ``end`` (Unix time)."""

    def __init__(self, prometheus: Prometheus, start: float, end: float) -> None:
        self._prometheus = prometheus
        self._start = start
        self._end = end

    def draw(self, shown_panels: list[Panel]) -> str:
        width = 24 * CELL_WIDTH
        height = max(panel.place["y"] + panel.place["h"] for panel in shown_panels) * CELL_HEIGHT
        rows: dict[str, int] = {}
        for panel in shown_panels:
            rows.setdefault(panel.row, panel.place["y"] - ROW_HEIGHT)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
            'font-size="11" fill="#222">',
            "<title>The dashboard's panels, drawn from the results of their queries</title>",
            f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>',
        ]
        for title, y in rows.items():
            if title:
                text = f'<text x="{GAP}" y="{y * CELL_HEIGHT + 19}" font-size="15" font-weight="bold">'
                parts.append(f"{text}{escape(title)}</text>")
        for panel in shown_panels:
            parts += self._stat(panel) if panel.kind == "stat" else self._graph(panel)
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _frame(self, panel: Panel) -> Iterator[str]:
        x, y, width, height = box(panel)
        yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="#fff" stroke="#ddd"/>'
        yield f'<text x="{x + 8}" y="{y + 16}" font-weight="bold">{escape(panel.title)}</text>'

    def _stat(self, panel: Panel) -> list[str]:
        x, y, width, _ = box(panel)
        (query,) = panel.queries
        (series,) = self._prometheus.query(query.expression(RATES))
        text = query.label(series["metric"]) if query.legend else shown(float(series["value"][1]), panel.unit)
        size = 11 if len(text) > 18 else 22
        return [
            *self._frame(panel),
            f'<text x="{x + width / 2}" y="{y + 50}" font-size="{size}" text-anchor="middle">{escape(text)}</text>',
        ]

    def _graph(self, panel: Panel) -> list[str]:
        lines = [line for query in panel.queries for line in self._lines(query)]
        lines = [line for line in lines if line[1]]
        lines.sort(key=lambda line: -sum(value for _, value in line[1]))
        x, y, width, height = box(panel)
        left, top, right, bottom = x + 62, y + 26, x + width - 10, y + height - 34
        stacked = panel.is_stacked
        below: dict[float, float] = {}
        drawn: list[tuple[str, str, Points, Points]] = []
        for number, (label, points) in enumerate(lines):
            base = [(at, below.get(at, 0.0)) for at, _ in points]
            if stacked:
                points = [(at, value + below.get(at, 0.0)) for at, value in points]
                below.update(points)
            drawn.append((label, COLOURS[number % len(COLOURS)], points, base))
        most = 1.05 * max((value for _, _, points, _ in drawn for _, value in points), default=0.0) or 1.0
        if panel.unit == "percentunit" and most > 0.5:
            most = 1.05

        def place(at: float, value: float) -> str:
            across = (at - self._start) / (self._end - self._start)
            return f"{left + across * (right - left):.1f},{bottom - value / most * (bottom - top):.1f}"

        parts = list(self._frame(panel))
        for part in (0.0, 0.5, 1.0):
            line = bottom - part * (bottom - top)
            parts.append(f'<path d="M{left} {line:.1f}H{right}" stroke="#e8e8e8"/>')
            parts.append(
                f'<text x="{left - 5}" y="{line + 4:.1f}" text-anchor="end" fill="#666">'
                f"{escape(shown(most * part, panel.unit))}</text>"
            )
        for _, colour, points, base in drawn:
            outline = " ".join(place(*point) for point in points)
            if stacked:
                back = " ".join(place(*point) for point in reversed(base))
                parts.append(f'<polygon points="{outline} {back}" fill="{colour}" fill-opacity="0.25"/>')
            parts.append(f'<polyline points="{outline}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        at = float(x + 10)
        for label, colour, *_ in drawn[:LEGEND_MAX]:
            if at + 16 + 6.8 * len(label) > x + width:
                break
            parts.append(f'<path d="M{at:.0f} {y + height - 12}h10" stroke="{colour}" stroke-width="3"/>')
            parts.append(f'<text x="{at + 14:.0f}" y="{y + height - 8}" fill="#444">{escape(label)}</text>')
            at += 26 + 6.8 * len(label)
        return parts

    def _lines(self, query: Query) -> Iterator[tuple[str, Points]]:
        found = self._prometheus.api(
            "query_range", query=query.expression(RATES), start=self._start, end=self._end, step=2 * INTERVAL
        )["result"]
        for series in found:
            values = [(float(at), float(value)) for at, value in series["values"]]
            yield query.label(series["metric"]), [point for point in values if math.isfinite(point[1])]


def box(panel: Panel) -> tuple[int, int, int, int]:
    """Left, top, width and height, in pixels."""
    place = panel.place
    return (
        place["x"] * CELL_WIDTH + GAP // 2, place["y"] * CELL_HEIGHT + GAP // 2, place["w"] * CELL_WIDTH - GAP,
        place["h"] * CELL_HEIGHT - GAP,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0, help="how long the storm blows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Origin() as origin, Echo() as echo:
        folder = Path(name)
        shared = folder / "shared"
        shared.mkdir()
        with fleet(folder, 2, origin_max_in_flight=SLOTS, cache_shared=f"file://{shared}") as nodes:
            targets = {f"cache-{number}": node.metrics_address for number, node in enumerate(nodes, 1)}
            with Prometheus(folder / "prometheus", targets) as prometheus:
                prometheus.wait_for("count(cache_proxy_build_info) == 2")
                storm, start = Storm(nodes, origin, echo), time.time()
                while time.time() < start + options.seconds:
                    storm.wave()
                options.file.write_text(Picture(prometheus, start, time.time()).draw(panels(DASHBOARD)))


if __name__ == "__main__":
    main()
