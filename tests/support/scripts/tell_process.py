"""A mitmproxy script for tests: prints, as JSON, what kind of process it is loaded into."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

print(
    "process",
    json.dumps(
        {
            "arguments": sys.argv,
            "folder": str(Path.cwd()),
            "environment": dict(sorted(os.environ.items())),
            "path": [os.path.realpath(folder) for folder in sys.path],
            "name": Path("/proc/self/comm").read_text(),
            "session": os.getsid(0),
            "group": os.getpgid(0),
            "handlers": {
                name: str(signal.getsignal(number)).partition(" at ")[0]
                for name, number in signal.Signals.__members__.items()
            },
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "threads": [thread.name for thread in threading.enumerate()],
            "ours": sorted(name for name in sys.modules if name.partition(".")[0] in ("proxy_cache", "tests")),
            "streams": [
                (stream.fileno(), stream.encoding, stream.errors, stream.line_buffering, stream.write_through)
                for stream in (sys.stdin, sys.stdout, sys.stderr)
            ],
            "descriptors": sorted(
                os.readlink(f"/proc/self/fd/{name}").partition("[")[0]
                for name in os.listdir("/proc/self/fd")
                if os.path.exists(f"/proc/self/fd/{name}")
            ),
        }
    ),
)
