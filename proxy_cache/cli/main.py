"""The command ``proxy-cache``: the table of its subcommands, and how each of them ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from .. import __version__
from . import check, entries, env, explain, purge, run, status, top, verify, warm
from .command import FAILED, OK, BadInput, Command, Environment
from .text import printable

COMMANDS: Final[tuple[Command, ...]] = (
    status.COMMAND, top.COMMAND, explain.COMMAND, entries.LS, entries.FIND, purge.COMMAND, warm.COMMAND, verify.COMMAND,
    check.COMMAND, run.RUN, run.ADDON_PATH, env.COMMAND,
)  # fmt: skip
"""In the order of ``--help``."""
INTERRUPTED: Final = 130
"""As shells have it for SIGINT."""


def main(arguments: Sequence[str] | None = None, environment: Environment | None = None) -> int:
    """The command. Returns its exit status (:mod:`.command`); what is wrong is said in one line on standard error."""
    environment = os.environ if environment is None else environment
    parser = _parser(environment)
    options, more = parser.parse_known_args(arguments)
    options.more = more
    if more and not options.takes_more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        status: int = options.run(options, environment)
        sys.stdout.flush()
    except BadInput as error:
        print(f"proxy-cache {options.command}: {printable(str(error))}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parser(environment: Environment) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="proxy-cache", description="Looks into a running proxy, changes what it has stored, and helps to set up.",
        epilog="Exit status: 0, 1 for a negative answer (nothing found, something corrupt, a fault), 2 for bad input "
        "or a proxy that can't be reached. Each command has a --help of its own.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        added = commands.add_parser(
            command.name, help=command.help, description=command.description or f"{command.help.capitalize()}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=not command.takes_more, add_help=command.has_help,
        )  # fmt: skip
        command.add_arguments(added, environment)
        added.set_defaults(run=command.run, takes_more=command.takes_more)
    return parser
