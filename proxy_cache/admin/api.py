"""The API under ``/api/v1``: which endpoints there are, and what holds for all of them.

To add one: a module with a function that makes its :class:`~.endpoint.Endpoint`, and a line in :func:`endpoints`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from . import entries, explain, openapi, purge, verify, warm
from .endpoint import Endpoint
from .events import Events
from .guard import check_token
from .problems import Problem
from .proxy import Proxy
from .snapshot import Snapshots

PREFIX = "/api/v1"


def endpoints(proxy: Proxy, snapshots: Snapshots, events: Events) -> tuple[Endpoint, ...]:
    """All of them."""
    found = (
        snapshots.endpoint(), events.endpoint(), entries.endpoint(proxy), explain.endpoint(proxy),
        purge.endpoint(proxy), verify.endpoint(proxy), warm.endpoint(proxy),
    )  # fmt: skip
    return (*found, openapi.endpoint(found, PREFIX))


class Api:
    """Adds its routes to the metrics port's."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        snapshots = Snapshots(proxy)
        self._events = Events(snapshots.read, proxy.failed)
        self.endpoints = endpoints(proxy, snapshots, self._events)

    def add_to(self, router: web.UrlDispatcher) -> None:
        for endpoint in self.endpoints:
            router.add_route(endpoint.method, PREFIX + endpoint.path, self._checked(endpoint))

    async def close(self, app: web.Application) -> None:
        """The port closes: it would wait for streams that have no end of their own."""
        self._events.close()

    def _checked(self, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if endpoint.changes:
                settings = self._proxy.settings
                if settings is None:
                    raise Problem(503, "the proxy has not started")
                check_token(request.headers.get("Authorization"), settings.admin)
            endpoint.check_query(request)
            return await endpoint.handle(request)

        return handle


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors below ``/api/`` are JSON, those of the router as well."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPException as error:
        if not request.path.startswith("/api/") or error.status < 400:
            raise
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return Problem(error.status, f"{request.method} {request.path[:200]}: {error.reason}", allowed).response()
