"""One endpoint of the API, as a value: :mod:`.api` makes a route of it, and :mod:`.openapi` its description."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from .problems import Problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Schema = Mapping[str, Any]
"""JSON Schema, as OpenAPI 3.1 has it."""
BODY_TIMEOUT: Final = 15.0
"""Seconds in which the body of a request has to be here."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of a query. ``repeatable``: whether it may be there more than once."""

    name: str
    description: str
    schema: Schema = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``path`` below ``/api/v1``. ``changes``: whether it changes anything, so that it needs the token."""

    method: str
    path: str
    handle: Handler
    summary: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Schema | None = None
    """Of the JSON object that it takes."""
    answer: Schema = field(default_factory=lambda: {"type": "object"})
    content_type: str = "application/json"
    changes: bool = False

    def check_query(self, request: web.Request) -> None:
        """Raises :class:`Problem` that names what is unknown, lacking, or there twice."""
        given = [name for name, _ in request.query.items()]
        if unknown := sorted(set(given).difference(one.name for one in self.parameters)):
            raise Problem(400, f"unknown parameter {shown(unknown[0])}; {known(one.name for one in self.parameters)}")
        for one in self.parameters:
            if one.required and one.name not in given:
                raise Problem(400, f"parameter {one.name} is needed")
            if not one.repeatable and given.count(one.name) > 1:
                raise Problem(400, f"parameter {one.name} is there more than once")


def known(names: Iterable[str]) -> str:
    """For an error: what would have been right."""
    return f"known: {', '.join(sorted(names)) or 'none'}"


def shown(text: str) -> str:
    """What somebody has sent, short enough for an error."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


async def json_body(request: web.Request, names: Iterable[str]) -> dict[str, Any]:
    """A JSON object with some of these members. Raises :class:`Problem`."""
    # A form on a foreign page can't have this type (Fetch §2.2.2), so that browsers without Origin are kept out, too.
    if request.content_type != "application/json":
        raise Problem(415, "the body must be JSON, with Content-Type: application/json")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            value = json.loads(await request.text())
    except TimeoutError:
        raise Problem(408, "the body has not come in time") from None
    except (ValueError, LookupError, RecursionError, web.RequestPayloadError):
        raise Problem(400, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise Problem(400, "the body must be a JSON object")
    if unknown := sorted(value.keys() - set(names)):
        raise Problem(400, f"unknown member {shown(unknown[0])}; {known(names)}")
    return value


def json_response(value: Any) -> web.Response:
    """In ASCII: in a terminal no byte of what clients and origins have sent is a control character."""
    return json_text(json.dumps(value))


def json_text(text: str) -> web.Response:
    """The same of JSON as it was written down."""
    return web.Response(text=text, content_type="application/json", charset="utf-8")
