"""The metrics; dashboards rely on their names. No URL, host, path or client ever becomes a label."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.registry import Collector

from .histograms import PlainHistogram, Series

PREFIX = "cache_proxy"
WAIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)
TIME_BUCKETS = (
    0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
"""Seconds that requests and their phases take."""
FASTEST = TIME_BUCKETS[0]
MISS_PHASES = ("lookup", "peer", "shared", "queue", "connect", "first_byte", "backoff", "body")
NOT_STORED = (
    "no-store", "private", "set-cookie", "vary-star", "no-freshness", "status", "authorization", "credentials",
    "request-no-store", "partial", "bypass", "signed-url", "invalidated", "store", "other",
)  # fmt: skip
"""Reasons for not storing a response: those in Cache-Status, and those that are known only after the head was sent.
Others count as ``other``."""

FROM_CACHE = ("hit", "revalidated", "stale", "miss", "coalesced")
PATHS = {
    "lane": (*FROM_CACHE, "error", "absent", "canceled"),
    "flow": (*FROM_CACHE, "forwarded", "error", "addon", "own", "absent", "canceled"),
    "refused": ("error", "addon", "canceled"),
}
"""What may have answered requests, with where the answers were from."""
ACCESS_DENIED = ("rule", "address", "listener", "port", "client")


class Metrics(Collector):
    """All metrics of one proxy, in a registry of their own.

    Counts that change with every request are plain numbers here, changed on the loop; the locks of the counters would
    cost a twentieth of a hit. The counters are updated when they are scraped: for that this is a collector itself, the
    first one, without metrics.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._new_hits = self._new_hit_bytes = 0
        self._new_hit_seconds = 0.0
        self._new_slow_hits = [0] * (len(TIME_BUCKETS) + 1)
        """By bucket; all others belong to the first."""
        self._new: dict[Counter, int] = {}
        self.before_collecting: Callable[[], None] = lambda: None
        """Has what is not counted yet counted."""
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

        def times(name: str, text: str, *labels: str) -> PlainHistogram:
            return PlainHistogram(f"{PREFIX}_{name}", text, labels, TIME_BUCKETS, registry)

        self.build_info = gauge("build_info", "1, with the versions of what runs.", "version", "python", "mitmproxy")
        self.request_duration = times(
            "request_duration_seconds", "Time from a request to the end of its answer.", "path", "served_from"
        )
        self.time_to_first_byte = times(
            "time_to_first_byte_seconds", "Time from a request to the head of its answer.", "served_from"
        )

        self.hits = counter("hits_total", "GETs and HEADs answered from the store.")
        self.misses = counter("misses_total", "GETs that needed an origin fill, their own or one that they joined.")
        self.coalesced = counter("coalesced_total", "GETs that joined a fill started by another request.")
        self.bytes_served = counter("bytes_served_total", "Body bytes sent to clients.", "source")
        self.bytes_saved = counter("bytes_saved_total", "Those of them that did not have to come from an origin.")
        self.origin_bytes = counter("origin_bytes_total", "Body bytes from origins, for fills or passed on.")
        self.origin_fetches = counter("origin_fetches_total", "Origin fills that ended.", "outcome")
        self.not_stored_responses = counter(
            "origin_responses_not_stored_total", "Responses to fills that were not stored.", "reason"
        )
        self.origin_retries = counter("origin_fetch_retries_total", "Further tries of a fill.", "reason")
        self.fetched_bytes = counter("fetched_bytes_total", "Body bytes that fills have got, by where from.", "source")
        self.in_flight = gauge("origin_fetches_in_flight", "Active origin fills, each with a slot.")
        self.queued = gauge("origin_fetches_queued", "Leaders waiting for a slot now.")
        self.queue_wait = Histogram(
            f"{PREFIX}_origin_fetch_queue_wait_seconds",
            "Time leaders waited for a slot, only when the limit was saturated.",
            ("outcome",),
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self.miss_phases = times("miss_phase_seconds", "Time that fills spent in each of their phases.", "phase")
        self.forwarded = counter("forward_requests_total", "Requests forwarded past the cache.", "method")
        self.inflight_requests = gauge("inflight_requests", "Requests being answered now, tunnels not counted.")
        self.cache_size = gauge("cache_size_bytes", "Bytes that stored responses take.")
        self.cache_entries = gauge("cache_entries", "Stored responses.")
        self.cache_capacity = gauge("cache_capacity_bytes", "Bytes that stored responses may take.")
        self.spilled = gauge("spilled_bytes", "Bytes set aside for slow clients, of responses that are not stored.")
        self.evictions = counter("evictions_total", "Stored responses evicted to make room.")
        self.store_failures = counter("store_failures_total", "Responses that could not be kept or read.", "reason")
        self.corrupt = counter("corrupt_entries_total", "Stored responses dropped since they were not what was stored.")
        self.tunnels = counter("tunnels_total", "CONNECT requests.", "outcome")
        self.tunnels_active = gauge("tunnels_active", "Open CONNECT tunnels.")
        self.tunnel_bytes = counter("tunnel_bytes_total", "Bytes relayed through tunnels.", "direction")
        self.intercepts = counter("intercepts_total", "CONNECT requests for hosts that are intercepted.", "outcome")
        self.peers = gauge("peers", "Peers in the list, this proxy among them.")
        self.peers_left_alone = gauge("peers_left_alone", "Peers that are left alone for a while, since they failed.")
        self.peer_fetches = counter("peer_fetches_total", "Fills that a peer was asked for.", "outcome")
        self.peer_seconds = Histogram(
            f"{PREFIX}_peer_seconds",
            "Time until the head of a peer's response, or until it was given up.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=registry,
        )
        self.tunnel_seconds = Histogram(
            f"{PREFIX}_tunnel_duration_seconds",
            "How long tunnels were open.",
            buckets=(0.1, 1, 10, 60, 300, 1800),
            registry=registry,
        )
        self.name_lookups = counter(
            "name_lookups_total", "Names that connections to origins were waiting for, cached ones too.", "outcome"
        )
        self.name_lookups_in_flight = gauge("name_lookups_in_flight", "Names being looked up now, each in a thread.")
        self.shared_fetches = counter("shared_fetches_total", "Fills that asked the shared store.", "outcome")
        self.shared_writes = counter("shared_writes_total", "Responses that were to be written to it.", "outcome")
        self.shared_bytes = counter("shared_bytes_total", "Bytes of bodies from it and to it.", "direction")
        self.shared_queued = gauge("shared_queued", "Responses that wait to be written to the shared store.")
        self.shared_up = gauge("shared_up", "1 while there is a shared store that is asked, 0 while it is left alone.")
        self.access_denied = counter(
            "access_denied_total", "Clients, requests and connections that rules of access refused.", "reason"
        )
        self.log_lines_lost = counter("log_lines_lost_total", "Lines of the log that could not be written.")
        self.hook_errors = counter("hook_errors_total", "Exceptions in the proxy's own code, answered 502.")
        # All label values exist from the start, so that the first event is an increase.
        for reason in ("no_space", "too_large", "too_many_pieces", "busy", "write", "read", "index"):
            self.store_failures.labels(reason)
        for reason in ACCESS_DENIED:
            self.access_denied.labels(reason)
        for outcome in ("found", "unknown", "timeout", "rejected"):
            self.name_lookups.labels(outcome)
        for outcome in ("opened", "failed"):
            self.tunnels.labels(outcome)
        for outcome in ("intercepted", "resumed", "tunnelled", "fallback", "distrusted", "refused", "failed"):
            self.intercepts.labels(outcome)
        for direction in ("from_client", "to_client"):
            self.tunnel_bytes.labels(direction)
        for outcome in ("admitted", "canceled", "timeout", "rejected"):
            self.queue_wait.labels(outcome)
        for source in ("hit", "revalidated", "stale", "miss", "coalesced", "error", "forwarded", "addon", "own"):
            self.bytes_served.labels(source)
        self._fetched = {source: self.fetched_bytes.labels(source) for source in ("origin", "peer", "shared")}
        for outcome in ("hit", "joined", "miss", "timeout", "error", "skipped"):
            self.peer_fetches.labels(outcome)
        for outcome in ("stored", "not_stored", "not_modified", "abandoned", "stalled"):
            self.origin_fetches.labels(outcome)
        for outcome in ("hit", "validated", "miss", "unsuitable", "stale", "stale_used", "corrupt", "timeout", "error"):
            self.shared_fetches.labels(outcome)
        for outcome in ("stored", "replaced", "exists", "deleted", "full", "skipped", "gone", "failed"):
            self.shared_writes.labels(outcome)
        for direction in ("read", "written"):
            self.shared_bytes.labels(direction)
        for path, sources in PATHS.items():
            for served_from in sources:
                self.request_duration.labels(path, served_from)
                self.time_to_first_byte.labels(served_from)
        self._phases = {phase: self.miss_phases.labels(phase) for phase in MISS_PHASES}
        self._lookups = self._phases["lookup"]
        self._not_stored = {reason: self.not_stored_responses.labels(reason) for reason in NOT_STORED}

        # Looking up a child by its label takes longer than counting.
        self._requests: dict[tuple[str, str], tuple[Series, Series]] = {}
        self._fetches: dict[str, Counter] = {}
        self._served: dict[str, Counter] = {}
        self._hit_bytes = self.bytes_served.labels("hit")
        self._hit_series = self.request_duration.labels("lane", "hit"), self.time_to_first_byte.labels("hit")

    # -- events -------------------------------------------------------------------------------------------------

    def fill_ended(self, outcome: str) -> None:
        child = self._fetches.get(outcome)
        if child is None:
            child = self._fetches[outcome] = self.origin_fetches.labels(outcome)
        self._add(child, 1)

    def fill_took(self, seconds: dict[str, float]) -> None:
        """A fill is over: seconds by phase."""
        for phase, spent in seconds.items():
            self._phases[phase].observe(spent)

    def looked_up(self, seconds: float) -> None:
        """So long after a request had come a fill was started for it."""
        self._lookups.observe(seconds)

    def fetched(self, source: str, size: int) -> None:
        self._add(self._fetched[source], size)
        if source == "origin":
            self._add(self.origin_bytes, size)

    def not_stored(self, reason: str) -> None:
        self._add(self._not_stored.get(reason) or self._not_stored["other"], 1)

    def served(self, served_from: str, size: int) -> None:
        """``size`` bytes of body were sent to a client."""
        child = self._served.get(served_from)
        if child is None:
            child = self._served[served_from] = self.bytes_served.labels(served_from)
        self._add(child, size)
        if served_from == "forwarded":
            self._add(self.origin_bytes, size)

    def saved(self, size: int) -> None:
        self._add(self.bytes_saved, size)

    def request_ended(self, path: str, served_from: str, seconds: float, first_byte: float) -> None:
        """See :class:`..downstream.account.Counts`. Hits of the lane come by :meth:`hits_ended`."""
        series = self._requests.get((path, served_from))
        if series is None:
            series = self.request_duration.labels(path, served_from), self.time_to_first_byte.labels(served_from)
            self._requests[path, served_from] = series
        series[0].observe(seconds)
        series[1].observe(first_byte)

    def tunnel_closed(self, seconds: float) -> None:
        """A tunnel that was open for so many seconds."""
        self.tunnel_seconds.observe(seconds)

    def queue_waited(self, outcome: str, seconds: float) -> None:
        self.queue_wait.labels(outcome).observe(seconds)

    def access_denied_for(self, reason: str) -> None:
        self.access_denied.labels(reason).inc()

    def fetch_retried(self, reason: str) -> None:
        self.origin_retries.labels(reason).inc()

    def name_looked_up(self, outcome: str) -> None:
        self.name_lookups.labels(outcome).inc()

    def peer_asked(self, outcome: str, seconds: float) -> None:
        self.peer_fetches.labels(outcome).inc()
        if outcome != "skipped":
            self.peer_seconds.observe(seconds)

    def store_failed(self, reason: str) -> None:
        self.store_failures.labels(reason).inc()

    def corrupt_found(self) -> None:
        self.corrupt.inc()

    def shared_fetched(self, outcome: str) -> None:
        self._add(self.shared_fetches.labels(outcome), 1)

    def shared_written(self, outcome: str) -> None:
        self._add(self.shared_writes.labels(outcome), 1)

    def shared_moved(self, direction: str, size: int) -> None:
        self._add(self.shared_bytes.labels(direction), size)

    def evicted(self, count: int) -> None:
        self.evictions.inc(count)

    def answered(self, served_from: str, collapsed: bool) -> None:
        """The cache answered a GET or HEAD."""
        if served_from in ("hit", "stale", "revalidated"):
            self._add(self.hits, 1)
        elif served_from in ("miss", "coalesced"):
            self._add(self.misses, 1)
        if collapsed:
            self._add(self.coalesced, 1)

    def hits_ended(self, size: int, seconds: list[float]) -> None:
        """See :class:`..downstream.account.Counts`. Nearly all hits take less than the first bucket's bound: they are
        just counted and added up."""
        self._new_hits += len(seconds)
        self._new_hit_bytes += size
        self._new_hit_seconds += sum(seconds)
        if max(seconds) > FASTEST:
            for spent in seconds:
                if spent > FASTEST:
                    self._new_slow_hits[bisect_left(TIME_BUCKETS, spent)] += 1

    @property
    def hits_so_far(self) -> int:
        """Changes with the hits that have been accounted for since it was asked, and with every scrape."""
        return self._new_hits

    def _add(self, counter: Counter, count: int) -> None:
        self._new[counter] = self._new.get(counter, 0) + count

    def collect(self) -> Iterable[Metric]:
        """Called before the other collectors."""
        self.before_collecting()
        self._add(self.hits, self._new_hits)
        self._add(self._hit_bytes, self._new_hit_bytes)
        self._add(self.bytes_saved, self._new_hit_bytes)
        counts = self._new_slow_hits
        counts[0] = self._new_hits - sum(counts)
        for series in self._hit_series:
            series.add(counts, self._new_hit_seconds)
        self._new_hits = self._new_hit_bytes = 0
        self._new_hit_seconds = 0.0
        self._new_slow_hits = [0] * len(counts)
        new, self._new = self._new, {}
        for counter, count in new.items():
            counter.inc(count)
        return ()

    def describe(self) -> Iterable[Metric]:
        return ()

    def observe(self, gauges: dict[str, Callable[[], float]]) -> None:
        """Set functions for gauges: they are called at a scrape, and cost requests nothing."""
        for name, function in gauges.items():
            getattr(self, name).set_function(function)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


def method_label(method: str) -> str:
    """A method as a label. Clients may send any token, which must not create time series."""
    return method if method in _METHODS else "other"
