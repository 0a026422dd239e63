"""TLS that ends in this proxy, beside nginx's own TLS, Squid's interception (ssl_bump) and mitmproxy's, in one run.

    just bench-tls                              about 12 minutes
    just bench-tls --quick                      about 2 minutes, and rough
    just bench-tls --parts hits --sizes '1 kB'  one of its parts, of one size
    just bench-tls --squid PROGRAM              Squid with OpenSSL, from where it was unpacked
    just bench-tls --before main                beside another commit: hits, and CONNECTs that stay tunnels
    just bench-tls --set access_log_format=json what an option costs, that only this checkout is started with
    just bench-tls --help                       runs, seconds, parts, sizes, contenders

How it measures, and how to read it: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import resource
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from ab import checkout
from peer_measure import SLOW_RUNS, Results, wait_until_ready
from peer_report import number, table, troubles
from peer_servers import OTHERS, Contender, Peer
from peers import FILES, public_command
from processes import ROOT, SIZES, clean_environment, fetch, pinned, wait_until_idle
from report import machine, write_between
from run import check_tools, names, positive
from tls_servers import INTERCEPTS, NAME, TlsOrigin, can_intercept, contenders, ours

PARTS = ("hits", "plain", "connections", "memory", "tunnel")
CONTENDERS = ("ours", "nginx", "squid", "textbook")
IDLE = 1000
"""Connections that stay open, of which each has had one answer."""
START, END = "<!-- tls:start -->", "<!-- tls:end -->"
DOCS = ROOT / "docs" / "performance.md"


@dataclass(slots=True)
class Tls:
    """What a contender and the client have agreed on, as the client tells."""

    protocol: str = "–"
    cipher: str = "–"
    key: str = "–"


@dataclass(slots=True)
class Bench:
    origin: TlsOrigin
    client: Path
    core: int | None
    """Of the client and the origin."""
    runs: int
    seconds: int
    connections_open: int
    results: Results = field(default_factory=Results)
    agreed: dict[str, Tls] = field(default_factory=dict)
    by_run: dict[str, dict[str, dict[int, float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    """Of each row and contender: what each run found."""

    # -- the client ---------------------------------------------------------------------------------------------

    def command(self, peer: Peer, size: int, *, tls: bool = True, tunnel: bool = False) -> list[str]:
        """``tunnel``: a CONNECT, to the origin without TLS."""
        path, plain = f"/{size}", f"{NAME}:{self.origin.port}"
        command = [str(self.client), str(peer.port), "--size", str(size)]
        if tunnel:
            command += ["--tunnel", plain, "--url", path, "--host", plain]
        elif tls and peer.contender.reverse:
            command += ["--tls", NAME, "--url", path, "--host", NAME]
        elif tls:
            command += [
                "--tunnel",
                self.origin.authority,
                "--tls",
                NAME,
                "--url",
                path,
                "--host",
                self.origin.authority,
            ]
        else:
            command += ["--url", path if peer.contender.reverse else f"http://{plain}{path}", "--host", plain]
        return pinned(self.core, command)

    def ask(self, row: str, peer: Peer, run: int, command: Sequence[str], *arguments: str) -> dict[str, Any]:
        """Run the client, and take notes of the rate and of the CPU time of a request."""
        ticks, began = peer.cpu_ticks(), time.monotonic()
        process = subprocess.Popen(
            [*command, "--seconds", str(self.seconds), *arguments], text=True, env=clean_environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout
        if "--each" not in arguments and process.stdout.readline():  # all connections are open, and are not counted
            ticks, began = peer.cpu_ticks(), time.monotonic()
        output, errors = process.communicate(timeout=self.seconds + 30)
        spent, used = time.monotonic() - began, peer.cpu_ticks() - ticks
        if process.returncode:
            self.results.trouble(row, peer.name, f"the client failed: {errors.strip()[-500:]}")
            return {}
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        if not (count := found["requests"]):
            self.results.trouble(row, peer.name, "no answers")
            return found
        for name, value in (
            (row, count / found["seconds"]),
            (f"CPU: {row}", used * 10_000 / count),
            (f"busy: {row}", used / 100 / spent),
            (f"p99: {row}", found["p99"] * 1000),
        ):
            self.results.add(name, peer.name, value)
            self.by_run[name][peer.name][run] = value
        if found["errors"]:
            self.results.trouble(row, peer.name, f"{found['errors']} errors in {count}")
        return found

    def by_turns(self, peers: Sequence[Peer], measure: Callable[[Peer, int], None]) -> None:
        """Every run begins with another contender."""
        for run in range(self.runs):
            turn = run % len(peers)
            for peer in [*peers[turn:], *peers[:turn]]:
                wait_until_idle(peers, patience=1.0)
                measure(peer, run)

    # -- what is measured ---------------------------------------------------------------------------------------

    def hits(self, peers: Sequence[Peer], size_name: str, *, tls: bool = True) -> None:
        size, row = SIZES[size_name], f"hit, {size_name}{'' if tls else ', without TLS'}"

        def measure(peer: Peer, run: int) -> None:
            with self.results.no_fetch(self.origin, peer, row):
                command = self.command(peer, size, tls=tls)
                found = self.ask(row, peer, run, command, "--connections", str(self.connections_open))
            if found and tls:
                self.agreed[peer.name] = Tls(found["protocol"], found["cipher"], found["key"])

        self.by_turns(peers, measure)

    def connections(self, peers: Sequence[Peer], kind: str) -> None:
        row = f"new connections, {kind}"

        def measure(peer: Peer, run: int) -> None:
            command = self.command(peer, SIZES["1 kB"])
            with self.results.no_fetch(self.origin, peer, row):
                found = self.ask(row, peer, run, command, "--connections", "8", "--each", kind)
            # The first of each of the eight has nothing to resume.
            if found and kind == "resumed" and found["resumed"] < found["handshakes"] - 8:
                self.results.trouble(row, peer.name, f"{found['resumed']} of {found['handshakes']} were resumed")
            if found and kind == "full" and found["resumed"]:
                self.results.trouble(row, peer.name, f"{found['resumed']} of {found['handshakes']} were resumed")

        self.by_turns(peers, measure)

    def memory(self, peer: Peer, *, tls: bool) -> None:
        """What a fresh process takes for connections that were used once, by what a few have taken before."""
        row = f"memory of an idle connection{', TLS' if tls else ', plain'}"
        command = self.command(peer, SIZES["10 kB"], tls=tls)
        try:
            self.hold(command, 50, lambda: None)
            wait_until_idle([peer])
            before = peer.memory()["RssAnon"]
            self.hold(command, IDLE, lambda: self.note_memory(row, peer, before))
        except ChildProcessError as error:
            self.results.trouble(row, peer.name, str(error))

    def note_memory(self, row: str, peer: Peer, before: float) -> None:
        wait_until_idle([peer])
        self.results.add(row, peer.name, (peer.memory()["RssAnon"] - before) * 1000 / IDLE)

    def hold(self, command: Sequence[str], count: int, meanwhile: Callable[[], None]) -> None:
        with subprocess.Popen(
            [*command, "--hold", "--connections", str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=clean_environment(),
        ) as process:  # fmt: skip
            assert process.stdout
            assert process.stdin
            if not process.stdout.readline():
                raise ChildProcessError(f"not all of {count} connections had an answer")
            meanwhile()
            process.stdin.close()

    def tunnel(self, peers: Sequence[Peer]) -> None:
        """A CONNECT that stays a tunnel, and one small exchange through it."""
        row = "tunnel: CONNECT and one exchange"

        def measure(peer: Peer, run: int) -> None:
            command = self.command(peer, SIZES["1 kB"], tunnel=True)
            self.ask(row, peer, run, command, "--connections", "8", "--each", "full")

        self.by_turns(peers, measure)

    # -- before that --------------------------------------------------------------------------------------------

    def check(self, peer: Peer, size: int, patience: float = 20.0) -> None:
        """Ask until it answers, and once more: then it is a hit, whose body must be the origin's."""
        deadline = time.monotonic() + patience
        answer: object = None
        while time.monotonic() < deadline:
            try:
                self.fetch(peer, size)
                before = self.origin.requests()
                answer = status, body = self.fetch(peer, size)
                if status == 200 and body == self.origin.body(size) and self.origin.requests() == before + 1:
                    return
            except (OSError, HTTPException) as error:
                answer = error
            time.sleep(0.1)
        raise SystemExit(f"{peer.name} does not cache ({answer!r:.200}); its command: {' '.join(peer.command)}")

    def fetch(self, peer: Peer, size: int) -> tuple[int, bytes]:
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection("127.0.0.1", peer.port, timeout=20, context=unverified)
        if not peer.contender.reverse:
            connection.set_tunnel(NAME, self.origin.tls_port)
        try:
            connection.request("GET", f"/{size}")
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def main() -> None:
    options = parse_arguments()
    check_tools()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if most == resource.RLIM_INFINITY else min(FILES, most), most))
    chosen = []
    for contender in contenders(options.squid, options.set):
        if contender.name not in options.contenders:
            continue
        if missing := can_intercept(contender):
            print(f"{contender.title} is left out: {missing}", file=sys.stderr)
        else:
            chosen.append(contender)
    versions = [contender.version() for contender in chosen]
    cores = sorted(os.sched_getaffinity(0))
    server_core, other_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="proxy-cache-tls-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        folder.chmod(0o711)  # Squid works under an account of its own
        client = compiled(folder)
        tunnels = [ours("ours", "this proxy", ROOT, options.set)]
        if options.before:
            before = stack.enter_context(checkout(options.before, folder / "before"))
            title = f"this proxy at {options.before}"
            chosen.insert(1, ours("before", title, before, [INTERCEPTS]))
            tunnels.append(ours("before", title, before, []))
        tunnels += [contender for contender in OTHERS if contender.name == "squid" and contender.find()]
        origin = stack.enter_context(TlsOrigin(folder / "origin", other_core))
        origin.wait_until_listening()
        bench = Bench(origin, client, other_core, options.runs, options.seconds, options.connections)
        measure(bench, chosen, tunnels, folder, server_core, options)
    titles = {contender.name: contender.title for contender in chosen}
    text = markdown(bench, titles, versions, len(cores), options)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(bench.results.raw(), indent=1) + "\n")
    if options.write_docs:
        write_between(DOCS, text, START, END)


