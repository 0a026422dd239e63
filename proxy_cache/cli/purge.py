"""``proxy-cache purge``: what is stored goes, or is validated before it is used again (``--soft``)."""

from __future__ import annotations

import argparse
from typing import Any

from . import api
from .command import NEGATIVE, OK, BadInput, Command, Environment
from .output import Output
from .text import count, size

_DESCRIPTION = """\
Remove what is stored for a URL, a host, URLs like a pattern, a tag, or everything; what is being fetched meanwhile is
not stored. --soft: it stays, made stale: the origin is asked whether it has changed. Exit status 1: nothing was there.
"""
_CHOICES = ("host", "match", "tag", "all")


def _add_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    parser.add_argument("url", metavar="URL", nargs="?", help="one URL, in all its variants")
    parser.add_argument("--host", metavar="HOST", help="all of a host")
    parser.add_argument(
        "--match", metavar="FILTER", help="URLs like a pattern, such as 'http://packages.example/*.whl'"
    )
    parser.add_argument("--tag", metavar="TAG", help="what has this Surrogate-Key or Cache-Tag")
    parser.add_argument("--all", action="store_true", default=None, help="everything")
    parser.add_argument("--soft", action="store_true", help="make it stale, instead of removing it")
    api.add_arguments(parser, environment, token=True)


def _run(options: argparse.Namespace, environment: Environment) -> int:
    given = {name: value for name in ("url", *_CHOICES) if (value := getattr(options, name)) is not None}
    if len(given) != 1:
        raise BadInput("one of URL, --host, --match, --tag and --all is needed, and no two of them")
    body: dict[str, Any] = given
    if options.soft:
        body["soft"] = True
    done = api.api_of(options, environment, token=True).post("purge", body)
    output = Output(environment)
    purged, fills = done.get("purged", 0), done.get("fills", 0)
    if options.json:
        output.json(done)
    else:
        what = "made stale" if options.soft else "purged"
        running = f"; {count(fills)} being fetched won't be stored" if fills else ""
        output.line(
            f"{count(purged)} {what} ({size(done.get('bytes'))}){running}", "ok" if purged or fills else "warning"
        )
    return OK if purged or fills else NEGATIVE


COMMAND = Command("purge", "remove what is stored, or make it stale", _add_arguments, _run, _DESCRIPTION)
