"""``proxy-cache status``: how the proxy is doing, now."""

from __future__ import annotations

import argparse

from . import api, panels
from .command import OK, Command, Environment
from .output import Output


def _add_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    api.add_arguments(parser, environment)


def _run(options: argparse.Namespace, environment: Environment) -> int:
    status = api.api_of(options, environment).get("status")
    output = Output(environment)
    if options.json:
        output.json(status)
        return OK
    output.table(panels.summary(status))
    sections = (
        ("Origins", panels.limiter(status)), ("Clients", panels.clients(status)), ("Fills", panels.fills(status)),
        ("Peers", panels.peers(status)), ("Shared store", panels.shared(status)),
        ("HTTPS that is intercepted", panels.interception(status)),
        ("Most hits, by host", panels.top(status, "hosts")), ("Most hits, by URL", panels.top(status, "keys")),
    )  # fmt: skip
    for title, table in sections:
        if table is not None:
            output.line()
            output.title(title)
            output.table(table)
    return OK


COMMAND = Command("status", "show how the proxy is doing", _add_arguments, _run)
