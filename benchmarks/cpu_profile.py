"""Where a mitmdump spends its CPU time: a further script, ``mitmdump -s addons/cache.py -s benchmarks/cpu_profile.py``.

Every millisecond of CPU time the stack of the main thread is taken down. ``CPU_PROFILE_FILE`` in the environment names
the file for the result, which is written every second: a line per stack, outermost function first, with the number of
times it was found. Flame graph programs read that; and

    python benchmarks/cpu_profile.py FILE

prints the share of each function, with what it calls and by itself.

A sampler that stops the process from outside catches it in system calls more often than it is there; this one does not.
What other threads use is counted where the main thread happens to be. There is no flow hook in here, see
``loop_lag.py``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL = 0.001


class CpuProfile:
    def __init__(self) -> None:
        self.stacks: Counter[tuple[str, ...]] = Counter()
        self.task: asyncio.Task[None] | None = None

    def running(self) -> None:
        self.task = asyncio.create_task(self.write_now_and_then())
        signal.signal(signal.SIGPROF, self.sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def done(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if self.task:
            self.task.cancel()

    def sample(self, number: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            code = frame.f_code
            stack.append(f"{code.co_qualname} ({_short(code.co_filename)})")
            frame = frame.f_back
        self.stacks[tuple(reversed(stack))] += 1

    async def write_now_and_then(self) -> None:
        while name := os.environ.get("CPU_PROFILE_FILE"):
            await asyncio.sleep(1)
            lines = (f"{';'.join(stack)} {count}\n" for stack, count in self.stacks.items())
            Path(name).write_text("".join(lines))  # noqa: ASYNC240 - nothing is measured meanwhile but this


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def summary(folded: str, most: int = 60) -> str:
    """Shares of all samples, the biggest first."""
    total = 0
    inclusive: Counter[str] = Counter()
    own: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        functions = stack.split(";")
        total += int(count)
        own[functions[-1]] += int(count)
        for function in set(functions):
            inclusive[function] += int(count)
    lines = [f"{'all':>7} {'own':>7}  of {total} samples"]
    for function, samples in inclusive.most_common(most):
        lines.append(f"{samples / total:7.1%} {own[function] / total:7.1%}  {function}")
    return "\n".join(lines)


addons = [CpuProfile()]

if __name__ == "__main__":
    print(summary(Path(sys.argv[1]).read_text()))
