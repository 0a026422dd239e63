"""``proxy-cache check``: the configuration and its surroundings, before a start."""

from __future__ import annotations

import argparse
from collections import Counter

from .command import NEGATIVE, OK, Command, Environment
from .output import Cell, Column, Output, Table

_DESCRIPTION = """\
Look at the options as a start with these arguments would have them (config.yaml included), and at what they need:
ports, disk, descriptors, memory, the CA, files with secrets, peers, the clock. Nothing is started or changed, and no
proxy has to run. Exit status 1: there is a fault.

  proxy-cache check
  proxy-cache check --set cache_dir=/var/cache/proxy-cache --set cache_max_size=200g --listen-port 3128
"""


def _add_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    parser.usage = "proxy-cache check [--json] [--problems] [ARGUMENTS OF MITMDUMP]"
    parser.add_argument("--json", action="store_true", help="the findings, as JSON")
    parser.add_argument("--problems", action="store_true", help="tell only what is not ok")
    parser.add_argument("--confdir", metavar="FOLDER", help="short for --set confdir=FOLDER (default: ~/.mitmproxy)")


def _run(options: argparse.Namespace, environment: Environment) -> int:
    # The one place where the command needs the proxy itself, and mitmproxy, which takes a second to import.
    from ..preflight.checks import check

    confdir = ["--set", f"confdir={options.confdir}"] if options.confdir is not None else []
    findings = check([*options.more, *confdir])
    levels = Counter(one.level for one in findings)
    shown = [one for one in findings if not (options.problems and one.level == "ok")]
    output = Output(environment)
    if options.json:
        as_values = [{"subject": one.subject, "level": one.level, "text": one.text} for one in shown]
        output.json({"ok": not levels["fault"], "findings": as_values})
    else:
        table = Table((Column(""), Column(""), Column("", is_long=True)))
        for one in shown:
            table.add(Cell(one.level, one.level), one.subject, one.text)
        if shown:
            output.table(table)
        told = ", ".join(f"{levels[level]} {level}" for level in ("ok", "warning", "fault") if levels[level])
        output.line(told, "fault" if levels["fault"] else "warning" if levels["warning"] else "ok")
    return NEGATIVE if levels["fault"] else OK


COMMAND = Command(
    "check", "look at the configuration and its surroundings", _add_arguments, _run, _DESCRIPTION, takes_more=True
)
