"""Keys of our notes in a flow's metadata."""

from __future__ import annotations

from typing import Final

HAS_BODY: Final = "proxy_cache_has_body"
"""The request has a body, though no field says so (HTTP/2)."""
CUT: Final = "proxy_cache_cut"
"""``client`` or ``origin``, whichever broke off first."""
REFUSED: Final = "proxy_cache_refused"
"""Status, bytes, error type and detail of the answer that its client has been sent past mitmproxy, as
``[400, 62, "http_request_error", "not the size of a chunk"]``."""
USER: Final = "proxyauth"
"""mitmproxy's own: user and password that its option ``proxyauth`` has let in."""
FORWARD_REASON: Final = "proxy_cache_fwd"
"""Why a request that the cache might have answered goes forward (RFC 9211 §2.2)."""
