"""``proxy-cache top``: what runs, queues and is served, looked at again and again."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import api, panels
from .command import OK, BadInput, Command, Environment
from .output import Cell, Column, Output, Table, as_rich
from .text import count, share, size

_DESCRIPTION = """\
Show what the proxy does, live: slots and queue, who queues, what is being fetched, the hit ratio, peers. On a terminal
it goes on until q or Ctrl-C. Into a pipe goes one look; -n COUNT: so many.
"""
INTERVAL: Final = 2.0
SHORTEST: Final = 0.2
"""Seconds."""
_COUNTED: Final = ("hits", "misses", "bytes_served", "origin_bytes")


@dataclass(frozen=True, slots=True)
class Look:
    """The status at a time (monotonic clock)."""

    status: Mapping[str, Any]
    at: float


def _add_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    parser.add_argument(
        "-i", "--interval", metavar="SECONDS", type=float, default=INTERVAL,
        help="from one look to the next (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("-n", "--count", metavar="COUNT", type=int, help="end after so many looks")
    api.add_arguments(parser, environment)


def _run(options: argparse.Namespace, environment: Environment) -> int:
    if not SHORTEST <= options.interval <= 3600:
        raise BadInput(f"--interval: from {SHORTEST} to 3600 seconds")
    if options.count is not None and options.count < 1:
        raise BadInput("--count: 1 or more")
    proxy, output = api.api_of(options, environment), Output(environment)
    if options.json or not output.is_terminal:
        _print(proxy, output, options.count or 1, options.interval, as_json=options.json)
    else:
        _live(proxy, output, options.count, options.interval)
    return OK


def _print(proxy: api.Api, output: Output, looks: int, interval: float, *, as_json: bool) -> None:
    before = None
    for number in range(looks):
        if number:
            time.sleep(interval)
            if not as_json:
                output.line()
        look = Look(proxy.get("status"), time.monotonic())
        if as_json:
            output.json_line(look.status)
        else:
            for number_of, (title, table) in enumerate(_sections(look, before)):
                if number_of:
                    output.line()
                output.title(title)
                output.table(table)
            output.flush()
        before = look


def _live(proxy: api.Api, output: Output, looks: int | None, interval: float) -> None:
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    def shown(look: Look, before: Look | None) -> RenderableType:
        parts: list[RenderableType] = []
        for title, table in _sections(look, before):
            parts += [Text(title, style="bold"), as_rich(table), Text()]
        parts.append(Text(f"every {interval:g} s; q ends", style="dim"))
        return Group(*parts)

    look = Look(proxy.get("status"), time.monotonic())
    before: Look | None = None
    with (
        _keys() as pressed,
        Live(shown(look, None), console=output.console, screen=True, auto_refresh=False) as live,
    ):
        done = 1
        while looks is None or done < looks:
            if pressed(interval):
                return
            before, look = look, Look(proxy.get("status"), time.monotonic())
            live.update(shown(look, before), refresh=True)
            done += 1


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Gives a function that waits some seconds, and says whether ``q`` was pressed meanwhile."""
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):  # no terminal there

        def wait(seconds: float) -> bool:
            time.sleep(seconds)
            return False

        yield wait
        return

    def pressed(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([terminal], [], [], left)[0] and os.read(terminal, 1) in (b"q", b"Q", b""):
                return True
        return False

    try:
        tty.setcbreak(terminal, termios.TCSADRAIN)  # what was typed already counts
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _sections(look: Look, before: Look | None) -> Iterator[tuple[str, Table]]:
    status = look.status
    yield "Traffic", _traffic(look, before)
    yield "Origins", panels.limiter(status)
    for title, table in (
        ("Clients", panels.clients(status)), ("Fills", panels.fills(status)), ("Peers", panels.peers(status)),
        ("Most hits", panels.top(status, "hosts")),
    ):  # fmt: skip
        if table is not None:
            yield title, table


def _traffic(look: Look, before: Look | None) -> Table:
    """Since the last look, or since the start where there was none."""
    totals = look.status.get("totals", {})
    if before is None:
        since, seconds = dict(totals), float(look.status.get("uptime_seconds") or 0)
    else:
        earlier = before.status.get("totals", {})
        since = {name: max(totals.get(name, 0) - earlier.get(name, 0), 0) for name in _COUNTED}
        seconds = look.at - before.at
    asked = panels.answered(since)
    table = Table((Column(""), Column("", is_long=True)))
    ready = Cell("ready", "ok") if look.status.get("ready") else Cell("not ready", "fault")
    table.add("proxy", ready)
    table.add("requests", f"{_rate(asked, seconds)}/s, {count(look.status.get('requests_in_flight'))} running")
    table.add(
        "hit ratio",
        f"{share(since.get('hits', 0), asked)} ({share(totals.get('hits', 0), panels.answered(totals))} in all)",
    )
    served, fetched = (
        size(since.get(name, 0) / seconds if seconds else 0) for name in ("bytes_served", "origin_bytes")
    )
    table.add("bytes", f"{served}/s served, {fetched}/s from origins")
    table.add("store", panels.stored(look.status.get("store", {})))
    return table


def _rate(number: int, seconds: float) -> str:
    return count(round(number / seconds, 1)) if seconds else "0.0"


COMMAND = Command("top", "show what the proxy does, live", _add_arguments, _run, _DESCRIPTION)
