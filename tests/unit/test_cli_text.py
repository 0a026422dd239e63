"""Values as the command shows them: nothing in them does anything to a terminal."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_cache.cli.output import Cell, Column, Table, as_lines, as_rich
from proxy_cache.cli.text import count, duration, moment, printable, share, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://packages.example/a?b=c", "http://packages.example/a?b=c"),
        ("b\u00fccher", "b\u00fccher"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\x9b31mb", "a\\x9b31mb"),
        ("a\r\nb\tc", "a\\x0d\\x0ab\\x09c"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u2028b", "a\\u2028b"),
        ("a\U000e0041b", "a\\U000e0041b"),
        ("a\udc80b", "a\\udc80b"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_one_line_that_a_terminal_only_shows(value: object, shown: str) -> None:
    assert printable(value) == shown


@given(st.text())
def test_no_text_has_anything_else_in_it(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in shown)
    assert len(shown.splitlines()) <= 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 60, "3072.0 PiB"),
        ("x", "-"),
    ],
)
def test_sizes(value: Any, shown: str) -> None:
    assert size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (0, "0s"), (0.25, "0.25s"), (9, "9s"), (59.6, "1m"), (60, "1m"), (200, "3m 20s"), (3600, "1h"),
        (3661, "1h 1m"), (90000, "1d 1h"), (-200, "-3m 20s"),
    ],
)  # fmt: skip
def test_durations(value: Any, shown: str) -> None:
    assert duration(value) == shown


def test_numbers_and_times() -> None:
    now = datetime(2026, 11, 28, 3, 0, tzinfo=UTC)
    assert (count(12345), count(None), share(1, 4), share(0, 0)) == ("12,345", "-", "25.0 %", "-")
    assert moment("2026-11-28T03:20:00Z", now) == "2026-11-28T03:20:00Z (in 20m)"
    assert moment("2026-11-28T02:00:00", now) == "2026-11-28T02:00:00 (1h ago)"
    assert (moment(None), moment("soon\x1b")) == ("-", "soon\\x1b")


def test_a_table_as_text() -> None:
    table = Table((Column("SIZE", is_right=True), Column("URL", is_long=True)))
    table.add("9 B", "http://a/\x1b[2J")
    table.add("12.0 kB", Cell("[red]b", "fault"))
    assert as_lines(table) == ["   SIZE  URL", "    9 B  http://a/\\x1b[2J", "12.0 kB  [red]b"]


def test_a_table_on_a_terminal_has_no_markup() -> None:
    from rich.console import Console

    table = Table((Column("URL", is_long=True),))
    table.add("[red]http://a/[/red] :smile: \x1b]0;title\x07" + "x" * 100)
    console = Console(width=40, force_terminal=True, color_system=None, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(as_rich(table))
    shown = captured.get()
    assert "[red]http://a/[/red] :smile:" in shown
    assert "\x1b]" not in shown
    assert shown.count("x") == 102, "long values are folded, and not cut"
