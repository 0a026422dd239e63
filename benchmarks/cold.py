"""Hits on small objects that nothing has in memory: a big index, just opened, and a cold page cache.

    python benchmarks/cold.py              1,000,000 entries, 10,000,000 bytes of objects of 1 kB and of 10 kB
    python benchmarks/cold.py --help       other numbers

A cache folder with that many entries is built, the objects are fetched through the proxy, and the proxy is ended. Then
the folder's files are thrown out of the page cache, the proxy is started anew, and each object is asked for once, in
random order, over 32 connections; then once more, which is what it costs when they are in memory. A byte that reaches
the origin in between fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from index import build
from processes import Mitmdump, Origin, fetch

CONNECTIONS = 32
BLOCK = 4096


def throw_out(folder: Path) -> float:
    """Have the kernel forget what is below ``folder``; the share of it that is still in the page cache."""
    kept = blocks = 0
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        fd = os.open(path, os.O_RDWR)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(0, os.fstat(fd).st_size, 16 * BLOCK):
                blocks += 1
                try:
                    kept += os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
                except BlockingIOError:
                    pass
        finally:
            os.close(fd)
    return kept / max(blocks, 1)


async def ask(port: int, urls: list[str], size: int) -> float:
    """Each URL once over ``CONNECTIONS`` connections that stay open; seconds for all of them."""
    left = iter(urls)

    async def agent() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for url in left:
            writer.write(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(size)
            if not head.startswith(b"HTTP/1.1 200 ") or len(body) != size:
                raise SystemExit(f"{url}: {head.decode('latin-1')}")
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(agent() for _ in range(CONNECTIONS)))
    return time.perf_counter() - start


def ready(proxy: Mitmdump, url: str) -> None:
    """It listens before its index is open; what is asked for until then waits."""
    proxy.wait_until_listening()
    fetch(proxy.port, url)


def measure(folder: Path, entries: int, size: int, count: int) -> dict[str, float]:
    cache = folder / f"cache-{size}"
    build(cache, entries)
    settings = [f"cache_dir={cache}", "cache_max_size=1000g", "cache_min_free=0", "metrics_listen=127.0.0.1:0"]
    script = ["-s", str(Path(__file__).resolve().parents[1] / "addons" / "cache.py")]
    arguments = [*script, *(part for setting in settings for part in ("--set", setting))]
    with Origin(folder / f"origin-{size}", None) as origin:
        origin.wait_until_listening()
        (origin.folder / "files" / str(size)).write_bytes(os.urandom(size))
        urls = [f"{origin.url(size)}/{number}" for number in range(count)]
        with Mitmdump("ours", arguments, folder / "conf", None) as proxy:
            ready(proxy, origin.url(size))
            miss = asyncio.run(ask(proxy.port, urls, size))
        random.Random(3).shuffle(urls)
        kept = throw_out(cache)
        with Mitmdump("ours", arguments, folder / "conf", None) as proxy:
            ready(proxy, f"{origin.url(size)}/again")
            before = origin.requests()
            cold = asyncio.run(ask(proxy.port, urls, size))
            warm = asyncio.run(ask(proxy.port, urls, size))
        if (fetched := origin.requests() - before - 1) != 0:
            raise SystemExit(f"{fetched} requests reached the origin")
    return {
        "in the page cache before": kept,
        "misses/s": count / miss,
        "cold hits/s": count / cold,
        "warm hits/s": count / warm,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="in the index besides (1000000)")
    parser.add_argument("--bytes", type=int, default=10_000_000, help="of all objects (10000000)")
    parser.add_argument("--folder", type=Path, default=None, help="where to put the cache (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for size in (1_000, 10_000):
            figures = measure(Path(temporary), options.entries, size, options.bytes // size)
            print(f"{options.bytes // size} objects of {size} bytes among {options.entries} entries:")
            for name, figure in figures.items():
                print(f"  {name:26} {figure:10.2f}")
            print(json.dumps({"size": size, "python": sys.version.split()[0], **figures}), file=sys.stderr)


if __name__ == "__main__":
    main()
