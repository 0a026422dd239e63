"""``proxy-cache ls`` and ``proxy-cache find PATTERN``: what is stored."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any, Final

from . import api
from .command import NEGATIVE, OK, BadInput, Command, Environment
from .output import Cell, Column, Output, Table
from .text import count, duration, size

_DESCRIPTION = """\
List what is stored. PATTERN is a URL in which * stands for anything (in quotes: 'http://packages.example/*.whl').
Secrets in URLs are hidden, unless there is a token. Exit status 1: nothing is found.
"""
FILTERS: Final = (
    ("--host", "HOST", "of this host, or of hosts like *.example.com"),
    ("--tag", "TAG", "with this Surrogate-Key or Cache-Tag"),
    ("--larger-than", "SIZE", "such as 10m"),
    ("--smaller-than", "SIZE", "such as 500k"),
    ("--older-than", "TIME", "stored so long ago or longer, such as 1d"),
    ("--newer-than", "TIME", "stored since, such as 2h"),
    ("--min-hits", "COUNT", "with so many hits or more"),
    ("--state", "STATE", "fresh or stale"),
    ("--sort", "BY", "url, size, age or hits"),
)
PAGE: Final = 500
"""Entries that are asked for at once."""
LIMIT: Final = 100


def _add_ls(parser: argparse.ArgumentParser, environment: Environment) -> None:
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", help="of the URL")
    _add_options(parser, environment)


def _add_find(parser: argparse.ArgumentParser, environment: Environment) -> None:
    parser.add_argument("pattern", metavar="PATTERN", help="of the URL")
    _add_options(parser, environment)


def _add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    for option, metavar, text in FILTERS:
        parser.add_argument(option, metavar=metavar, help=text)
    parser.add_argument(
        "-n", "--limit", metavar="COUNT", type=int, default=LIMIT,
        help="list no more than these; 0: all there are (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("-1", "--urls", action="store_true", help="the URLs alone, one a line")
    api.add_arguments(parser, environment, token=True)


def _run(options: argparse.Namespace, environment: Environment) -> int:
    if options.limit < 0:
        raise BadInput("--limit: 0 or more")
    pages, output = (
        _Pages(api.api_of(options, environment, token=True), _parameters(options), options.limit),
        Output(environment),
    )
    entries = list(pages)
    if options.json:
        output.json({"entries": entries, "next": pages.cursor})
    elif options.urls:
        for entry in entries:
            output.line(entry.get("url", ""))
    elif entries:
        output.table(_table(entries))
    if not entries and not options.json and not options.urls:
        output.line("nothing is stored" if not _parameters(options) else "nothing is found", "weak")
    elif pages.cursor is not None and options.urls:
        more = f"and more: the first {len(entries)} are listed (-n COUNT; -n 0: all)"
        print(f"proxy-cache {options.command}: {more}", file=sys.stderr)  # standard output has nothing but URLs
    elif pages.cursor is not None and not options.json:
        output.line(f"and more: the first {len(entries)} are shown (-n COUNT; -n 0: all)", "weak")
    return OK if entries else NEGATIVE


def _parameters(options: argparse.Namespace) -> list[tuple[str, str]]:
    given = [("match", options.pattern)]
    for option, *_ in FILTERS:
        name = option.removeprefix("--").replace("-", "_")
        given.append((name, getattr(options, name)))
    return [(name, value) for name, value in given if value is not None]


class _Pages:
    """The entries, page by page. ``cursor``: where what was not asked for begins, ``None`` at the end."""

    def __init__(self, proxy: api.Api, parameters: list[tuple[str, str]], limit: int) -> None:
        self._proxy = proxy
        self._parameters = parameters
        self._limit = limit
        self.cursor: str | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        left = self._limit
        while True:
            page = min(left, PAGE) if self._limit else PAGE
            parameters = [*self._parameters, ("limit", str(page))]
            if self.cursor is not None:
                parameters.append(("cursor", self.cursor))
            found = self._proxy.get("entries", parameters)
            yield from found["entries"]
            self.cursor, left = found.get("next"), left - len(found["entries"])
            if self.cursor is None or (self._limit and left <= 0):
                return


def _table(entries: list[dict[str, Any]]) -> Table:
    table = Table(
        (
            Column("SIZE", is_right=True), Column("AGE", is_right=True), Column("HITS", is_right=True),
            Column("STATE"), Column("STATUS", is_right=True), Column("URL", is_long=True),
        )
    )  # fmt: skip
    for entry in entries:
        state = entry.get("state", "")
        table.add(
            _size(entry), duration(entry.get("age_seconds")), count(entry.get("hits")),
            Cell(state, "ok" if state == "fresh" else "warning"), str(entry.get("status", "")), entry.get("url", ""),
        )  # fmt: skip
    return table


def _size(entry: dict[str, Any]) -> str:
    """Of an entry with gaps, how much of it is there as well."""
    whole, present = entry.get("size_bytes"), entry.get("present_bytes")
    return size(whole) if present in (None, whole) else f"{size(present)} of {size(whole)}"


LS = Command("ls", "list what is stored", _add_ls, _run, _DESCRIPTION)
FIND = Command("find", "list what is stored under URLs like a pattern", _add_find, _run, _DESCRIPTION)
