"""Requests as other addons leave them: our hooks for them are called after everybody else's.

mitmproxy calls the hooks of its scripts before those of most of its own addons. A cache that answered there would
never see what ``map_remote``, ``modify_headers`` or a script that comes later make of a request. So these two hooks are
at the end of mitmproxy's chain: requests are looked up, stored and fetched as a plain mitmdump would have sent
them.

Responses are another matter: they are stored as the origin has sent them, and other addons change them on their way to
a client, from the cache or not.
"""

from __future__ import annotations

from mitmproxy import ctx, http

from .flow_requests import FlowRequests
from .observers import REQUESTS_NAME


class LateHooks:
    """The end of mitmproxy's chain of addons."""

    name = REQUESTS_NAME

    def __init__(self, flows: FlowRequests) -> None:
        self._flows = flows

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        self._flows.begin(flow)

    async def request(self, flow: http.HTTPFlow) -> None:
        await self._flows.answer_request(flow)

    def join(self) -> None:
        """Go to the end of the chain."""
        earlier = ctx.master.addons.get(self.name)
        if earlier is not None:
            ctx.master.addons.remove(earlier)
        ctx.master.addons.add(self)

    def leave(self) -> None:
        """If the script ends, and not the process: then requests on connections that are open still come here."""
        if not ctx.master.should_exit.is_set() and ctx.master.addons.get(self.name) is self:
            ctx.master.addons.remove(self)
