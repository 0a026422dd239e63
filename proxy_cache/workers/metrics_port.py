"""The metrics port of all workers, in the parent: what each of them says, summed up or handed on."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..admin import guard, page
from ..admin.api import PREFIX, problems
from ..admin.endpoint import json_response
from ..admin.events import Events
from ..admin.listener import Listener
from ..admin.problems import Problem
from ..admin.server import runner_of, why_not
from ..semantics.targets import TargetError, absolute
from ..settings import AdminSettings
from ..upstream.peers.peer import Peer
from ..upstream.peers.ranking import Ranking
from . import entries
from .asking import ClientError, Workers
from .child import Child
from .exposition import Summed, own
from .statuses import merged

logger = logging.getLogger(__name__)

WORKER: Final = "worker"
"""The parameter that names one worker to be asked."""
_ONLY_ONE: Final = frozenset({f"{PREFIX}/verify"})
"""What can be asked of one worker alone."""
_HANDED_ON: Final = ("Accept", "Authorization", "Content-Type")
_HANDED_BACK: Final = ("Content-Type", "Cache-Control", "WWW-Authenticate", "Retry-After", "Allow")
_CHUNK: Final = 64 * 1024
_WORKER: Final = re.compile(r"[0-9]{1,4}")


class MetricsPortError(Exception):
    """It can't be opened. The message names the option and the reason."""


class MetricsPort(Collector):
    """``folder``: of the workers' sockets."""

    def __init__(self, children: Sequence[Child], folder: Path) -> None:
        self._workers = Workers(children, folder)
        self._summed = Summed()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(self._summed)
        self._ranking = Ranking(Peer("http", "", 0, name=f"worker-{child.index}") for child in children)
        self._settings = AdminSettings()
        self._events = Events(self._status, _failed)
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None
        self._asking = asyncio.Lock()

    def allow(self, hosts: Iterable[str]) -> None:
        """By which names it may be asked, as expressions (``admin_hosts``)."""
        self._settings = AdminSettings(hosts=tuple(re.compile(host) for host in hosts))

    def lost(self, worker: int) -> None:
        """It has died."""
        self._summed.has_died(worker)

    # -- listening --------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises :class:`MetricsPortError`."""
        app = web.Application(middlewares=[problems, self._guarded], client_max_size=8 << 20)
        for path, handler in (
            ("/metrics", self._metrics), ("/healthz", self._healthz), ("/readyz", self._readyz),
            ("/status", self._show_status), (f"{PREFIX}/status", self._show_api_status),
            (f"{PREFIX}/events", self._events.handle), (f"{PREFIX}/entries", self._entries),
        ):  # fmt: skip
            app.router.add_get(path, handler)
        page.add_to(app.router)
        app.router.add_route("*", PREFIX + "/{rest:.*}", self._hand_on)
        app.on_shutdown.append(self._shut_down)
        self._runner = runner_of(app)
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(self._runner.server)
        try:
            await self._listener.open(host, port)
        except (OSError, UnicodeError) as error:
            await self.stop()
            raise MetricsPortError(why_not(host, port, error)) from error

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return self._listener.addresses if self._listener is not None else []

    @property
    def url(self) -> str:
        host, port = self.addresses[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._workers.close()

    async def _shut_down(self, app: web.Application) -> None:
        self._events.close()

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        guard.check_host(request.headers.getall("Host", []), self._settings)
        guard.check_site(request.headers)
        return await handler(request)

    # -- summed up --------------------------------------------------------------------------------------------------

    async def _metrics(self, request: web.Request) -> web.Response:
        async with self._asking:
            children = self._workers.children
            lives = [child.lives for child in children]
            told = await self._workers.ask_all("/metrics")
            for child, life in zip(children, lives, strict=True):
                text = told.get(child.index)
                if text is not None and child.process is not None and child.lives == life:
                    self._summed.told(child.index, text)
                else:
                    self._summed.is_silent(child.index)
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
            return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    def collect(self) -> Iterable[Metric]:
        """What is the parent's own to tell."""
        children = self._workers.children
        restarts = sum(max(child.lives - 1, 0) for child in children)
        yield from own((len(children), sum(child.is_ready for child in children), restarts))

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        children = self._workers.children
        if all(child.is_ready for child in children):
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready\n")

    async def _show_status(self, request: web.Request) -> web.Response:
        return web.json_response(merged(await self._workers.statuses("/status"), self._known()))

    async def _status(self) -> dict[str, Any]:
        return merged(await self._workers.statuses(f"{PREFIX}/status"), self._known())

    async def _show_api_status(self, request: web.Request) -> web.StreamResponse:
        if WORKER in request.query:
            return await self._hand_on(request)
        return json_response(await self._status())

    def _known(self) -> list[dict[str, Any]]:
        now = time.monotonic()
        return [
            {
                "worker": child.index,
                "pid": child.process.pid if child.process is not None else None,
                "ready": child.is_ready,
                "restarts": max(child.lives - 1, 0),
                "running_seconds": round(now - child.started_at, 3) if child.process is not None else 0.0,
            }
            for child in self._workers.children
        ]

    async def _entries(self, request: web.Request) -> web.StreamResponse:
        if WORKER in request.query:
            return await self._hand_on(request)
        return await entries.listed(self._workers, request.query, _handed_on(request))

    # -- handed on --------------------------------------------------------------------------------------------------

    async def _hand_on(self, request: web.Request) -> web.StreamResponse:
        """To the worker that is named, to the one that is the home of a URL, or to any."""
        index = self._worker_for(request)
        url = request.url.with_scheme("http").with_host("localhost").with_port(None).without_query_params(WORKER)
        body = await request.read() if request.can_read_body else None
        response: web.StreamResponse | None = None
        try:
            async with self._workers.session(index).request(
                request.method, url, headers=_handed_on(request), data=body
            ) as answer:
                back = {name: answer.headers[name] for name in _HANDED_BACK if name in answer.headers}
                response = web.StreamResponse(status=answer.status, headers=back)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
        except (ClientError, OSError) as error:
            if response is None:
                raise Problem(503, f"worker {index} does not answer", {"Retry-After": "2"}) from error
            if request.transport is not None:
                request.transport.abort()  # it has broken off, there or here: nobody is to take it for whole
        return response

    def _worker_for(self, request: web.Request) -> int:
        children = self._workers.children
        if (name := request.query.get(WORKER)) is not None:
            if _WORKER.fullmatch(name) is None or int(name) >= len(children):
                raise Problem(400, f"worker: a number from 0 to {len(children) - 1}")
            if not self._workers.is_there(int(name)):
                raise Problem(503, f"worker {name} is being started", {"Retry-After": "2"})
            return int(name)
        if request.path in _ONLY_ONE:
            raise Problem(501, f"with several workers this is for one at a time: add ?worker=0 to {len(children) - 1}")
        ready = [child.index for child in children if child.is_ready]
        if not ready:
            raise Problem(503, "the proxy is starting or stopping", {"Retry-After": "2"})
        home = self._home(request.query.get("url", ""))
        return home if home in ready else ready[0]

    def _home(self, url: str) -> int | None:
        """The worker that is the home of a URL, but for rules that leave parameters out of keys."""
        try:
            home = self._ranking.home(absolute(url).key)
        except (TargetError, ValueError):
            return None
        return int(home.url.rpartition("-")[2]) if home is not None else None


def _handed_on(request: web.Request) -> dict[str, str]:
    return {name: request.headers[name] for name in _HANDED_ON if name in request.headers}


def _failed(error: Exception) -> None:
    logger.error("proxy-cache: internal error", exc_info=error)
