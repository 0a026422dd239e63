"""``proxy-cache verify``: whether the bodies on the disk are still what was stored."""

from __future__ import annotations

import argparse
from typing import Any

from . import api
from .command import NEGATIVE, OK, BadInput, Command, Environment
from .output import Output
from .progress import Progress
from .text import count, size

_DESCRIPTION = """\
Read every body on the disk and compare it with its checksum. What isn't what was stored is removed, and named. Exit
status 1: something was.
"""


def _add_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    api.add_arguments(parser, environment, token=True)


def _run(options: argparse.Namespace, environment: Environment) -> int:
    output = Output(environment)
    last: dict[str, Any] = {}
    read = 0
    with Progress(output, "verifying", is_shown=not options.json) as progress:
        for line in api.api_of(options, environment, token=True).stream("verify", {}):
            if options.json:
                output.json_line(line)
            if "error" in line:
                raise BadInput(f"the proxy could not go on: {line['error']}")
            if "corrupt" in line and "done" not in line:
                progress.line(f"corrupt: {line['corrupt']}", "fault")
            read = line.get("bytes", read)
            progress.at(line.get("checked", progress.done), line.get("total"), f"{size(read)} read")
            last = line
    if not last.get("done"):
        raise BadInput("the proxy has not verified all of it: the answer broke off")
    corrupt = last.get("corrupt", 0)
    if not options.json:
        told = f"{count(last.get('checked'))} verified, {size(read)} read, {count(corrupt)} corrupt"
        output.line(told, "fault" if corrupt else "ok")
    return NEGATIVE if corrupt else OK


COMMAND = Command("verify", "compare what is stored with its checksums", _add_arguments, _run, _DESCRIPTION)
