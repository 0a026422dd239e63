"""A real Squid, on a port of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .tools import free_port, need, run_in_background


@contextlib.contextmanager
def running_squid(folder: Path, *lines: str) -> Iterator[str]:
    """Its URL. ``lines``: more of its configuration."""
    program = need("squid")
    port = free_port()
    folder = folder / "squid"
    folder.mkdir()
    (folder / "squid.conf").write_text(
        "\n".join(
            (
                f"http_port 127.0.0.1:{port}",
                "http_access allow all",
                "access_log none",
                f"cache_log {folder}/cache.log",
                f"pid_filename {folder}/squid.pid",
                f"coredump_dir {folder}",
                "shutdown_lifetime 0 seconds",
                "pinger_enable off",
                *lines,
                "",
            )
        )
    )
    folder.chmod(0o777)
    with run_in_background([program, "-N", "-f", str(folder / "squid.conf")], ("127.0.0.1", port)):
        yield f"http://127.0.0.1:{port}"
