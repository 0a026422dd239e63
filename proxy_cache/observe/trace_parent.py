"""``traceparent`` and ``tracestate`` (W3C Trace Context), as they come and as they go on."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ..semantics.headers import Headers

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
STATE_MAX: Final = 512
"""Characters. §3.3.1.5: that many have to be passed on; what is longer isn't."""
SAMPLED: Final = 1
_RANDOM: Final = 2
# §3.2.2: version, trace id, parent id, flags. §4: what a later version has after them is not ours to read.
_FIELD: Final = re.compile(
    r"(?:00|(?!00|ff)[0-9a-f]{2}(?=.{53}(?:-|$)))-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


class TraceParent(NamedTuple):
    """The caller's span."""

    trace_id: int
    span_id: int
    flags: int = SAMPLED
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & SAMPLED)


def parse(headers: Headers) -> TraceParent | None:
    """``None`` if there is none, or one that is no such thing (§2.2: a trace of one's own begins then)."""
    field = headers.get(PARENT)
    found = _FIELD.fullmatch(field) if field is not None else None
    if found is None or (found[4] and found[0].startswith("00")):
        return None
    state = headers.get(STATE) or ""
    return TraceParent(
        int(found[1], 16), int(found[2], 16), int(found[3], 16), state if len(state) <= STATE_MAX else ""
    )


def with_context(headers: Headers, trace_id: int, span_id: int, flags: int, state: str) -> Headers:
    """``headers`` with this span for a parent, in place of the one that they may have."""
    headers = headers.without(PARENT, STATE)
    headers = headers.add(PARENT, f"00-{trace_id:032x}-{span_id:016x}-{flags & _RANDOM | SAMPLED:02x}")
    return headers.add(STATE, state) if state else headers
