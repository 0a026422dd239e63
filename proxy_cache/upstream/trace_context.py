"""Which origins are told the trace context of a fill (W3C Trace Context, W3C Baggage; option
``trace_context_to_origins``).

A fill is the cache's and not a client's, and so is its place in a trace. To the world outside it says which requests
belong together, and baggage may say anything: it is for origins of one's own.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from ..semantics.headers import Headers
from .peers.peer import is_private
from .special_addresses import canonical, of_host

FIELDS: Final = frozenset({"traceparent", "tracestate", "baggage"})
RECIPIENTS: Final = ("private", "all", "none")
Recipients: TypeAlias = Literal["private", "all", "none"]


def is_told(recipients: str, host: str, peername: Any, *, through_parent: bool) -> bool:
    """Whether the other end of a connection is. ``peername``: of its socket. Behind a parent proxy only ``host`` tells
    who that is: a name may be anybody's."""
    if recipients != "private":
        return recipients == "all"
    try:
        address = of_host(host) if through_parent else canonical(str(peername[0]))
    except (ValueError, TypeError):  # no address: it was reset at once, or is no socket of IP's
        return False
    return address is not None and is_private(str(address))


def without_context(headers: Headers) -> Headers:
    return headers.without_any(FIELDS) if headers.has_any(FIELDS) else headers
