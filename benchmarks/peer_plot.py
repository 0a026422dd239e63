"""Ratios as a bar plot: an SVG written by hand, so that the benchmark needs no plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1080, 520
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 96, 64
COLOURS = ("#0b4f9e", "#62a8e5", "#e08214", "#35978f", "#8c6bb1", "#a0a0a0")
"""By contender, this proxy's first: told apart by brightness too, for those who see colours differently."""
LABELS = {value: f"{value:g}" for value in (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)}


def plot(rows: Sequence[tuple[str, Mapping[str, float]]], titles: Mapping[str, str], yardstick: str = "nginx") -> str:
    """Groups of bars that leave the line at 1, upwards for better than the yardstick and downwards for worse; a log
    scale, on which twice as fast is as far from it as half as fast."""
    names = [name for name in titles if name != yardstick]
    colours = dict(zip(names, COLOURS * (1 + len(names) // len(COLOURS)), strict=False))
    values = [row[name] for _, row in rows for name in names if name in row] or [1.0]
    low, high = min(0.5, *values, 1.0) / 1.5, max(2.0, *values, 1.0) * 1.4

    def y(value: float) -> float:
        share = (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" role="img">',
        f"<title>Throughput compared with {escape(titles[yardstick])}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',  # GitHub's page may be dark
        _text(LEFT, 26, f"Throughput, {titles[yardstick]} = 1 (log scale, upwards is faster)", size=17, bold=True),
    ]
    x = float(LEFT)
    for name in names:
        out.append(f'<rect x="{x:.1f}" y="46" width="13" height="13" fill="{colours[name]}"/>')
        out.append(_text(x + 19, 57, titles[name], size=13))
        x += 19 + 7.2 * len(titles[name]) + 24

    for value, label in LABELS.items():
        if low <= value <= high and value != 1:
            out.append(_line(LEFT, WIDTH - RIGHT, y(value), "#dddddd", 1))
            out.append(_text(LEFT - 8, y(value) + 4, label, size=12, anchor="end", colour="#555555"))
    group = (WIDTH - LEFT - RIGHT) / max(1, len(rows))
    bar = group * 0.86 / max(1, len(names))
    for number, (label, row) in enumerate(rows):
        start = LEFT + number * group + group * 0.07
        if number:
            out.append(_upright(LEFT + number * group, TOP, HEIGHT - BOTTOM, "#eeeeee"))
        for position, name in enumerate(names):
            if name not in row:
                continue
            value, left = row[name], start + position * bar
            top, bottom = sorted((y(value), y(1)))
            out.append(
                f'<rect x="{left + 0.5:.1f}" y="{top:.1f}" width="{bar - 1:.1f}" height="{max(1, bottom - top):.1f}" '
                f'fill="{colours[name]}"><title>{escape(titles[name])}, {escape(label)}: {value:.2f}</title></rect>'
            )
            beyond = top - 5 if value >= 1 else bottom + 12
            out.append(_text(left + bar / 2, beyond, _short(value), size=9.5, anchor="middle", colour="#333333"))
        for line, part in enumerate(_lines(label)):
            middle = LEFT + (number + 0.5) * group
            out.append(_text(middle, HEIGHT - BOTTOM + 24 + 16 * line, part, size=13, anchor="middle"))
    out.append(_line(LEFT, WIDTH - RIGHT, y(1), "#111111", 1.6))
    out.append(_text(LEFT - 8, y(1) + 4, titles[yardstick], size=12, anchor="end", bold=True))
    return "\n".join([*out, "</svg>", ""])


def _short(value: float) -> str:
    """At most three digits: the bars are narrow."""
    text = f"{value:.2f}" if value < 9.95 else f"{value:.0f}"
    return text.removeprefix("0") if value < 0.995 else f"{value:.1f}" if value < 9.95 else text


def _lines(label: str) -> list[str]:
    """In two lines: what, and what more about it."""
    parts = label.split(", ")
    return [", ".join(parts[:2]), *parts[2:]]


def _text(
    x: float, y: float, text: str, *, size: float, anchor: str = "start", colour: str = "#111111", bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{weight}>'
        f"{escape(text)}</text>"
    )


def _line(x1: float, x2: float, y: float, colour: str, width: float) -> str:
    return f'<line x1="{x1}" x2="{x2}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _upright(x: float, y1: float, y2: float, colour: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1}" y2="{y2}" stroke="{colour}" stroke-width="1"/>'
