"""Requests that have an id (option ``request_id``): parsed with it in place, and answered with it."""

from __future__ import annotations

from typing import Literal

from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..semantics.request_ids import FIELD, made, taken
from .requests import Request, parse_request, with_line


def parse_with_id(data: bytes, limits: HeadLimits = DEFAULT_HEAD_LIMITS) -> Request | Literal["unusual"] | None:
    """Like :func:`.requests.parse_request`, but the request has an id: its own, or a new one."""
    request = parse_request(data, limits)
    if isinstance(request, Request):
        own = taken(request.fields.headers.get_all(FIELD.lower()))
        request.makes_id = not own
        _give(request, own or made())
    return request


def with_lines_of(request: Request, head: bytes) -> bytes:
    """The head of an answer, with the field lines that are about its request alone. A request that is remembered is
    another one each time it comes, with another id if that is made here. (A miss keeps the one it was parsed with.)"""
    if request.makes_id:
        _give(request, made())
    return with_line(head, request.persistence)


def _give(request: Request, request_id: str) -> None:
    request.id, before = request_id, len(request.id_line)
    request.id_line = f"{FIELD}: {request_id}\r\n".encode("ascii")
    request.persistence = request.persistence[: len(request.persistence) - before] + request.id_line
