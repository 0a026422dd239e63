"""wrk as the client, and what it reports."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import clean_environment, pinned

CONNECTIONS = 32
SCRIPT = Path(__file__).with_name("proxy.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk."""

    requests: int
    seconds: float
    bytes: int
    errors: int
    """Answers of status 400 and up, broken connections, and answers that took more than 10 s."""
    p99: float
    """Seconds in which 99 of 100 answers were complete."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class LoadFailed(SystemExit):
    """wrk could not do its work: the proxy is gone, say. Ends the benchmark where nobody expects it."""


def run(
    proxy_port: int,
    url: str,
    seconds: int,
    core: int | None,
    distinct: str | None = None,
    span: str | None = None,
    origin_form: bool = False,
    listed: Path | None = None,
) -> Load:
    """Ask a proxy for ``url``, or for ``span`` of it (``0-99``), over and over; with ``distinct``, for a new URL below
    it each time; with ``listed``, for the URLs in that file, one on a line, by turns. (All are of the host of ``url``.)
    A reverse proxy wants ``origin_form``: the request line has no more than the URL's path."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT)]
    environment = clean_environment(BENCH_URL=url)
    if span:
        environment["BENCH_RANGE"] = f"bytes={span}"
    if origin_form:
        environment["BENCH_ORIGIN_FORM"] = "1"
    if distinct:
        environment["BENCH_DISTINCT"] = distinct
    if listed:
        environment["BENCH_LIST"] = str(listed)
    process = subprocess.Popen(
        pinned(core, [*command, f"http://127.0.0.1:{proxy_port}"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        output = process.communicate(timeout=seconds + 30)[0]
    finally:
        process.kill()
        process.wait()
    try:
        report = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise LoadFailed(f"wrk failed (exit status {process.returncode}):\n{output}") from None
    return Load(
        requests=report["requests"],
        seconds=report["microseconds"] / 1e6,
        bytes=report["bytes"],
        errors=report["bad_status"] + report["socket_errors"] + report["timeouts"],
        p99=report["p99_microseconds"] / 1e6,
    )
