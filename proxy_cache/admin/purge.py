"""``/api/v1/purge``: drop what is stored, or make it stale (:mod:`..caching.purge`)."""

from __future__ import annotations

import logging
from typing import Any, Final

from aiohttp import web

from ..caching.purge import Everything, Purged, SweepError, Tag, Url, What, Where
from ..semantics.redaction import shown
from ..semantics.tags import is_tag
from ..semantics.targets import TargetError, absolute
from ..semantics.url_patterns import HostPattern, UrlPattern
from .endpoint import Endpoint, json_body, json_response
from .problems import Problem
from .proxy import Proxy

logger = logging.getLogger(__name__)

KINDS: Final = ("url", "host", "match", "tag", "all")
BODY: Final = {
    "type": "object",
    "description": "Exactly one of url, host, match, tag and all.",
    "properties": {
        "url": {"type": "string", "description": "One URL, with all its variants."},
        "host": {
            "type": "string",
            "description": "A host, on all ports or on the one that it is given with; *.example.com: all that end so.",
        },
        "match": {
            "type": "string",
            "description": "A URL, in which * stands for any characters, also none and also slashes.",
        },
        "tag": {"type": "string", "description": "A tag in Surrogate-Key or Cache-Tag."},
        "all": {"const": True},
        "soft": {"type": "boolean", "default": False, "description": "Made stale, and not dropped."},
    },
    "additionalProperties": False,
    "oneOf": [{"required": [kind]} for kind in KINDS],
}
ANSWER: Final = {
    "type": "object",
    "required": ["purged", "bytes", "fills"],
    "properties": {
        "purged": {"type": "integer", "description": "Stored responses."},
        "bytes": {"type": "integer", "description": "What they take, or took, on disk."},
        "fills": {"type": "integer", "description": "Fills under way: what they bring is not stored."},
    },
}


def endpoint(proxy: Proxy) -> Endpoint:
    async def handle(request: web.Request) -> web.Response:
        body = await json_body(request, (*KINDS, "soft"))
        what = parse(body, proxy)
        soft = body.get("soft", False)
        if not isinstance(soft, bool):
            raise Problem(400, "soft must be true or false")
        purger = proxy.purger
        if purger is None or not proxy.is_ready:
            raise Problem(503, "the proxy is starting or stopping")
        try:
            purged = await purger.purge(what, soft=soft)
        except SweepError as error:
            raise Problem(500, str(error)) from error
        tell(body, purged)
        return json_response({"purged": purged.entries, "bytes": purged.size, "fills": purged.fills})

    return Endpoint(
        "POST", "/purge", handle, "Drop what is stored, or make it stale.",
        "When it is answered, nothing of it is served to a request that comes then.",
        body=BODY, answer=ANSWER, changes=True,
    )  # fmt: skip


def parse(body: dict[str, Any], proxy: Proxy) -> What:
    """What is to be purged. Raises :class:`Problem`."""
    kinds = [kind for kind in KINDS if kind in body]
    if len(kinds) != 1:
        raise Problem(400, f"exactly one of {', '.join(KINDS)} is needed")
    (kind,) = kinds
    value = body[kind]
    if kind == "all":
        if value is not True:
            raise Problem(400, "all must be true")
        return Everything()
    if not isinstance(value, str):
        raise Problem(400, f"{kind} must be a string")
    try:
        match kind:
            case "url":
                settings = proxy.settings
                return Url.of(absolute(value), settings.rules.ignored_parameters if settings is not None else ())
            case "host":
                return Where(HostPattern(value))
            case "match":
                return Where(UrlPattern(value))
    except (TargetError, ValueError) as error:
        raise Problem(400, f"{kind}: {error}") from error
    if not is_tag(value):
        raise Problem(400, "tag must be of visible ASCII characters, without commas, and 1024 at the most")
    return Tag(value)


def tell(body: dict[str, Any], purged: Purged) -> None:
    """The log who is to know where it has all gone."""
    kind = next(kind for kind in KINDS if kind in body)
    logger.info(
        "proxy-cache: purged %s%s%s: %d entries, %d bytes, %d fills under way",
        kind, "" if kind == "all" else f" {shown(str(body[kind]))}", ", softly" if body.get("soft") else "",
        purged.entries, purged.size, purged.fills,
    )  # fmt: skip
