"""The metrics port: ``/metrics``, ``/healthz``, ``/readyz``, ``/status``, the API, and the page that shows the latter.
What may be asked by whom is decided in :mod:`.guard`."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ..settings import AdminSettings
from . import guard, page
from .api import Api, problems
from .listener import Listener

IDLE_MAX = 15.0
"""Seconds that a connection may take to send a whole request."""


class AdminError(Exception):
    """The port cannot be opened. The message names the option and the reason."""


class AdminServer:
    """A small HTTP server beside the proxy. ``is_ready()``: whether requests can be served; ``status()``: the answer of
    ``/status``; ``settings()``: as they are now."""

    def __init__(
        self,
        registry: CollectorRegistry,
        is_ready: Callable[[], bool],
        status: Callable[[], dict[str, Any]],
        api: Api | None = None,
        settings: Callable[[], AdminSettings] = AdminSettings,
    ) -> None:
        self._registry = registry
        self._is_ready = is_ready
        self._status = status
        self._api = api
        self._settings = settings
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen. Returns the address, with the actual port for port 0. Raises :class:`AdminError`."""
        app = web.Application(middlewares=[problems, self._guarded])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/status", self._show_status)
        if self._api is not None:
            self._api.add_to(app.router)
            app.on_shutdown.append(self._api.close)
            page.add_to(app.router)
        self._runner = runner_of(app)
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(self._runner.server)
        try:
            return await self._listener.open(host, port)
        except (OSError, UnicodeError) as error:
            await self.stop()
            raise AdminError(why_not(host, port, error)) from error

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: none before the start, and after the end."""
        return self._listener.addresses if self._listener is not None else []

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        guard.check_host(request.headers.getall("Host", []), self._settings())
        guard.check_site(request.headers)
        return await handler(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self._is_ready() else web.Response(status=503, text="not ready\n")

    async def _show_status(self, request: web.Request) -> web.Response:
        return web.json_response(self._status())


def runner_of(app: web.Application) -> web.AppRunner:
    """What serves the port, be it one process's or that of several."""
    app.on_response_prepare.append(_for_nobody_else)
    # Counted from the start of the connection, or from its last response: so also for half a request.
    return web.AppRunner(
        app,
        access_log=None,
        logger=_log_of_our_faults(),
        handle_signals=False,
        keepalive_timeout=IDLE_MAX,
        lingering_time=1.0,
        shutdown_timeout=1.0,
    )


def why_not(host: str, port: int, error: Exception) -> str:
    """Why the port can't be opened, and what helps."""
    taken = getattr(error, "errno", None) == errno.EADDRINUSE
    reason = "the port is taken" if taken else getattr(error, "strerror", None) or str(error)
    return (
        f"metrics_listen: cannot listen on {host}:{port}: {reason}; "
        f"another one: --set metrics_listen={host}:PORT (0: any that is free; empty: none)"
    )


def _log_of_our_faults() -> logging.Logger:
    """aiohttp's log, without a traceback for each request that is none, or whose client has left: anybody could fill
    the disk with them, and end mitmdump while it starts, since that takes any error in the log for its own."""
    log = logging.getLogger(__name__)
    log.addFilter(_is_our_fault)
    return log


def _is_our_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)


async def _for_nobody_else(request: web.Request, response: web.StreamResponse) -> None:
    """If agents fetch these through the proxy they must not get old values; and no page of another site gets any."""
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
