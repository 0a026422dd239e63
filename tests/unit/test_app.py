"""The proxy without mitmproxy around it: built from settings, given others, drained, closed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy_cache.app import App, StartError
from proxy_cache.caching.cache import CacheSettings
from proxy_cache.caching.limiter import Limits
from proxy_cache.downstream.admission import Route
from proxy_cache.semantics.keys import Target
from proxy_cache.store.store import Quota
from tests.support.settings import MIB, settings

TARGET = Target.of("http", "packages.example", 80, "/x")


def test_it_opens_is_asked_and_ends(tmp_path: Path) -> None:
    async def live() -> None:
        app = App()
        assert app.status() == {"ready": False}
        app.configure(settings(cache_dir=tmp_path / "cache"))
        assert app.admission.route("GET", TARGET, ()) is Route.UNAVAILABLE
        await app.open()
        assert app.status()["ready"] is True
        assert app.admission.route("GET", TARGET, ()) is Route.CACHE
        app.refuse_new()
        assert app.status()["ready"] is False
        assert app.admission.route("GET", TARGET, ()) is Route.UNAVAILABLE
        assert app.admission.route_connect("packages.example", 443) is Route.UNAVAILABLE
        await app.drain()
        await app.close()

    asyncio.run(live())


def test_new_settings_reach_whatever_goes_by_them(tmp_path: Path) -> None:
    async def live() -> None:
        app = App()
        app.configure(settings(cache_dir=tmp_path / "cache"))
        await app.open()
        changed = settings(
            cache_dir=tmp_path / "cache", quota=Quota(32 * MIB, 0, MIB), memory=5, verify_rate=7, spill_max=11,
            limits=Limits(3, 2, 16, 10, 0), default_ttl=13, quick_abort_max=17, quick_abort_timeout=19,
            cache=CacheSettings(serve_stale_on_overload=True), access_log=True,
        )  # fmt: skip
        app.configure(changed)
        store, fills, cache = app.store, app.fills, app.cache
        assert store is not None
        assert fills is not None
        assert cache is not None
        assert (store.quota, store.memory_max, store.verifier.rate, store.spill.limit) == (changed.quota, 5, 7, 11)
        context = fills.context
        assert (context.default_ttl, context.quick_abort_max, context.quick_abort_timeout) == (13, 17, 19)
        assert app.limiter.limits == changed.limits
        assert cache.serving.settings == changed.cache
        assert app.accounts.is_logged
        await app.close()

    asyncio.run(live())


def test_requests_are_waited_for_and_then_cut(tmp_path: Path) -> None:
    async def live() -> None:
        app = App()
        app.configure(settings(cache_dir=tmp_path / "cache", shutdown_grace=60))
        await app.open()
        record = app.accounts.begin()
        app.refuse_new()
        draining = asyncio.get_running_loop().create_task(app.drain())
        await asyncio.wait([draining], timeout=0.01)
        assert not draining.done()
        app.accounts.ended(record, "GET", TARGET, "client", 200)
        await draining
        await app.close()

    asyncio.run(live())


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def live() -> None:
        app = App()
        app.configure(settings(cache_dir=tmp_path / "file" / "cache"))
        with pytest.raises(StartError, match=r"^[^\n]+$"):
            await app.open()
        app.dismiss()
        await app.close()

    asyncio.run(live())
