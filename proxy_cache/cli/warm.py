"""``proxy-cache warm``: have the cache filled before somebody asks."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from . import api
from .command import NEGATIVE, OK, BadInput, Command, Environment
from .output import Output
from .progress import Progress
from .text import count, duration, size

_DESCRIPTION = """\
Have the proxy fetch what it does not have yet of these URLs. It asks as one client more, named "warm": through the same
queue, in its turn, a few at a time; it ends with this command. FILE has a URL a line (# begins a remark), - is the
standard input. Exit status 1: not all of them are stored now.

  proxy-cache warm urls.txt
  proxy-cache warm -H 'Accept-Encoding: gzip' http://packages.example/simple/sample/
"""
BATCH: Final = 500
"""URLs that the proxy is given at once."""
_STYLES: Final = {"hit": "weak", "filled": "ok", "not_stored": "warning", "error": "fault"}
_WORDS: Final = {"hit": "hit", "filled": "filled", "not_stored": "not stored", "error": "error"}


def _add_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    parser.add_argument("sources", metavar="FILE|URL", nargs="+", help="URLs, or files with some")
    parser.add_argument(
        "-j", "--concurrency", metavar="COUNT", type=int, help="fetch so many at a time (default: the proxy's, 4)"
    )
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], dest="headers",
        help="a field of all requests, where responses vary by it (may be repeated)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="name only what is not stored")
    api.add_arguments(parser, environment, token=True)


def _run(options: argparse.Namespace, environment: Environment) -> int:
    urls = list(dict.fromkeys(url for source in options.sources for url in _urls(source)))
    if not urls:
        raise BadInput("there is no URL in what was given")
    proxy, output = api.api_of(options, environment, token=True), Output(environment)
    outcomes: Counter[str] = Counter()
    fetched = 0
    with Progress(output, "warming", len(urls), is_shown=not options.json) as progress:
        for line in _asked(proxy, urls, options):
            if options.json:
                output.json_line(line)
            if "outcome" not in line:  # how far those are that run
                running = sum(one.get("bytes", 0) for one in line.get("running", ()))
                progress.at(outcomes.total(), len(urls), size(fetched + running))
                continue
            outcome = str(line["outcome"])
            outcomes[outcome] += 1
            if outcome == "filled":
                fetched += line.get("bytes") or 0
            if not options.quiet or outcome not in ("hit", "filled"):
                progress.line(_told(line), _STYLES.get(outcome, "none"))
            progress.at(outcomes.total(), len(urls), size(fetched))
    if outcomes.total() < len(urls):
        raise BadInput(f"the proxy has ended after {outcomes.total()} of {len(urls)}")
    if not options.json:
        parts = [f"{count(outcomes[outcome])} {word}" for outcome, word in _WORDS.items() if outcomes[outcome]]
        output.line(f"{', '.join(parts)}; {size(fetched)} fetched")
    return OK if outcomes["hit"] + outcomes["filled"] == len(urls) else NEGATIVE


def _asked(proxy: api.Api, urls: Sequence[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    body: dict[str, Any] = {}
    if options.concurrency is not None:
        body["concurrency"] = options.concurrency
    if options.headers:
        body["headers"] = options.headers
    for start in range(0, len(urls), BATCH):
        yield from proxy.stream("warm", {**body, "urls": urls[start : start + BATCH]})


def _urls(source: str) -> Iterator[str]:
    """Of one argument."""
    if "://" in source:
        yield source
        return
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf8")
    except OSError as error:
        raise BadInput(f"{source}: {error.strerror}") from error
    except UnicodeError as error:
        raise BadInput(f"{source} is no text") from error
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            url = line.split(" #")[0].strip()  # a # alone may belong to the URL
            if "://" not in url:
                raise BadInput(f"{source}, line {number}: {url[:80]!r} is no http:// or https:// URL")
            yield url


def _told(line: dict[str, Any]) -> str:
    outcome = _WORDS.get(str(line["outcome"]), str(line["outcome"]))
    detail = f" ({line['detail']})" if line.get("detail") else ""
    taken = f"{size(line.get('bytes'))} in {duration(line.get('seconds'))}" if line.get("bytes") is not None else ""
    return f"{outcome:<10}  {taken:<20}  {line.get('url', '')}{detail}"


COMMAND = Command("warm", "have the cache filled before somebody asks", _add_arguments, _run, _DESCRIPTION)
