"""What a subcommand of ``proxy-cache`` is, and how it ends."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

OK: Final = 0
NEGATIVE: Final = 1
"""It has worked, and the answer is no: nothing found, something corrupt, a fault."""
FAILED: Final = 2
"""It has not worked: bad input, or a proxy that can't be reached or refuses."""

Environment: TypeAlias = Mapping[str, str]


class BadInput(Exception):
    """One line for the user, which names the option."""


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand. ``help``: its line in the list of all; ``description``: what its ``--help`` begins with."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser, Environment], None]
    run: Callable[[argparse.Namespace, Environment], int]
    """Returns the exit status. Raises :class:`BadInput`."""
    description: str = ""
    has_help: bool = True
    """Whether ``--help`` is ours to answer."""
    takes_more: bool = False
    """Whether arguments that it doesn't know are for somebody else: ``options.more`` has them."""
