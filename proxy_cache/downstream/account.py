"""A request's account, from its beginning to its end: its bytes in the metrics, its line in the access log.

Whatever way a request has taken, in a lane, as a flow or past the cache, its account ends in :meth:`Accounts.ended`.
What docs/access-log.md says of a line is decided here, so that the same end looks the same on all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final, Protocol

from ..caching.answers import Answer, Exchange
from ..caching.fills.visit import fetched_for, phases_of, seconds_by_name, untraced_phases
from ..observe.access_log import AccessLog
from ..semantics import request_ids
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.redaction import redacted
from .hits import Hit, HitNotes, HitTracer, trace_hits
from .outcome import LEFT, NO_STATUS, cut_by, explanation, reasons
from .records import RequestRecord

FROM_CACHE: Final = frozenset({"hit", "revalidated", "stale", "miss", "coalesced"})
"""Where the bytes of an answer of the cache's come from. (Those of an error are our own.)"""


class Counts(Protocol):
    """The metrics that are about ends."""

    def answered(self, source: str, collapsed: bool) -> None:
        """There is an answer of the cache's. ``collapsed``: somebody else had started to fetch it."""

    def hits_ended(self, size: int, seconds: list[float]) -> None:
        """Lanes have answered so many GETs from memory, each in its ``seconds``, with ``size`` bytes of body in all. Of
        each, head and body went out together."""

    def served(self, source: str, size: int) -> None:
        """Bytes of body were sent to a client."""

    def saved(self, size: int) -> None:
        """So many of them did not have to come from an origin."""

    def request_ended(self, path: str, served_from: str, seconds: float, first_byte: float) -> None:
        """A request took ``seconds``, and ``first_byte`` of them until the head of its answer was sent. ``path``:
        ``lane``, ``flow`` or ``refused``. ``served_from``: as in the access log, or ``canceled``: the client has left
        before that, or ``absent``: it wanted only what is stored (``only-if-cached``), which is nothing."""

    def looked_up(self, seconds: float) -> None:
        """So long after a request had come a fill was started for it."""

    def tunnel_closed(self, seconds: float) -> None: ...


