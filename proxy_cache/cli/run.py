"""``proxy-cache run`` and ``proxy-cache addon-path``: the proxy itself, from wherever the package is installed."""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .command import OK, BadInput, Command, Environment

ADDON: Final = Path(__file__).resolve().parents[1] / "mitm" / "script" / "cache.py"
"""The script for mitmdump's ``-s``."""
WORKER: Final = ADDON.with_name("worker.py")
"""What becomes a mitmdump that is one of several."""
WORKERS: Final = "--workers"
WORKERS_MAX: Final = 64


def _add_run_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    parser.prefix_chars = "\0"  # so that no argument looks like an option of ours
    parser.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT", help="of mitmdump, such as --set cache_max_size=20g"
    )


def _run(options: argparse.Namespace, environment: Environment) -> int:
    """Become mitmdump: same process, so signals and the exit status are its own. With several workers start as many of
    them, and stay. Raises :class:`BadInput`."""
    workers, arguments = _workers(options.arguments)
    if workers > 1:
        from ..workers.start import run

        return run(workers, [sys.executable, "-P", str(WORKER), "-s", str(ADDON), *arguments], environment)
    mitmdump = _mitmdump()
    sys.stdout.flush()
    try:
        os.execve(mitmdump, [str(mitmdump), "-s", str(ADDON), *arguments], environment)
    except OSError as error:
        raise BadInput(f"{mitmdump} cannot be started: {error.strerror}") from error


def _workers(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """``--workers N`` of the arguments, and all others."""
    rest, given = [], "1"
    words = iter(arguments)
    for word in words:
        if word == WORKERS:
            given = next(words, "")
        elif word.startswith(f"{WORKERS}="):
            given = word.partition("=")[2]
        else:
            rest.append(word)
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= WORKERS_MAX):
        raise BadInput(f"{WORKERS}: a number from 1 to {WORKERS_MAX} is needed, not {given[:40]!r}")
    return int(given), rest


def _no_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """There are none."""


def _print_addon_path(options: argparse.Namespace, environment: Environment) -> int:
    print(ADDON)
    return OK


def _mitmdump() -> Path:
    """That of the environment which this package is in: another one would not find it."""
    folders = dict.fromkeys([Path(sysconfig.get_path("scripts")), Path(sys.executable).parent])
    for folder in folders:
        if os.access(folder / "mitmdump", os.X_OK):
            return folder / "mitmdump"
    raise BadInput(f"there is no mitmdump in {' or '.join(map(str, folders))}: mitmproxy has to be installed there")


RUN = Command(
    "run", "start the proxy: mitmdump with the cache; all arguments are mitmdump's", _add_run_arguments, _run,
    has_help=False,
)  # fmt: skip
ADDON_PATH = Command(
    "addon-path", 'print the script to start it with: mitmdump -s "$(proxy-cache addon-path)"', _no_arguments,
    _print_addon_path,
)  # fmt: skip
