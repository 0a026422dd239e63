"""``/api/v1/openapi.json``: the API's description (OpenAPI 3.1), made of its endpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

from .. import __version__
from .endpoint import Endpoint, Parameter, json_response
from .problems import CONTENT_TYPE

_PROBLEM: Final = {
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {"title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}},
}
_ERRORS: Final = {
    400: "A parameter or a member of the body is unknown, or has a bad value.",
    403: "A page of another site asks; or what changes something is off, for want of the option admin_token_file.",
    421: "Host is none of this machine's names, nor in the option admin_hosts.",
    500: "Something has failed here, such as the disk; detail says what.",
    503: "The proxy is starting or stopping, or serves as many already as it can.",
}
_ERRORS_OF_CHANGES: Final = {
    401: "No token, or none that is in the file of admin_token_file.",
    408: "The body has not come in time.",
    413: "The body is too long.",
    415: "The body is not application/json.",
}


def endpoint(others: Iterable[Endpoint], prefix: str) -> Endpoint:
    async def handle(request: web.Request) -> web.Response:
        return json_response(description)

    own = Endpoint("GET", "/openapi.json", handle, "This description.")
    description = describe((*others, own), prefix)
    return own


def describe(endpoints: Iterable[Endpoint], prefix: str) -> dict[str, Any]:
    """The description of all of them."""
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(prefix + one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "proxy-cache", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A line of the file of admin_token_file."}
            },
            "schemas": {"Problem": _PROBLEM},
        },
    }


def _operation(one: Endpoint) -> dict[str, Any]:
    errors = _ERRORS | (_ERRORS_OF_CHANGES if one.changes else {})
    problem = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    operation: dict[str, Any] = {
        "operationId": f"{one.method.lower()}_{one.path.strip('/').replace('.', '_')}",
        "summary": one.summary,
        "parameters": [_parameter(parameter) for parameter in one.parameters],
        "responses": {
            "200": {"description": "Done.", "content": {one.content_type: {"schema": one.answer}}},
            **{str(status): {"description": text, "content": problem} for status, text in sorted(errors.items())},
        },
        "security": [{"token": []}] if one.changes else [],
    }
    if one.description:
        operation["description"] = one.description
    if one.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": one.body}}}
    return operation


def _parameter(one: Parameter) -> dict[str, Any]:
    schema = {"type": "array", "items": one.schema} if one.repeatable else one.schema
    return {"name": one.name, "in": "query", "description": one.description, "required": one.required, "schema": schema}
