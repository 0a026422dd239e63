"""The command ``proxy-cache``, run as users run it: in a pipe, or on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .origin import PATIENCE
from .proxy import ROOT, Proxy, clean_environment


@dataclass(frozen=True)
class Done:
    """What it has printed, and its exit status."""

    status: int
    out: str
    err: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Of NDJSON."""
        return [json.loads(line) for line in self.out.splitlines()]


class ProxyCache:
    """``ProxyCache(proxy)("status", "--json")``. ``token``: a file."""

    def __init__(self, proxy: Proxy | str | None = None, token: Path | None = None, **environment: str) -> None:
        self.environment = clean_environment(PYTHONPATH=str(ROOT), **environment)
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            self.environment.pop(name, None)
        # A proxy in the environment is never asked: nothing listens there.
        self.environment |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        if isinstance(proxy, Proxy):
            assert proxy.metrics_address is not None
            proxy = "http://{}:{}".format(*proxy.metrics_address)
        if proxy is not None:
            self.environment["PROXY_CACHE_API"] = proxy
        if token is not None:
            self.environment["PROXY_CACHE_TOKEN_FILE"] = str(token)

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "proxy_cache.cli", *map(str, arguments)]

    def __call__(self, *arguments: str | Path, stdin: str = "") -> Done:
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=PATIENCE * 4,
            env=self.environment,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def on_terminal(self, *arguments: str | Path, keys: bytes = b"", columns: int = 120, **environment: str) -> Done:
        """On a terminal of that width; ``keys`` are typed once something is there."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            self.command(*arguments), stdin=its, stdout=its, stderr=subprocess.PIPE,
            env={**self.environment, "TERM": "xterm-256color", **environment},
        )  # fmt: skip
        os.close(its)
        out = b""
        try:
            while data := _read(ours):
                out += data
                if keys:
                    os.write(ours, keys)
                    keys = b""
            _, err = process.communicate(timeout=PATIENCE * 4)
        finally:
            os.close(ours)
            if process.poll() is None:
                process.kill()
                process.wait()
        return Done(process.returncode, out.decode("utf8", "replace"), err.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # it has been closed at the other end
        return b""
