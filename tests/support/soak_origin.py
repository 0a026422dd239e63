"""An origin for soaks, in a process of its own: what it answers follows from the target, the clock and chance.

``/s<size>/<kinds>/<name>``; the kinds, joined by commas: ``odd`` (may answer 503, reset, send no HTTP, break off, or
take its time), ``nostore``, ``short`` (fresh for a second), ``chunked``, ``changing`` (another version every minute).
Versions are told by the ETag, and their bytes by :func:`seed_of`.

    python -m tests.support.soak_origin      prints its port; ends with its standard input
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any, Self

from .origin import Origin, Reply, Request

ROOT = Path(__file__).resolve().parents[2]
VERSION_LASTS = 60.0
"""Seconds."""


def kinds_of(target: str) -> set[str]:
    return set(target.split("/")[2].split(","))


def size_of(target: str) -> int:
    return int(target.split("/")[1][1:])


def seed_of(target: str, etag: str) -> str:
    """What the bytes of this version follow from (see :mod:`.content`)."""
    return f"{target}#{etag}"


class SoakOrigin(Origin):
    """Never the same twice, but every byte can be checked."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(1)

    def _reply_for(self, target: str) -> Reply:
        self.requests.clear()  # nobody asks what it has seen, and it is asked for hours
        kinds, size, chance = kinds_of(target), size_of(target), self.chance
        version = 0
        if "changing" in kinds:
            version = int((time.time() + zlib.crc32(target.encode()) % VERSION_LASTS) / VERSION_LASTS)
        etag = f'"{version}"'
        lifetime = "no-store" if "nostore" in kinds else "max-age=1" if "short" in kinds else "max-age=600"
        headers = (("Cache-Control", lifetime), ("ETag", etag), ("Accept-Ranges", "bytes"))
        reply: dict[str, Any] = {
            "size": size, "headers": headers, "seed": seed_of(target, etag), "chunked": "chunked" in kinds,
        }  # fmt: skip
        if "odd" in kinds:
            dice = chance.random()
            if dice < 0.05:
                return Reply(status=503, size=3, headers=())
            if dice < 0.08:
                return Reply(fail="reset")
            if dice < 0.11:
                return Reply(fail="garbage")
            if dice < 0.15:
                return Reply(cut=size // 2, **reply)
            if dice < 0.25:
                return Reply(delay=chance.random(), **reply)
            if dice < 0.28:
                return Reply(rate=max(10_000, size // 4), **reply)
        return Reply(**reply)

    @staticmethod
    def _range(request: Request, reply: Reply, total: int) -> tuple[int, int] | None:
        if "," in (request.header("Range") or ""):
            return None  # all of it: a server may
        return Origin._range(request, reply, total)


class SoakOriginProcess:
    """``with SoakOriginProcess() as origin: origin.url("/s10/plain/x")``."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.soak_origin"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it. Idempotent."""
        if self.process.poll() is None:
            self.process.communicate()

    def url(self, target: str) -> str:
        return f"http://127.0.0.1:{self.port}{target}"


def main() -> None:
    with SoakOrigin() as origin:
        print(origin.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
