"""The status page at ``/``, and its files below ``/static/``. They are in the package, and nothing is built.

Everything that the page shows comes by the API. What it may load and do is said by its Content-Security-Policy: scripts
and styles of this port alone, none inline, connections to this port alone, and (where browsers have trusted types) no
text that becomes HTML.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Final

from aiohttp import web

PAGE: Final = "page.html"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",  # for browsers that don't know frame-ancestors
}


def add_to(router: web.UrlDispatcher) -> None:
    """Read the files, and add their routes. Blocks."""
    for file in (files(__package__) / "static").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in TYPES:
            path = "/" if file.name == PAGE else f"/static/{file.name}"
            router.add_get(path, _sender(file.read_bytes(), TYPES[suffix]))


def _sender(body: bytes, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=HEADERS)

    return handle
