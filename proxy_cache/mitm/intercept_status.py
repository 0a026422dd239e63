"""What the status says of the hosts that are intercepted."""

from __future__ import annotations

from typing import Any, Final

from mitmproxy import ctx

from ..admin.totals import by_label
from . import compat
from .intercept import Interceptor, ca_file
from .leaves import ca_expiry

PAIRS_MAX: Final = 100
"""Clients and hosts that are listed."""


def intercept_status(interceptor: Interceptor) -> dict[str, Any] | None:
    """``None``: no host is intercepted."""
    app = interceptor.app
    if app.settings is None or not app.settings.intercept.hosts:
        return None
    return {
        "active": compat.INTERCEPT.is_on,
        "hosts": list(ctx.options.intercept_hosts),
        "connects": by_label(app.metrics.intercepts),
        "distrusting": [{"client": client, "host": host} for client, host in interceptor.distrusting.latest(PAIRS_MAX)],
        "ca": {"file": ca_file(ctx.options.confdir), "expires_at": _expiry()},
    }


def _expiry() -> str | None:
    store = getattr(ctx.master.addons.get("tlsconfig"), "certstore", None)
    return ca_expiry(store).isoformat(timespec="seconds") if store is not None else None
