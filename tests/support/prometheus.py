"""A real Prometheus on loopback (Debian's ``prometheus``), which scrapes proxies."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from .origin import PATIENCE

PROGRAM, TOOL = shutil.which("prometheus"), shutil.which("promtool")
INTERVAL = 1
"""Seconds between two scrapes."""


class Prometheus:
    """``targets``: addresses by the name of the instance."""

    def __init__(self, folder: Path, targets: Mapping[str, tuple[str, int]], rules: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._targets = targets
        self._rules = rules
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._log: list[str] = []
        self._is_ready = threading.Event()
        self._port = 0
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Self:
        assert PROGRAM is not None
        configuration = {
            "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"},
            "rule_files": [str(path) for path in self._rules],
            "scrape_configs": [
                {
                    "job_name": "proxy-cache",
                    "static_configs": [
                        {"targets": [f"{host}:{port}"], "labels": {"instance": name}}
                        for name, (host, port) in self._targets.items()
                    ],
                }
            ],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / "prometheus.yml"
        # (JSON is YAML, too.)
        file.write_text(json.dumps(configuration))
        self._process = subprocess.Popen(
            [
                PROGRAM, f"--config.file={file}", f"--storage.tsdb.path={self._folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        assert self._is_ready.wait(PATIENCE), "\n".join(self._log)
        assert self._port, "\n".join(self._log)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(PATIENCE)
        assert self._reader is not None
        self._reader.join(PATIENCE)

    def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
            if found := re.search(r'"?Listening on"? address=127\.0\.0\.1:(\d+)', line):
                self._port = int(found[1])
            elif "Server is ready" in line:
                self._is_ready.set()
        self._is_ready.set()  # it has ended

    def api(self, path: str, **parameters: Any) -> Any:
        """The ``data`` of an answer of its API."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with self._opener.open(url, timeout=PATIENCE) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series with their present values."""
        found: list[dict[str, Any]] = self.api("query", query=expression)["result"]
        return found

    def wait_for(self, expression: str) -> None:
        """Until it has a result."""
        deadline = time.monotonic() + PATIENCE
        while not self.query(expression):
            assert time.monotonic() < deadline, f"{expression} has no result"
            time.sleep(INTERVAL / 10)
