"""How often a client asks again when all it gets is 503, and over which time: for the table in docs/clients.md.

    python -m tests.support.patience [pip-environment npm-file …] [-v]

Each recipe is run once against a proxy whose only slot is taken. Nothing here is a test: the time is what it is about.
"""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.client_stage import Stage
from tests.support.origin import Gate, Origin, Reply
from tests.support.recipes import Recipe, recipes

PATIENT = {"origin_timeout": 900}
"""Or the slot would be given back while the client still asks."""
_REFUSAL = re.compile(r"(\d\d:\d\d:\d\d\.\d+).*? ((?:GET|HEAD) \S+) 503 ")


def measure(recipe: Recipe, folder: Path) -> str:
    gate = Gate()
    with Origin() as other, Stage(folder, [recipe], origin_max_in_flight=1, origin_queue_timeout=0, **PATIENT) as stage:
        held = stage.proxy.start_get(other.serve("/held", Reply(gate=gate)))
        other.wait_for("/held")
        began = time.monotonic()
        status, printed = stage.agent(recipe).run(timeout=900)
        seconds = time.monotonic() - began
        gate.open()
        held.result()
        stage.proxy.settled()
    times: dict[str, list[datetime]] = defaultdict(list)
    for line in stage.proxy.log:
        if found := _REFUSAL.search(line):
            times[found[2]].append(datetime.strptime(found[1], "%H:%M:%S.%f"))
    if "-v" in sys.argv:
        print(printed, *stage.proxy.log, sep="\n")
    most = max(times.values(), key=len, default=[])
    pauses = [f"{(later - sooner).total_seconds():.1f}" for sooner, later in itertools.pairwise(most)]
    return (
        f"{recipe!s:32} asks {len(most)} times, with pauses of {', '.join(pauses) or 'nothing'} s; {len(times)} URLs; "
        f"exit status {status} after {seconds:.0f} s"
    )


def main() -> None:
    names = [name for name in sys.argv[1:] if not name.startswith("-")]
    for recipe in recipes():
        if names and str(recipe) not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(measure(recipe, Path(folder)), flush=True)
            except pytest.skip.Exception as error:
                print(f"{recipe!s:32} {error}", flush=True)


if __name__ == "__main__":
    main()