def compiled(folder: Path) -> Path:
    """The client: wrk has TLS, but no CONNECT."""
    compiler = shutil.which("cc")
    if not compiler:
        raise SystemExit("cc: not found; on Debian: apt-get install gcc libc6-dev libssl-dev")
    program = folder / "tls_client"
    source = Path(__file__).with_name("tls_client.c")
    made = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(source), "-lssl", "-lcrypto"], capture_output=True, text=True
    )
    if made.returncode:
        raise SystemExit(f"{source.name} cannot be compiled (on Debian: libc6-dev, libssl-dev):\n{made.stderr}")
    return program


def measure(
    bench: Bench,
    chosen: Sequence[Contender],
    tunnels: Sequence[Contender],
    folder: Path,
    core: int | None,
    options: Any,
) -> None:
    @contextlib.contextmanager
    def started(which: Sequence[Contender], part: str) -> Iterator[list[Peer]]:
        with contextlib.ExitStack() as stack:
            peers = []
            for contender in which:
                place = folder / f"{contender.name}-{part}"
                peers.append(stack.enter_context(contender.server(place, bench.origin.port, core)))
                peers[-1].wait_until_listening()
            yield peers

    if "plain" in options.parts:
        free = [without_tls(contender) for contender in chosen if contender.name != "textbook"]
        with started(free, "plain") as peers:
            plain_hits(bench, peers, options.sizes)
    if {"hits", "connections"} & set(options.parts):
        with started(chosen, "tls") as peers:
            tls_hits(bench, peers, options)
    if "memory" in options.parts:
        for number, contender in itertools.product(range(min(options.runs, SLOW_RUNS)), chosen):
            with started([without_tls(contender)], f"plain-{number}") as [peer]:
                bench.memory(peer, tls=False)
            with started([contender], f"tls-{number}") as [peer]:
                bench.check(peer, SIZES["10 kB"])
                bench.memory(peer, tls=True)
    if "tunnel" in options.parts:
        with started(tunnels, "tunnel") as peers:
            bench.tunnel(peers)


