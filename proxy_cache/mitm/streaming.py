"""Bodies that may pass as they come, and those that another addon of mitmproxy's needs whole."""

from __future__ import annotations

import re
from typing import Any, Final

from mitmproxy import ctx, http

from ..caching.headers import Heads
from ..downstream.body_sender import BodySender
from ..store.body import BodyError
from . import compat
from .flows import refusal
from .forwarded.heads import is_chunked
from .observers import IDLE_WITHOUT

WITH_HEADS: Final = ("blocklist", "anticache", "anticomp", "maplocal", "stickyauth", "stickycookie")
"""mitmproxy's addons that wait for the end of a request to look at its head, in the order of its chain. Each does the
same again when it is asked twice."""


def may_stream(flow: http.HTTPFlow) -> bool:
    """Whether a request's body may go to the origin as it comes. What other addons want with the request is done
    before: mitmproxy asks them once the body is complete, and by then its head would be gone.

    ``False`` also if one of them has answered.
    """
    for name in WITH_HEADS:
        addon = _at_work(name)
        if addon is not None:
            addon.request(flow)
    if flow.response is not None or flow.error is not None:
        return False
    # An addon that reads the body, or sends it somewhere else when it is asked again, has to wait for all of it.
    return not (_at_work("serverplayback") or _is_mapped(flow) or _has_rule("modifybody", flow))


async def buffer_body(flow: http.HTTPFlow, heads: Heads, *, always: bool) -> bool:
    """Read an answer of the cache to its end if ``modify_body`` has a rule for it, which wants it whole, or ``always``.
    Whether it was; a body that breaks off makes an error of it."""
    response = flow.response
    sender = response.stream if response is not None else None
    if response is None or not isinstance(sender, BodySender) or not (always or needs_buffering(flow)):
        return False
    chunks = []
    try:
        while chunk := sender.checked(await sender.source.read()):
            chunks.append(chunk)
            sender.sent += len(chunk)
    except (BodyError, OSError) as error:
        flow.response = refusal(heads, 502, "http_response_incomplete", str(error))
        return True
    finally:
        sender.close()
    response.stream = False
    if is_chunked(response):
        del response.headers["Transfer-Encoding"]
    response.raw_content = b"".join(chunks)
    response.headers["Content-Length"] = str(len(response.raw_content))
    return True


def needs_buffering(flow: http.HTTPFlow) -> bool:
    """Whether ``modify_body`` changes the body of this response. As in mitmproxy, one that is longer than its option
    ``stream_large_bodies`` is streamed and stays as it is."""
    if flow.response is None or flow.request.method == "HEAD" or not _has_rule("modifybody", flow):
        return False
    if not compat.BODY_RULES.is_on:
        return True
    limit = compat.find("mitmproxy.utils.human:parse_size")(ctx.options.stream_large_bodies)
    length: str = flow.response.headers.get("content-length", "")
    return limit is None or not (length.isascii() and length.isdigit()) or int(length) <= limit


def _at_work(name: str) -> Any:
    """One of mitmproxy's own addons, if an option has it do something."""
    addon = ctx.master.addons.get(name)
    options = IDLE_WITHOUT.get(name, ())
    return addon if addon is not None and any(getattr(ctx.options, option, None) for option in options) else None


def _is_mapped(flow: http.HTTPFlow) -> bool:
    """Whether ``map_remote`` sends a request somewhere else."""
    addon = _at_work("mapremote")
    if not compat.BODY_RULES.is_on:
        return addon is not None
    url = flow.request.pretty_url
    return addon is not None and any(spec.matches(flow) and re.search(spec.subject, url) for spec in addon.replacements)


def _has_rule(name: str, flow: http.HTTPFlow) -> bool:
    addon = _at_work(name)
    if not compat.BODY_RULES.is_on:
        return addon is not None
    return addon is not None and any(spec.matches(flow) for spec in addon.replacements)
