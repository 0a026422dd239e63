"""The API's description: every endpoint is in it, as it is."""

from __future__ import annotations

from aiohttp import web

from proxy_cache.admin.api import PREFIX, Api
from proxy_cache.admin.openapi import describe
from proxy_cache.app import App


def test_what_is_described_is_what_is_there() -> None:
    api, router = Api(App()), web.UrlDispatcher()
    api.add_to(router)
    there = {
        (route.method, route.resource.canonical) for route in router.routes() if route.resource is not None
    }  # fmt: skip
    description = describe(api.endpoints, PREFIX)
    told = {
        (method.upper(), path) for path, operations in description["paths"].items() for method in operations
    }  # fmt: skip
    assert told == there
    assert {path for _, path in told} >= {f"{PREFIX}/status", f"{PREFIX}/openapi.json"}


def test_every_endpoint_may_fail_or_be_too_busy() -> None:
    """``/events`` takes so many listeners, and the others need a proxy that runs and a disk that works."""
    for path in describe(Api(App()).endpoints, PREFIX)["paths"].values():
        for operation in path.values():
            assert {"500", "503"} <= operation["responses"].keys()


def test_everything_has_a_name_and_a_summary_of_its_own() -> None:
    operations = [
        operation for path in describe(Api(App()).endpoints, PREFIX)["paths"].values() for operation in path.values()
    ]
    for key in ("operationId", "summary"):
        assert len({operation[key] for operation in operations}) == len(operations)