class Accounts:
    """Begins and ends requests. ``failed`` is told of errors here, which must not keep a request from ending."""

    def __init__(self, counts: Counts, log: AccessLog, failed: Callable[[Exception], None]) -> None:
        self.is_logged = False
        """The option ``access_log``."""
        self.has_request_ids = False
        """The option ``request_id``."""
        self.has_phases = False
        """The option ``access_log_phases``."""
        self.counts_peers = True
        """Whether requests of peers are counted and logged as those of clients are."""
        self.tracer: HitTracer | None = None
        self.is_stopping = False
        """Whether the proxy is ending: responses that break off from now on are cut by it, not by their clients."""
        self._unfinished: set[RequestRecord] = set()
        self._idle: asyncio.Event | None = None
        self._counts = counts
        self._log = log
        self._failed = failed
        self.hits = HitNotes(self._hits_ended, failed)
        """Hits of lanes, which end here, too, but all of some time at once."""

    @property
    def unfinished(self) -> int:
        """Requests of clients that have no answer yet, or not all of it."""
        return len(self._unfinished)

    async def finished(self, patience: float) -> bool:
        """Wait until there are none, ``patience`` seconds at the most. Whether there are none."""
        self._idle = asyncio.Event()
        if self._unfinished:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), patience)
        return not self._unfinished

    @property
    def is_told(self) -> bool:
        """Whether anybody wants to know how requests end."""
        return self.is_logged or self.tracer is not None

    def begin(self, exchange: Exchange | None = None, *, http11: bool = True) -> RequestRecord:
        """A request has come. It has to end with :meth:`ended`, also if there is no answer to it."""
        record = RequestRecord(exchange)
        self._unfinished.add(record)
        if self.tracer is not None and exchange is not None:
            self.trace(record, exchange.headers, version="1.1" if http11 else "1.0")
        return record

    def trace(self, record: RequestRecord, headers: Headers, method: str = "GET", version: str = "1.1") -> None:
        """Begin its trace, if it is to have one. ``version``: of HTTP. Never raises."""
        tracer, exchange = self.tracer, record.exchange
        if tracer is None or record.trace is not None:
            return
        try:
            record.trace = tracer.begin(
                headers, method=method, version=version, started=record.started,
                from_peer=exchange is not None and exchange.peer is not None,
            )  # fmt: skip
            if exchange is not None:
                exchange.trace = record.trace
        except Exception as error:
            self._failed(error)

    def answered(self, answer: Answer, exchange: Exchange | None = None) -> None:
        """The cache has an answer; with ``exchange`` one that may have been fetched for somebody else."""
        if self.counts_peers or not _is_peers(exchange):
            self._counts.answered(answer.served_from, exchange is not None and exchange.collapsed)
        if exchange is not None and exchange.peer is not None:
            exchange.peer.answered(answer)

    def lane_ended(self, record: RequestRecord, answer: Answer | None, client: str, note: str) -> None:
        """A request of the fast lane: it has been answered, or its client has left."""
        assert record.exchange is not None
        status = NO_STATUS if answer is None else record.status or answer.status
        headers = None
        if answer is not None:
            record.served_from, headers = answer.served_from, answer.headers
        self.ended(record, "GET", record.exchange.target, client, status, headers, note=note, path="lane")

    def ended(
        self, record: RequestRecord, method: str, url: str | Target, client: str, status: int,
        headers: Headers | None = None, *, fwd: str = "", error: str = "", note: str = "", path: str = "flow",
    ) -> None:  # fmt: skip
        """A request is over. Never raises.

        ``url`` as it may be shown. ``status``: that the client was sent, :data:`NO_STATUS` if it was sent none.
        ``headers``: of an answer of our own, which tell the reasons. Where there are none: ``fwd``, why the request
        was forwarded, and ``error``, the type of the origin's error (RFC 9209 §2.3). ``note``: a few
        words on the failure. ``path``: whether a ``lane`` or a ``flow`` has answered it.
        """
        self._unfinished.discard(record)
        if self._idle is not None and not self._unfinished:
            self._idle.set()
        try:
            exchange, sender = record.exchange, record.sender
            cut = record.cut
            if exchange is not None:
                gone = exchange.gone and not self.is_stopping
                if sender is not None and sender.error is not None:
                    cut, error = cut_by(sender.error, gone=gone)
                    note = LEFT if cut == "client" else str(sender.error)
                elif status == NO_STATUS:
                    cut = "client" if gone else cut or "proxy"
            if sender is not None:
                sender.close()
                record.size = sender.sent
                if cut == "client" and status != NO_STATUS and sender.sent == sender.length:
                    cut = note = ""  # it has left with all that it had asked for
            source, size = record.served_from, record.size
            if status == NO_STATUS:
                source, size, headers = "error", 0, None
            ended = time.monotonic()
            seconds = ended - record.started
            is_logged = self.is_logged and (self.counts_peers or not _is_peers(exchange))
            self._count(record, path, status, source, size, seconds, record.head_sent_by(ended) - record.started)
            if exchange is not None:
                exchange.close()
            if not is_logged and record.trace is None:
                return
            queued = exchange.queued_for if exchange is not None else 0.0
            told = _told(headers, source, fwd, error, cut)
            if cut and status != NO_STATUS:
                note = f"response broke off after {size} bytes: {note}"
            elif source == "error" and headers is not None:
                note = explanation(headers) or note
            shown = url if isinstance(url, str) else url.shown
            if is_logged:
                self.hits.flush()  # lines are in the order of the ends
                more = self._more(record) if self.has_request_ids or self.has_phases else ("", ())
                ids = record.trace.ids if record.trace is not None else None
                self._log.write(method, shown, status, size, seconds, source, queued, client, note, told, *more, ids)
            if record.trace is not None:
                record.trace.phases(untraced_phases(exchange.visits, record.started) if exchange is not None else ())
                record.trace.ended(method, shown, status, size, source, client, queued=queued, note=note, words=told)
        except Exception as failure:
            self._failed(failure)

    def _count(
        self, record: RequestRecord, path: str, status: int, source: str, size: int, seconds: float, first_byte: float
    ) -> None:
        counts, exchange = self._counts, record.exchange
        if not self.counts_peers and _is_peers(exchange):
            return
        visits = exchange.visits if exchange is not None else ()
        served_from = source
        if status == NO_STATUS:
            served_from = "canceled"
        elif status == 504 and exchange is not None and exchange.directives.only_if_cached:
            served_from = "absent"  # nothing is wrong: peers ask so, too
        counts.request_ended(path, served_from, seconds, first_byte)
        if size:
            counts.served(source, size)
            if source in FROM_CACHE:
                fetched = fetched_for(visits) if visits else 0
                if fetched is not None and fetched < size:
                    counts.saved(size - fetched)
        if visits and visits[0].leads:
            counts.looked_up(visits[0].joined - record.started)

    def _more(self, record: RequestRecord) -> tuple[str, tuple[tuple[str, float], ...]]:
        """The request's id, and the seconds of a miss's phases, as far as options ask for them."""
        exchange, request_id = record.exchange, record.request_id
        if exchange is None:
            return request_id, ()
        if self.has_request_ids:
            request_id = request_id or exchange.headers.get(request_ids.FIELD.lower()) or ""
        if not self.has_phases:
            return request_id, ()
        return request_id, tuple(seconds_by_name(phases_of(exchange.visits, record.started)).items())

    def _hits_ended(self, hits: list[Hit]) -> None:
        traced = trace_hits(self.tracer, hits, self._failed) if self.tracer is not None else {}
        if not self.counts_peers:
            own = [place for place, hit in enumerate(hits) if hit[-1].peer is None]
            traced = {place: traced[before] for place, before in enumerate(own) if before in traced}
            if not (hits := [hits[place] for place in own]):
                return
        seconds = [ended - started for _, _, _, started, ended, _, _, _ in hits]
        self._counts.hits_ended(sum([size for _, _, size, _, _, _, _, _ in hits]), seconds)
        if self.is_logged:
            self._log.hits(hits, traced)

    def ended_early(
        self, method: str, url: str, client: str, status: int, size: int, headers: Headers, *, seconds: float = 0.0,
        note: str = "",
    ) -> None:  # fmt: skip
        """A request that nothing was started for: one that could not be read, or a CONNECT that was refused. ``size``:
        bytes of the answer's body; ``seconds`` since the request was here; ``headers``: of the answer."""
        source = "error" if "proxy-status" in headers or status == NO_STATUS else "addon"
        served_from = "canceled" if status == NO_STATUS else source
        self._counts.request_ended("refused", served_from, seconds, seconds)
        if size:
            self._counts.served(source, size)
        if self.is_told:
            told = " cut=client" if status == NO_STATUS else reasons(headers, source)
            note = explanation(headers) or note
            self._tell(method, redacted(url), status, size, seconds, source, client, note, told)

    def tunnel_ended(self, target: str, client: str, size: int, seconds: float) -> None:
        """``size``: bytes both ways."""
        self._counts.tunnel_closed(seconds)
        if self.is_told:
            self._tell("CONNECT", redacted(target), 200, size, seconds, "tunnel", client)

    def _tell(
        self, method: str, url: str, status: int, size: int, seconds: float, source: str, client: str, note: str = "",
        told: str = "",
    ) -> None:  # fmt: skip
        """A request is over that nothing was started for."""
        trace = ids = None
        try:
            if self.tracer is not None:
                trace = self.tracer.begin(_NO_FIELDS, method=method, started=time.monotonic() - seconds)
            if trace is not None:
                trace.ended(method, url, status, size, source, client, note=note, words=told)
                ids = trace.ids
        except Exception as error:
            self._failed(error)
        if self.is_logged:
            self.hits.flush()
            self._log.write(method, url, status, size, seconds, source, 0.0, client, note, told, trace=ids)


_NO_FIELDS: Final = Headers()


def _is_peers(exchange: Exchange | None) -> bool:
    """Whether a peer asks on behalf of its client."""
    return exchange is not None and exchange.peer is not None


def _told(headers: Headers | None, source: str, fwd: str, error: str, cut: str) -> str:
    """The reasons, as ``key=value`` with spaces before, in the order of docs/access-log.md."""
    told = f" fwd={fwd}" if fwd else ""
    if headers is not None:
        told = reasons(headers, source) if source != "hit" else ""
    if cut == "origin":  # which is why it was not stored, whether or not that was known when the head was sent
        told = told.removesuffix(" not_stored=store")
    if error:
        told += f" error={error}"
    return f"{told} cut={cut}" if cut else told
