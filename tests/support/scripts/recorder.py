"""A mitmproxy script for tests: what another addon sees of each flow, one line of JSON per hook.

The file is named by the environment variable ``RECORDER_FILE``.
"""

from __future__ import annotations

import json
import os

from mitmproxy import http

REUSABLE = ("Cache-Control", "Expires", "ETag", "Last-Modified")
"""Header fields of which a response needs one to be used again: a time, or something to validate it by."""


class Recorder:
    def __init__(self) -> None:
        self.file = open(os.environ["RECORDER_FILE"], "a", buffering=1)  # noqa: SIM115

    def write(self, hook: str, flow: http.HTTPFlow) -> None:
        response = flow.response
        record = {
            "hook": hook,
            "method": flow.request.method,
            "url": flow.request.url,
            "client": flow.client_conn.peername,
            "status": response.status_code if response else None,
            "retry_after": response.headers.get("Retry-After") if response else None,
            "cache_status": response.headers.get("Cache-Status") if response else None,
            "reusable": response is not None and any(name in response.headers for name in REUSABLE),
            "error": str(flow.error) if flow.error else None,
        }
        self.file.write(json.dumps(record) + "\n")

    def response(self, flow: http.HTTPFlow) -> None:
        self.write("response", flow)

    def error(self, flow: http.HTTPFlow) -> None:
        self.write("error", flow)

    def done(self) -> None:
        self.file.close()


addons = [Recorder()]