def plain_hits(bench: Bench, peers: Sequence[Peer], sizes: Sequence[str]) -> None:
    for peer in peers:
        wait_until_ready(peer, bench.origin)
    for size in sizes:
        for peer in peers:
            fetch(peer.port, peer.target(f"http://{NAME}:{bench.origin.port}/{SIZES[size]}"))
        bench.hits(peers, size, tls=False)


def tls_hits(bench: Bench, peers: Sequence[Peer], options: Any) -> None:
    for peer in peers:
        for size in {"1 kB", *options.sizes}:
            bench.check(peer, SIZES[size])
    if "hits" in options.parts:
        for size in options.sizes:
            bench.hits(peers, size)
    if "connections" in options.parts:
        for kind in ("full", "resumed"):
            bench.connections(peers, kind)


def without_tls(contender: Contender) -> Contender:
    """The proxies have both on one port."""
    return next(other for other in OTHERS if other.name == "nginx") if contender.name == "nginx" else contender


def of_neighbours(bench: Bench, row: str, name: str, other: str) -> float | None:
    """The median of the ratios of two contenders' values in the same run."""
    one, two = bench.by_run[row][name], bench.by_run[row][other]
    ratios = [value / two[run] for run, value in one.items() if two.get(run)]
    return statistics.median(ratios) if ratios else None


