"""Errors of the API, as RFC 9457 has them: ``application/problem+json``."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping

from aiohttp import web

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """A request is refused. ``detail`` is one sentence that says what to do."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """RFC 9457 §4.2.1: without a ``type`` the title is that of the status."""
        try:
            title = http.HTTPStatus(self.status).phrase
        except ValueError:
            title = "Error"
        text = json.dumps({"title": title, "status": self.status, "detail": self.detail})
        return web.Response(status=self.status, text=text, content_type=CONTENT_TYPE, headers=self.headers)
