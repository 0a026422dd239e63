"""A mitmproxy script for tests: what comes within a minute is near, so that no stall of a busy machine makes it far."""

from __future__ import annotations

from proxy_cache import ahead

ahead.SOON = 60.0  # type: ignore[misc]
addons: list[object] = []