def markdown(
    bench: Bench, titles: dict[str, str], versions: Sequence[str], cores: int, options: argparse.Namespace
) -> str:
    """Everything between the marks of docs/performance.md."""
    results = bench.results
    pinned_to = "the server on one core, the client and the origin on another" if cores > 1 else "all on one core"
    parts = [
        f"`{public_command(sys.argv[1:], 'bench-tls')}`, {datetime.date.today().isoformat()}, {cores} "
        f"{'core' if cores == 1 else 'cores'} of {machine()}, {ssl.OPENSSL_VERSION}: medians of {options.runs} runs of "
        f"{options.seconds} s, {options.connections} connections ({pinned_to}).",
        f"{'; '.join(versions)}.",
    ]
    if bench.agreed:
        parts.append(
            "Agreed on: "
            + "; ".join(
                f"{titles[name]} {tls.protocol}, {tls.cipher}, {tls.key} bits" for name, tls in bench.agreed.items()
            )
            + "."
        )
    rows = [row for row in results.cells if row.startswith(("hit, ", "new connections, "))]
    others = [name for name in titles if name != "ours"]
    if rows:
        lines = []
        for row in rows:
            lines.append((f"{row} (a second)", [number(results.value(row, name)) for name in titles]))
            cpu = f"CPU: {row}"
            lines.append((f"{row}: CPU (µs each)", [number(results.value(cpu, name)) for name in titles]))
        parts.append(table("", list(titles.values()), lines))
        if "ours" in titles and others:
            lines = []
            for row in rows:
                cells = []
                for name in others:
                    cells.append(number(of_neighbours(bench, row, "ours", name)))
                    cells.append(number(of_neighbours(bench, f"CPU: {row}", name, "ours")))
                lines.append((row, cells))
            columns = [f"{titles[name]}, {what}" for name in others for what in ("rate", "CPU")]
            parts += [
                "This proxy by each of the others, more than 1 is better: by what was answered in a second, and by CPU "
                "time (medians of the ratios of neighbouring runs).",
                table("this proxy by", columns, lines),
            ]
    rows = [row for row in results.cells if row.startswith("memory")]
    if rows:
        lines = [(f"{row} (kB)", [number(results.value(row, name)) for name in titles]) for row in rows]
        parts.append(table("", list(titles.values()), lines))
    rows = [row for row in results.cells if row.startswith("tunnel")]
    for row in rows:
        told = [
            f"{name} {number(results.value(row, name))} a second, {number(results.value(f'CPU: {row}', name))} µs each"
            for name in results.cells[row]
        ]
        ratio = of_neighbours(bench, f"CPU: {row}", "ours", "before")
        parts.append(f"{row}: {'; '.join(told)}." + (f" CPU, now by before: {ratio:.3f}." if ratio else ""))
    if found := troubles(results, titles):
        parts.append("Not clean:\n\n" + "\n".join(found))
    return "\n\n".join(parts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just bench-tls", description="Compare TLS that ends here with others'.")
    parser.add_argument("--runs", type=positive, help="measurements of everything, of which the median counts (5)")
    parser.add_argument("--seconds", type=positive, help="length of one measurement (2)")
    parser.add_argument("--connections", type=positive, default=32, help="at a time, of hits (32)")
    parser.add_argument("--quick", action="store_true", help="one run of 1 second")
    parser.add_argument("--sizes", type=names(tuple(SIZES)), default=list(SIZES), help=f"of: {', '.join(SIZES)}")
    parser.add_argument("--parts", type=names(PARTS), default=list(PARTS), help=f"of: {', '.join(PARTS)}")
    parser.add_argument(
        "--contenders", type=names(CONTENDERS), default=list(CONTENDERS), help=f"of: {', '.join(CONTENDERS)}"
    )
    parser.add_argument("--squid", default="squid", metavar="PROGRAM", help="a Squid built with OpenSSL (squid)")
    parser.add_argument("--before", metavar="COMMIT", help="a commit, or a checkout, to compare with")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of this checkout")
    parser.add_argument("--json", type=Path, help="a file for the numbers of every single run")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    options.runs = options.runs or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 2)
    return options


if __name__ == "__main__":
    main()
