"""Requests that have an id (option ``request_id``): parsed with it in place."""

from __future__ import annotations

from typing import Literal

from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..semantics.request_ids import FIELD, taken_or_made
from .requests import Request, parse_request


def parse_with_id(data: bytes, limits: HeadLimits = DEFAULT_HEAD_LIMITS) -> Request | Literal["unusual"] | None:
    """Like :func:`.requests.parse_request`, but the request has an id: its own, or a new one. It is another one in each
    request, so none of these may be remembered by its bytes."""
    request = parse_request(data, limits)
    if isinstance(request, Request):
        request.id = taken_or_made(request.fields.headers.get_all(FIELD.lower()))
        request.id_line = f"{FIELD}: {request.id}\r\n".encode("ascii")
        request.persistence += request.id_line
    return request
