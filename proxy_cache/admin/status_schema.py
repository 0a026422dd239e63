"""What the description of the API says of the status. More members may come."""

from __future__ import annotations

from typing import Final

from .endpoint import Schema

_TEXT: Final[Schema] = {"type": "string"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_NUMBER: Final[Schema] = {"type": "integer"}
_SECONDS: Final[Schema] = {"type": "number"}
_FLAG: Final[Schema] = {"type": "boolean"}
_NUMBERS: Final[Schema] = {"type": "object", "additionalProperties": _NUMBER}


def _object(description: str = "", **members: Schema) -> Schema:
    return {"type": "object", "properties": members, **({"description": description} if description else {})}


def _list(items: Schema, description: str = "") -> Schema:
    return {"type": "array", "items": items, **({"description": description} if description else {})}


def _maybe(kind: str) -> Schema:
    return {"type": [kind, "null"]}


_LIMITER: Final = _object(
    "Slots at origins, and the queue for them.",
    max_in_flight=_NUMBER, max_in_flight_per_host=_NUMBER, queue_max=_NUMBER, queue_max_per_client=_NUMBER,
    queue_timeout_seconds=_SECONDS, in_flight=_NUMBER, in_flight_per_host=_NUMBERS, queued=_NUMBER,
    queued_per_client=_NUMBERS, oldest_wait_seconds=_SECONDS,
    clients=_list(_object(client=_TEXT, queued=_NUMBER, in_flight=_NUMBER)),
)  # fmt: skip
_FILL: Final = _object(
    url=_TEXT, client=_TEXT, waiters=_NUMBER, bytes=_NUMBER, total=_maybe("integer"), state=_TEXT, seconds=_SECONDS,
    source=_maybe("string"),
)  # fmt: skip
_STORE: Final = _object(
    dir=_TEXT, entries=_NUMBER, size_bytes=_NUMBER, capacity_bytes=_NUMBER, disk_free_bytes=_NUMBER,
    unwritten=_NUMBER, unsummed=_NUMBER,
)  # fmt: skip
_INTERCEPTION: Final = _object(
    "If intercept_hosts names any.",
    active={**_FLAG, "description": "false: this mitmproxy is not what it needs."},
    hosts=_list(_TEXT),
    connects={**_NUMBERS, "description": "CONNECTs since the start, by the outcomes of intercepts_total."},
    distrusting=_list(
        _object(client=_TEXT, host=_TEXT), "Who did not trust the CA in the last ten minutes, the latest first."
    ),
    ca=_object(file=_TEXT, expires_at={**_TIME, "type": ["string", "null"]}),
)
_PEER: Final = _object(
    url=_TEXT, is_self=_FLAG, state=_TEXT, failures=_NUMBER, next_probe_in=_maybe("number"), reason=_TEXT
)
_SHARED: Final = _object(
    "If there is one.",
    url=_TEXT, reading=_TEXT, writing=_TEXT, write=_TEXT, queued=_NUMBER, queued_bytes=_NUMBER,
)  # fmt: skip
_TOTALS: Final = _object(
    "Since the start.",
    hits=_NUMBER, misses=_NUMBER, coalesced=_NUMBER, bytes_served=_NUMBER, origin_bytes=_NUMBER, bytes_saved=_NUMBER,
    errors=_NUMBERS, evictions=_NUMBER,
)  # fmt: skip
_TOP: Final = _object(
    "Of the entries in memory.",
    keys=_list(_object(url=_TEXT, hits=_NUMBER, bytes=_NUMBER)),
    hosts=_list(_object(host=_TEXT, hits=_NUMBER, bytes=_NUMBER)),
)

STATUS: Final[Schema] = {
    **_object(
        version=_TEXT, python=_TEXT, mitmproxy=_TEXT, started_at=_TIME, uptime_seconds=_SECONDS, ready=_FLAG,
        limiter=_LIMITER, fills=_list(_FILL, "The oldest ones, 100 at the most."), fills_running=_NUMBER,
        store=_STORE, requests_in_flight=_NUMBER, tunnels=_NUMBER, interception=_INTERCEPTION,
        peers=_list(_PEER, "If there are any."), shared=_SHARED, totals=_TOTALS, top=_TOP,
    ),
    "required": ["ready", "version", "started_at", "uptime_seconds", "totals", "top"],
}  # fmt: skip
