"""``PURGE http://host/path`` on the proxy's port, as Squid's and Varnish's users know it.

It needs a token of ``admin_token_file`` in ``Authorization`` (``Proxy-Authorization`` has the user's password, where
there are users). It is for this proxy, and never sent on.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Final

from mitmproxy import http

from ..admin.guard import check_token
from ..admin.problems import Problem
from ..app import App
from ..caching.purge import SweepError, Url
from ..semantics.dates import format_http_date
from .flows import refusal, target_of

logger = logging.getLogger(__name__)

SOFT: Final = "fastly-soft-purge"
"""The field that has it made stale, with the value 1."""


async def purge(flow: http.HTTPFlow, app: App) -> http.Response:
    """200 with what was purged, 404 if there was nothing; an error if it may not be."""
    assert app.settings is not None
    assert app.purger is not None
    target, settings = target_of(flow), app.settings
    try:
        check_token(flow.request.headers.get("authorization"), settings.admin)
        purged = await app.purger.purge(
            Url.of(target, settings.rules.ignored_parameters), soft=flow.request.headers.get(SOFT, "").strip() == "1"
        )
    except Problem as problem:
        response = refusal(app.heads, problem.status, "http_request_denied", problem.detail)
        response.headers.update(problem.headers)
        return response
    except SweepError as error:
        return refusal(app.heads, 500, "proxy_internal_error", str(error))
    logger.info("proxy-cache: purged %s: %d entries, %d fills under way", target.shown, purged.entries, purged.fills)
    return http.Response.make(
        200 if purged.entries or purged.fills else 404,
        json.dumps({"purged": purged.entries, "bytes": purged.size, "fills": purged.fills}) + "\n",
        {
            "Date": format_http_date(time.time()),
            "Via": f"1.1 {app.via}",
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
        },
    )
