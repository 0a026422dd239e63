"""Run the suite again and again: a test that fails once in a while shows itself, sooner beside a load.

    python tests/repeatedly.py 5 --beside-load 2 [-- arguments of pytest]

One line a run; what a run that failed has printed is kept. It ends after so many runs, or when the time is up, and
nothing of it goes on after that. The exit status is 1 if any run failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
"""As ``just test`` has it."""
SPIN = """
import os, time
parent, end = os.getppid(), time.monotonic() + {seconds}
while time.monotonic() < end and os.getppid() == parent:
    for _ in range(200_000):
        pass
"""
"""A load: it ends with its time, and with whoever has started it."""


@contextlib.contextmanager
def load(seconds: float) -> Iterator[None]:
    """As many busy processes as there are cores, until the end of the block, ``seconds`` at most."""
    busy = [
        subprocess.Popen([sys.executable, "-c", SPIN.format(seconds=seconds)])
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()


def run(command: list[str], output: Path, seconds: float) -> int | None:
    """One run, with all that belongs to it. Its exit status, or ``None`` if it was ended after ``seconds``."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="?", default=5, help="how many (5)")
    parser.add_argument(
        "--beside-load", type=int, nargs="?", const=-1, default=0, metavar="COUNT",
        help="the last COUNT runs (or all) beside a load on all cores",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=30, help="for one run, which is ended then and failed (30)")
    parser.add_argument("--minutes-in-all", type=float, default=180, help="no run goes on after that (180)")
    here = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, arguments = parser.parse_args(sys.argv[1:here]), sys.argv[here + 1 :]
    loaded = options.runs if options.beside_load < 0 else options.beside_load
    deadline = time.monotonic() + options.minutes_in_all * 60
    folder = Path(tempfile.mkdtemp(prefix="proxy-cache-runs-"))
    failed = 0
    for number in range(1, options.runs + 1):
        seconds = min(options.minutes * 60, deadline - time.monotonic())
        if seconds <= 0:
            print(f"{options.minutes_in_all:g} minutes are over", flush=True)
            failed += 1
            break
        beside = number > options.runs - loaded
        output = folder / f"{number}.log"
        began = time.monotonic()
        with load(seconds + 60) if beside else contextlib.nullcontext():
            status = run([*COMMAND, *arguments], output, seconds)
        lines = output.read_text(errors="replace").splitlines() or [""]
        told = lines[-1].strip("= ") if status is not None else "ended: it took too long"
        where = " beside a load" if beside else ""
        took = time.monotonic() - began
        print(f"run {number} of {options.runs}{where}: status {status}, {took:.0f} s, {told}", flush=True)
        if status == 0:
            output.unlink()
            continue
        failed += 1
        for line in lines:
            if line.startswith(("FAILED ", "ERROR ")):
                print(f"  {line[:300]}")
        print(f"  {output}", flush=True)
    if not failed:
        folder.rmdir()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
