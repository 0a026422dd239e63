"""Calls of the API on the metrics port, as a program makes them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .proxy import Proxy

TOKEN = "a-token-for-tests-of-the-api"
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """What is wrong, of an error that looks as it should."""
        assert self.headers["Content-Type"].partition(";")[0] == PROBLEM
        assert self.json["status"] == self.status
        assert self.json["title"]
        return str(self.json["detail"])


def call(proxy: Proxy, method: str, path: str, body: Any = None, *, token: str | None = None, **fields: str) -> Answer:
    """``fields`` with underscores in place of dashes. A ``body`` of ``bytes`` goes out as it is, others as JSON."""
    assert proxy.metrics_address is not None
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(*proxy.metrics_address, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def token_file(folder: Path, *tokens: str) -> Path:
    """A file for ``admin_token_file``, with :data:`TOKEN` unless others are given."""
    file = folder / "admin-token"
    file.write_text("\n".join(tokens or (TOKEN,)))
    return file
