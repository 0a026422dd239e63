"""Several processes that are one proxy, as a user would start them: ``proxy-cache run --workers N``."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, Self

from .origin import PATIENCE
from .proxy import ROOT, START_TIMEOUT, Proxy


class Workers(Proxy):
    """``with Workers(tmp_path, count=2, origin_max_in_flight=8) as proxy: …``. The process is the parent."""

    def __init__(self, folder: Path, *, count: int = 2, **options: Any) -> None:
        environment = {"PYTHONPATH": str(ROOT), **options.pop("environment", {})}
        super().__init__(folder, execute=True, environment=environment, **options)
        self.count = count

    def command(self) -> list[str]:
        mitmdump, *arguments = super().command()
        at = arguments.index("-s")
        assert Path(mitmdump).name == "mitmdump"
        own = arguments[:at] + arguments[at + 2 :]  # the script is the command's
        return [sys.executable, "-m", "proxy_cache.cli", "run", "--workers", str(self.count), *own]

    def start(self) -> Self:
        super().start()
        self.wait_for_log("workers answer", START_TIMEOUT)
        return self

    def workers(self) -> list[dict[str, Any]]:
        found = self.status()["workers"]
        assert isinstance(found, list)
        return found

    def kill_worker(self, index: int) -> int:
        """SIGKILL. Returns the process's id."""
        pid = self.workers()[index]["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_until_all_are_back(self, timeout: float = START_TIMEOUT) -> None:
        self.eventually(lambda: self.admin("/readyz")[0], lambda status: status == 200, timeout, "readiness")

    def peer_ports(self) -> list[int]:
        """Where the workers listen for each other: whatever they listen at that is not for clients."""
        pids = {str(worker["pid"]) for worker in self.workers()}
        inodes = set()
        for pid in pids:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                    inodes.add(match[1])
        ports = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # LISTEN
                ports.add(int(fields[1].rpartition(":")[2], 16))
        return sorted(ports - {self.address[1]})


__all__ = ["PATIENCE", "Workers"]
