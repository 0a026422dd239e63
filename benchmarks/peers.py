"""This proxy beside nginx, Squid, Varnish, Traffic Server and a textbook mitmproxy addon, in one run.

    just bench-peers                                          about 15 minutes
    just bench-peers --quick                                  about 3 minutes, and rough
    just bench-peers --other-python .venv-newer/bin/python    with this proxy on a second Python
    just bench-peers --write-docs                             the same, with tables and plot put into docs/
    just bench-peers --help                                   runs, seconds, contenders, raw results

How it measures, and how to read it: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from peer_measure import Bench, Results, wait_until_ready
from peer_plot import plot
from peer_report import END, PLOT_ROWS, START, markdown, ratios
from peer_servers import OTHERS, Contender, ours
from processes import ROOT, Origin
from report import machine, write_between
from run import check_tools, names, positive

DOCS = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"
FILES = 20_000
"""Files and sockets that each process may have open."""


def main() -> None:
    options = parse_arguments()
    check_tools()
    # So that `with` ends every process when we are told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A thousand idle connections need as many files, here and in each contender. No more than that: some set up as
    # many places as they may have.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if most == resource.RLIM_INFINITY else min(FILES, most), most))

    contenders = [contender for contender in chosen(options) if is_there(contender)]
    if not contenders:
        raise SystemExit("none of the contenders is there")
    versions = {contender.name: contender.version() for contender in contenders}
    cores = sorted(os.sched_getaffinity(0))
    results = measure(contenders, cores, options)

    command = public_command(sys.argv[1:])
    if options.json:
        raw = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command,
            "machine": machine(),
            "cores": len(cores),
            "runs": options.runs,
            "seconds": options.seconds,
            "versions": versions,
            **results.raw(),
        }
        options.json.write_text(json.dumps(raw, indent=1) + "\n")
    titles = {contender.name: contender.title for contender in contenders}
    plotted = ratios(results, titles, PLOT_ROWS)
    text = markdown(
        results,
        titles,
        list(versions.values()),
        runs=options.runs,
        seconds=options.seconds,
        cores=len(cores),
        command=command,
        plot=PLOT.name if plotted else None,
    )
    print(text)
    if plotted and options.svg:
        options.svg.write_text(plot(plotted, titles))
    if options.write_docs:
        if not DOCS.exists():
            DOCS.write_text(f"# Performance\n\n{START}\n{END}\n")
        write_between(DOCS, text, START, END)
        if plotted:
            PLOT.write_text(plot(plotted, titles))


def measure(contenders: Sequence[Contender], cores: Sequence[int], options: argparse.Namespace) -> Results:
    """Start the contenders, measure everything, end them."""
    peer_core, other_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    if other_core is not None:
        os.sched_setaffinity(0, {other_core})  # our own clients belong to where wrk is
    with tempfile.TemporaryDirectory(prefix="proxy-cache-peers-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        folder.chmod(0o711)  # Squid works under an account of its own
        with contextlib.ExitStack() as stack:
            origin = stack.enter_context(Origin(folder / "origin", other_core))
            origin.wait_until_listening()
            peers = []
            for contender in contenders:
                peers.append(stack.enter_context(contender.server(folder / contender.name, origin.port, peer_core)))
                wait_until_ready(peers[-1], origin)
            bench = Bench(origin, peers, options.runs, options.seconds, other_core)
            bench.everything()
        bench.collect_loop_lag()
    return bench.results


def chosen(options: argparse.Namespace) -> list[Contender]:
    found = [ours("ours", "this proxy", Path(sys.executable), options.set)]
    if options.other_python:
        # Not resolved: a virtual environment's python is a link out of it.
        python = options.other_python.absolute()
        version = subprocess.run(
            [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        ).stdout.strip()
        if not version:
            raise SystemExit(f"{options.other_python}: not a Python")
        found.append(ours(f"ours-{version}", f"this proxy, Python {version}", python, options.set))
    return [contender for contender in (*found, *OTHERS) if contender.name.partition("-")[0] in options.contenders]


def is_there(contender: Contender) -> bool:
    if not contender.find():
        print(f"{contender.title} is left out: {Path(contender.program).name} not found", file=sys.stderr)
        return False
    return True


def public_command(arguments: Sequence[str], recipe: str = "bench-peers") -> str:
    """The command as others would give it: without where its results went, and without folders of this machine."""
    parser = argparse.ArgumentParser(add_help=False)
    for option in ("--json", "--svg"):
        parser.add_argument(option)
    parser.add_argument("--write-docs", action="store_true")
    rest = parser.parse_known_args(arguments)[1]
    shown = [
        "/".join(Path(argument).parts[-3:]) if argument.startswith("/") else argument
        for argument in (part for argument in rest for part in _split_option(argument))
    ]
    return shlex.join(["just", recipe, *shown])


def _split_option(argument: str) -> list[str]:
    name, equals, value = argument.partition("=")
    return [name, value] if equals and name.startswith("--") else [argument]


def parse_arguments() -> argparse.Namespace:
    known = ("ours", *(contender.name for contender in OTHERS))

    def setting(text: str) -> str:
        if "=" not in text:
            raise argparse.ArgumentTypeError(f"{text}: not name=value")
        return text

    parser = argparse.ArgumentParser(
        prog="just bench-peers", description="Compare this proxy with caches of other kinds.", allow_abbrev=False
    )
    parser.add_argument("--runs", type=positive, help="measurements of everything, of which the median counts (5)")
    parser.add_argument("--seconds", type=positive, help="length of one measurement (3)")
    parser.add_argument("--quick", action="store_true", help="one run of 1 second")
    parser.add_argument("--contenders", type=names(known), default=list(known), help=f"of: {', '.join(known)}")
    parser.add_argument("--other-python", type=Path, metavar="PYTHON", help="run this proxy a second time, on this one")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a further option of this proxy"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"write {DOCS.name} and {PLOT.name} in docs/")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the plot there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw results there")
    options = parser.parse_args()
    options.runs = options.runs or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
