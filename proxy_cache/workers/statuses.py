"""The status of all workers as that of one proxy, with a list of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

Status = dict[str, Any]

TOP: Final = 10
"""URLs and hosts that are told."""
FILLS_MAX: Final = 100
_OF_A_WORKER: Final = (
    "started_at", "uptime_seconds", "requests_in_flight", "fills_running", "tunnels", "store", "peers",
)  # fmt: skip
"""What each is told of by itself, as far as a status has it."""


def merged(statuses: Mapping[int, Status], workers: Iterable[Status]) -> Status:
    """``statuses``: of those that have answered, by their numbers. ``workers``: what is known of each without that, its
    number (``worker``) first."""
    listed = [{**worker, **_own(statuses.get(worker["worker"], {}))} for worker in workers]
    found = list(statuses.values())
    if not found:
        return {"ready": False, "workers": listed}
    first = found[0]
    whole = [status for status in found if "store" in status]
    status: Status = {
        **{name: first[name] for name in ("version", "python", "mitmproxy") if name in first},
        **_of_times(found),
        "ready": len(whole) == len(listed) and all(status["ready"] for status in found),
        "workers": listed,
    }
    if not whole:
        return status
    status |= {
        "limiter": _limiter([one["limiter"] for one in whole]),
        "fills": _fills(statuses),
        "store": _store([one["store"] for one in whole]),
        "requests_in_flight": _sum(whole, "requests_in_flight"),
        "tunnels": _sum(whole, "tunnels"),
    }
    if "totals" in first:
        status |= {
            "totals": _totals([one["totals"] for one in whole]),
            "fills_running": _sum(whole, "fills_running"),
            "top": _top([one["top"] for one in whole if "top" in one]),
        }
    if "shared" in whole[0]:
        status["shared"] = whole[0]["shared"]
    return status


def _own(status: Status) -> Status:
    return {name: status[name] for name in _OF_A_WORKER if name in status}


def _of_times(found: Sequence[Status]) -> Status:
    """Since when all have answered."""
    if "started_at" not in found[0]:
        return {}
    return {
        "started_at": min(status["started_at"] for status in found),
        "uptime_seconds": max(status["uptime_seconds"] for status in found),
    }


def _limiter(found: Sequence[Status]) -> Status:
    limiter = dict(found[0])  # with the limits, which are the machine's
    limiter["in_flight"], limiter["queued"] = _sum(found, "in_flight"), _sum(found, "queued")
    for name in ("in_flight_per_host", "queued_per_client"):
        limiter[name] = _sums([one[name] for one in found])
    limiter["oldest_wait_seconds"] = max(one["oldest_wait_seconds"] for one in found)
    if "clients" in limiter:
        limiter["clients"] = _by("client", [one for each in found for one in each["clients"]], _plus)
    return limiter


def _store(found: Sequence[Status]) -> Status:
    store = dict(found[0])
    store["dir"] = str(PurePath(store["dir"]).parent)
    for name in ("entries", "size_bytes", "capacity_bytes", "unwritten", "unsummed"):
        store[name] = _sum(found, name)
    return store


def _fills(statuses: Mapping[int, Status]) -> list[Status]:
    """Those that have run for the longest time first."""
    fills = [{**fill, "worker": worker} for worker, status in statuses.items() for fill in status.get("fills", ())]
    return heapq.nlargest(FILLS_MAX, fills, key=lambda fill: fill.get("seconds", 0.0))


def _totals(found: Sequence[Status]) -> Status:
    totals = _sums([{name: value for name, value in one.items() if name != "errors"} for one in found])
    return {**totals, "errors": _sums([one["errors"] for one in found])}


def _top(found: Sequence[Status]) -> Status:
    def first(kind: str, name: str) -> list[Status]:
        entries = _by(name, [one for each in found for one in each[kind]], _hits)
        return sorted(entries, key=lambda entry: -entry["hits"])[:TOP]

    return {"keys": first("keys", "url"), "hosts": first("hosts", "host")}


def _hits(one: Any, other: Any, name: str) -> Any:
    # A copy of the same body in another folder makes the object no larger.
    return max(one, other) if name == "bytes" else one + other


def _plus(one: Any, other: Any, name: str) -> Any:
    return one + other


def _by(name: str, entries: Iterable[Status], join: Callable[[Any, Any, str], Any]) -> list[Status]:
    """One for each value of ``name``."""
    joined: dict[str, Status] = {}
    for entry in entries:
        before = joined.get(entry[name])
        joined[entry[name]] = (
            dict(entry)
            if before is None
            else {key: value if key == name else join(before[key], value, key) for key, value in entry.items()}
        )
    return list(joined.values())


def _sum(found: Iterable[Status], name: str) -> Any:
    return sum(status[name] for status in found)


def _sums(found: Iterable[Mapping[str, Any]]) -> Status:
    sums: Status = {}
    for one in found:
        for name, value in one.items():
            sums[name] = sums.get(name, 0) + value
    return sums
