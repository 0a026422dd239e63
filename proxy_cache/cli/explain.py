"""``proxy-cache explain``: what is stored for a URL, what a request would get now, and why."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from . import api
from .command import NEGATIVE, OK, BadInput, Command, Environment
from .output import Cell, Column, Output, Table
from .text import moment, size

_DESCRIPTION = """\
Say what is stored for a URL and for how long it is fresh, what a request for it would get now, and by which rule; and
what is known of why it isn't stored. Nothing is asked of the origin. Exit status 1: nothing is stored.
"""
_GOOD = frozenset({"hit", "stale"})


def _add_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    parser.add_argument("url", metavar="URL", help="as clients ask for it")
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], dest="headers",
        help="a field of the request (may be repeated)",
    )  # fmt: skip
    parser.add_argument("-X", "--method", metavar="METHOD", help="of the request (default: GET)")
    api.add_arguments(parser, environment)


def _run(options: argparse.Namespace, environment: Environment) -> int:
    for header in options.headers:
        if ":" not in header:
            raise BadInput(f"--header: {header!r} is not 'NAME: VALUE'")
    parameters = [("url", options.url), *(("header", header) for header in options.headers)]
    if options.method:
        parameters.append(("method", options.method))
    found = api.api_of(options, environment).get("explain", parameters)
    output = Output(environment)
    if options.json:
        output.json(found)
    else:
        _print(output, found)
    return OK if found.get("stored") else NEGATIVE


def _print(output: Output, found: Mapping[str, Any]) -> None:
    verdict = str(found.get("verdict", "?"))
    output.line(f"{verdict}: {found.get('url', '')}", "ok" if verdict in _GOOD else "warning")
    if found.get("key") not in (None, found.get("url")):
        output.line(f"stored under {found['key']}")
    for sentence in found.get("sentences", ()):
        output.line(_sentence(sentence))
    for variant in found.get("stored", ()):
        output.line()
        output.title("Stored, and what this request selects" if variant.get("selected") else "Stored")
        output.table(_variant(variant))
    why, recent = found.get("not_stored"), found.get("recent") or []
    if why:
        output.line()
        output.title("Not stored, the last time")
        output.table(_why_not(why))
    if recent and recent != [why]:
        output.line()
        output.title("Lately")
        table = Table((Column("AT"), Column("REASON"), Column("STATUS", is_right=True), Column("", is_long=True)))
        for one in recent:
            table.add(moment(one.get("at")), one.get("reason") or "-", str(one.get("status") or "-"), _sentence(one))
        output.table(table)


def _why_not(why: Mapping[str, Any]) -> Table:
    table = Table((Column(""), Column("", is_long=True)))
    table.add("reason", Cell(str(why.get("reason") or "?"), "warning"))
    table.add("that is", _sentence(why))
    table.add("status", str(why.get("status") or "-"))
    table.add("at", moment(why.get("at")))
    return table


def _sentence(said: Mapping[str, Any]) -> str:
    rfc = f" ({said['rfc']})" if said.get("rfc") else ""
    return f"{said.get('text', '')}{rfc}"


def _variant(variant: Mapping[str, Any]) -> Table:
    table = Table((Column(""), Column("", is_long=True)))
    whole, present = variant.get("size"), variant.get("present")
    state = str(variant.get("state") or "-")
    rows: list[tuple[str, str | Cell]] = [
        ("for", _fields(variant.get("variant") or {})),
        ("status", str(variant.get("status", "-"))),
        ("size", size(whole) if present in (None, whole) else f"{size(present)} of {size(whole)}"),
        ("stored", moment(variant.get("stored_at"))),
        ("state", Cell(state, "ok" if state == "fresh" else "warning")),
        ("fresh until", moment(variant.get("fresh_until"))),
        ("by the rule", _rule(variant.get("freshness_rule"))),
        ("when stale", _rule(variant.get("stale_use"))),
        ("etag", variant.get("etag") or ""),
        ("last modified", variant.get("last_modified") or ""),
    ]
    for name, value in rows:
        if value:
            table.add(name, value)
    return table


def _rule(rule: Any) -> str:
    return _sentence(rule) if isinstance(rule, Mapping) else str(rule or "")


def _fields(vary: Mapping[str, Any]) -> str:
    """The values of the request's fields that it was stored for."""
    told = [f"{name}: {'absent' if value is None else value}" for name, value in vary.items()]
    return ", ".join(told) or "any request"


COMMAND = Command("explain", "say what a request would get, and why", _add_arguments, _run, _DESCRIPTION)
