"""Limits that the machine, a container or a service sets: descriptors and memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..mitm.listening import FILES_MAX
from ..semantics.texts import human_size
from .finding import OK, WARNING, Finding

FEW: Final = 4096
"""Descriptors. A client takes one, and a miss another; the store keeps some hundreds open."""
SHARE: Final = 0.5
"""Of all memory that ``cache_memory`` may be: as much again is for the index, connections, and the page cache."""


def check(cache_memory: int) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    limit = max(limit, soft)
    raised = f" (the start raises it from {soft:,})" if soft < limit else ""
    if limit < FEW:
        text = f"{limit:,}{raised}: enough for about {limit // 3:,} clients; LimitNOFILE= or ulimit -Hn raises it"
        yield Finding("descriptors", WARNING, text)
    else:
        yield Finding("descriptors", OK, f"{limit:,}{raised}")
    memory, whose = _memory()
    if memory is None:
        return
    if cache_memory > SHARE * memory:
        text = f"{human_size(cache_memory)} of {human_size(memory)} ({whose}): more than half of it"
        yield Finding("cache_memory", WARNING, text)
    else:
        yield Finding("cache_memory", OK, f"{human_size(cache_memory)} of {human_size(memory)} ({whose})")


def _memory() -> tuple[int | None, str]:
    """Bytes that this process may have, and who says so."""
    found: int | None = None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                found = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    limit = _cgroup_limit()
    if limit is not None and (found is None or limit < found):
        return limit, "the limit of its control group"
    return found, "of the machine"


def _cgroup_limit() -> int | None:
    """The least of those on the way to the root (cgroup v2)."""
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2].strip("/")
    except (OSError, IndexError):
        return None
    root = Path("/sys/fs/cgroup")
    limits = []
    for folder in (root / own, *(root / own).parents):
        if not folder.is_relative_to(root):
            break
        try:
            limits.append(int((folder / "memory.max").read_text()))
        except (OSError, ValueError):  # no limit there
            continue
    return min(limits, default=None)
