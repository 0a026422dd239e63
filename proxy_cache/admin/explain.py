"""``/api/v1/explain``: what a request would get now, and why. Read-only; nothing is asked of an origin."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ..caching.explain import VERDICTS
from ..caching.recent_reasons import KINDS
from ..downstream.explainer import BadQuestion, NotReady, Question
from .endpoint import Endpoint, Parameter, Schema, json_response
from .problems import Problem
from .proxy import Proxy

_TEXT: Final[Schema] = {"type": "string"}
_MAYBE: Final[Schema] = {"type": ["string", "null"]}
_TIME: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_STATUS: Final[Schema] = {"type": ["integer", "null"]}
_NUMBER: Final[Schema] = {"type": "integer"}
_SENTENCE: Final[Schema] = {"type": "object", "properties": {"text": _TEXT, "rfc": _MAYBE}}
_VARIANT: Final[Schema] = {
    "type": "object",
    "properties": {
        "selected": {"type": "boolean"},
        "variant": {"type": "object", "additionalProperties": _MAYBE},
        "status": _NUMBER,
        "size": _NUMBER,
        "present": _NUMBER,
        "stored_at": _TIME,
        "age_seconds": _NUMBER,
        "ttl_seconds": _NUMBER,
        "fresh_until": _TIME,
        "state": {"enum": ["fresh", "stale"]},
        "freshness_rule": _SENTENCE,
        "stale_use": _SENTENCE,
        "etag": _MAYBE,
        "last_modified": _MAYBE,
    },
}
_REASON: Final[Schema] = {
    "type": "object",
    "properties": {
        "kind": {"enum": list(KINDS)},
        "reason": _TEXT,
        "text": _TEXT,
        "rfc": _MAYBE,
        "status": _STATUS,
        "detail": _MAYBE,
        "at": _TIME,
        "times": _NUMBER,
    },
}
ANSWER: Final[Schema] = {
    "type": "object",
    "properties": {
        "url": _TEXT,
        "key": _TEXT,
        "method": _TEXT,
        "verdict": {"enum": list(VERDICTS)},
        "status": _STATUS,
        "fwd": _MAYBE,
        "sentences": {"type": "array", "items": _SENTENCE},
        "stored": {"type": "array", "items": _VARIANT},
        "not_stored": {"anyOf": [_REASON, {"type": "null"}]},
        "recent": {"type": "array", "items": _REASON},
    },
}


def endpoint(proxy: Proxy) -> Endpoint:
    async def handle(request: web.Request) -> web.Response:
        query = request.query
        try:
            question = Question.of(query["url"], query.getall("header", []), query.get("method", "GET"))
            return json_response(await proxy.explainer.explain(question))
        except BadQuestion as error:
            raise Problem(400, str(error)) from None
        except NotReady:
            raise Problem(503, "the proxy has not started") from None

    return Endpoint(
        "GET", "/explain", handle, "What is stored for a URL, what a request would get now, and why.",
        "Nothing is fetched, counted, or marked as used. Secrets in URLs and credentials are hidden.",
        parameters=(
            Parameter("url", "As clients ask for it, with http:// or https://.", required=True),
            Parameter("header", "A field of the request, as 'Name: value'.", repeatable=True),
            Parameter("method", "Of the request; GET if it isn't there."),
        ),
        answer=ANSWER,
    )  # fmt: skip
