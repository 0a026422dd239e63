"""The parts of what ``status`` and ``top`` show, each made of the API's status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .output import Cell, Column, Table
from .text import count, duration, moment, share, size

LINES_MAX: Final = 10
"""Rows of a table that may have thousands."""
_NAMES: Final = (Column(""), Column("", is_long=True))


def summary(status: Mapping[str, Any]) -> Table:
    """Who answers, since when, and with what success."""
    totals, store = status.get("totals", {}), status.get("store", {})
    table = Table(_NAMES)
    versions = (
        f"{status.get('version', '?')} (Python {status.get('python', '?')}, mitmproxy {status.get('mitmproxy', '?')})"
    )
    table.add("version", versions)
    table.add("up", f"{duration(status.get('uptime_seconds'))}, since {status.get('started_at', '?')}")
    table.add("ready", Cell("yes", "ok") if status.get("ready") else Cell("no", "fault"))
    table.add("requests", f"{count(status.get('requests_in_flight'))} running, {count(status.get('tunnels'))} tunnels")
    hits, asked = totals.get("hits", 0), answered(totals)
    table.add(
        "hits",
        f"{share(hits, asked)} (hit {count(hits)}, miss {count(totals.get('misses'))}, "
        f"of these coalesced {count(totals.get('coalesced'))})",
    )
    table.add(
        "bytes",
        f"{size(totals.get('bytes_served'))} served, {size(totals.get('origin_bytes'))} from origins, "
        f"{size(totals.get('bytes_saved'))} saved",
    )
    table.add("store", stored(store))
    errors = {kind: number for kind, number in totals.get("errors", {}).items() if number}
    told = ", ".join(f"{kind} {count(number)}" for kind, number in sorted(errors.items()))
    table.add("errors", Cell(told, "warning") if told else "none")
    return table


def answered(totals: Mapping[str, Any]) -> int:
    """Answers of the cache: those that its hits are a share of."""
    return int(totals.get("hits", 0) + totals.get("misses", 0))  # coalesced ones are among the misses


def stored(store: Mapping[str, Any]) -> str:
    free = store.get("disk_free_bytes")
    left = f", {size(free)} free on the disk" if free is not None else ""
    return (
        f"{count(store.get('entries'))} entries, {size(store.get('size_bytes'))} of "
        f"{size(store.get('capacity_bytes'))}{left}, in {store.get('dir', '?')}"
    )


def limiter(status: Mapping[str, Any]) -> Table:
    """The slots at origins, and the queue for them."""
    found = status.get("limiter", {})
    table = Table(_NAMES)
    limit = found.get("max_in_flight")
    slots = (
        f"{count(found.get('in_flight'))} of {count(limit)}" if limit else f"{count(found.get('in_flight'))}, no limit"
    )
    table.add("slots", Cell(slots, "warning" if limit and found.get("in_flight", 0) >= limit else "none"))
    waits = f", the longest for {duration(found.get('oldest_wait_seconds'))}" if found.get("queued") else ""
    table.add("queue", Cell(f"{count(found.get('queued'))}{waits}", "warning" if found.get("queued") else "none"))
    return table


def clients(status: Mapping[str, Any]) -> Table | None:
    """Who queues; ``None``: nobody does, and nobody has a slot."""
    found = sorted(status.get("limiter", {}).get("clients", ()), key=_is_busiest)
    if not found:
        return None
    table = Table((Column("CLIENT"), Column("QUEUED", is_right=True), Column("IN FLIGHT", is_right=True)))
    for one in found[:LINES_MAX]:
        table.add(one.get("client", ""), count(one.get("queued")), count(one.get("in_flight")))
    _and_more(table, len(found))
    return table


def _is_busiest(client: Mapping[str, Any]) -> tuple[int, int]:
    return -client.get("queued", 0), -client.get("in_flight", 0)


def fills(status: Mapping[str, Any]) -> Table | None:
    """What is being fetched, the longest first, and what waits to be; ``None``: nothing is."""
    found = sorted(status.get("fills", ()), key=lambda fill: (fill.get("state") == "queued", -fill.get("seconds", 0)))
    if not found:
        return None
    table = Table(
        (
            Column("STATE"), Column("WAITERS", is_right=True), Column("BYTES", is_right=True),
            Column("TOTAL", is_right=True), Column("FOR", is_right=True), Column("SOURCE"), Column("CLIENT"),
            Column("URL", is_long=True),
        )
    )  # fmt: skip
    for fill in found[:LINES_MAX]:
        table.add(
            Cell(fill.get("state", ""), "warning" if fill.get("state") == "queued" else "none"),
            count(fill.get("waiters")), size(fill.get("bytes")), size(fill.get("total")),
            duration(fill.get("seconds")), fill.get("source") or "-", fill.get("client") or "-", fill.get("url", ""),
        )  # fmt: skip
    _and_more(table, len(found))
    return table


def peers(status: Mapping[str, Any]) -> Table | None:
    """The other proxies of the fleet; ``None``: there are none."""
    found: Sequence[Mapping[str, Any]] = status.get("peers") or ()
    if not found:
        return None
    table = Table((Column("PEER"), Column("STATE"), Column("FAILURES", is_right=True), Column("", is_long=True)))
    for peer in found[:LINES_MAX]:
        state = peer.get("state", "")
        note = "this proxy" if peer.get("is_self") else peer.get("reason") or ""
        table.add(
            peer.get("url", ""), Cell(state, "ok" if state == "up" else "warning"), count(peer.get("failures")), note
        )
    _and_more(table, len(found))
    return table


def shared(status: Mapping[str, Any]) -> Table | None:
    """The store that several proxies share; ``None``: there is none."""
    found = status.get("shared")
    if not found:
        return None
    table = Table(_NAMES)
    table.add("store", found.get("url", ""))
    for way in ("reading", "writing"):
        table.add(way, Cell(found.get(way, ""), "ok" if found.get(way) == "ok" else "warning"))
    table.add("to write", f"{count(found.get('queued'))} ({size(found.get('queued_bytes'))})")
    return table


def interception(status: Mapping[str, Any]) -> Table | None:
    """Whose TLS ends here, and how that goes; ``None``: nobody's."""
    found = status.get("interception")
    if not found:
        return None
    table, ca = Table(_NAMES), found.get("ca", {})
    table.add("hosts", ", ".join(found.get("hosts", ())))
    connects = [f"{outcome} {count(number)}" for outcome, number in found.get("connects", {}).items() if number]
    table.add("CONNECTs", ", ".join(connects) or "none")
    table.add("CA", f"{ca.get('file', '?')}, until {moment(ca.get('expires_at'))}")
    distrusting = [f"{pair.get('client')} for {pair.get('host')}" for pair in found.get("distrusting", ())]
    if distrusting:
        more = f" and {len(distrusting) - LINES_MAX} more" if len(distrusting) > LINES_MAX else ""
        table.add("not trusted by", Cell(", ".join(distrusting[:LINES_MAX]) + more, "warning"))
    if not found.get("active"):
        table.add("", Cell("switched off: this mitmproxy is not what it needs, see the log", "fault"))
    return table


def top(status: Mapping[str, Any], kind: str) -> Table | None:
    """The ``keys`` or ``hosts`` with the most hits; ``None``: no hits yet."""
    found = (status.get("top") or {}).get(kind) or ()
    if not found:
        return None
    title = "url" if kind == "keys" else "host"
    table = Table((Column("HITS", is_right=True), Column("BYTES", is_right=True), Column(title.upper(), is_long=True)))
    for one in found[:LINES_MAX]:
        table.add(count(one.get("hits")), size(one.get("bytes")), one.get(title, ""))
    return table


def _and_more(table: Table, found: int) -> None:
    if found > LINES_MAX:
        table.add(f"and {found - LINES_MAX} more", *[""] * (len(table.columns) - 1))
