"""An answer to a client, the exchange it belongs to, and the sources of its bytes."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.client import responses
from typing import Final, Protocol

from ..semantics.directives import NOTHING, ONLY_IF_CACHED, CacheControl, request_cache_control
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.policy import BY_THE_BOOK, Policy
from ..semantics.signatures import is_signed_url, without_parameters
from ..store.body import BodyError, BodyLost, Elsewhere, Rest
from ..store.files import READ_SIZE, OpenBody, TornFile
from ..store.index import Entry
from ..store.store import Store
from .fills.fill import Waiter
from .fills.visit import Visit
from .requirements import Requirements
from .tracing import RequestTrace

VISITS_MAX: Final = 32
"""Fills that are noted of one request. A client that reads a long body with many gaps comes to more."""


class BodySource(Protocol):
    """The bytes of an answer."""

    def read_now(self) -> bytes | None:
        """The next bytes without waiting: ``b""`` at the end, ``None`` if they are not there yet."""

    async def read(self) -> bytes:
        """The next bytes; ``b""`` at the end; :class:`BodyError` if the body broke off."""

    def close(self) -> None:
        """No more is read."""


class Seekable(BodySource, Protocol):
    """A source that can go on at another offset."""

    def seek(self, start: int, stop: int) -> None:
        """The next bytes are those from ``start`` up to, and without, ``stop``."""


@dataclass(slots=True)
class Answer:
    """What to send: a head, and a body to read (``length`` in bytes, ``None`` while it is not known)."""

    status: int
    reason: str
    headers: Headers
    body: BodySource | bytes
    length: int | None
    served_from: str
    """For metrics and the access log: ``hit``, ``stale``, ``revalidated``, ``miss``, ``coalesced``, ``error``."""

    @property
    def reason_phrase(self) -> str:
        return self.reason or responses.get(self.status, "")

    def content(self) -> bytes | None:
        """The body, if it is here. Raises :class:`BodyError` if it isn't as long as the head is going to tell."""
        body = self.body
        if not isinstance(body, bytes):
            return None
        if len(body) != self.length and self.length is not None and self.status not in (204, 304):
            raise BodyError(f"the body has {len(body)} bytes, and its head tells {self.length}")
        return body

    def framed(self, *, http11: bool, head: bool) -> tuple[Headers, bool]:
        """The header as it goes to a client, and whether the body is chunked (RFC 9112 §6). ``head``: to a HEAD."""
        headers = self.headers
        bodiless = self.status in (204, 304)
        if self.length is not None and not bodiless:
            length = str(self.length)
            if "content-length" not in headers:
                return headers.add("Content-Length", length), False
            return headers if headers.get_all("content-length") == (length,) else headers.set(
                "content-length", length
            ), False
        headers = headers.without("content-length")
        if bodiless or head or not http11:
            return headers, False
        return headers.without("transfer-encoding").add("Transfer-Encoding", "chunked"), True


class WaitingPeer(Protocol):
    """A peer that has asked."""

    def answered(self, answer: Answer) -> None:
        """This is the answer."""


class Exchange:
    """One client's request on its way through the cache, and the resources to end with it."""

    __slots__ = (
        "_requirements", "client", "collapsed", "directives", "gone", "headers", "is_closed", "key", "on_interim",
        "peer", "policy", "queued_for", "source", "target", "trace", "visits", "waiter",
    )  # fmt: skip

    def __init__(
        self,
        target: Target,
        headers: Headers,
        client: str,
        policy: Policy = BY_THE_BOOK,
        directives: CacheControl | None = None,
    ) -> None:
        self.target = target
        self.key = without_parameters(target.key, policy.key_ignores) if policy.key_ignores else target.key
        self.headers = headers
        self.client = client
        if "?" in target.path and not policy.ignore_authorization and is_signed_url(target.path, policy.key_ignores):
            policy = replace(policy, signed_url=True)
        self.policy = policy
        self.directives = request_cache_control(headers) if directives is None else directives
        """The request's directives, as far as they count."""
        if policy.ignore_directives:
            # A client that asks for stored responses only (another cache, mostly) must not cause a fetch.
            self.directives = ONLY_IF_CACHED if self.directives.only_if_cached else NOTHING
        self.on_interim: Callable[[int, Headers], None] | None = None
        """Takes a 1xx of the origin to the client, if it can be told (RFC 9110 §15.2)."""
        self.peer: WaitingPeer | None = None
        """If a peer has sent it, on behalf of ``client``."""
        self.trace: RequestTrace | None = None
        """If it is sampled."""
        self.waiter: Waiter | None = None
        self.source: BodySource | None = None
        self.visits: tuple[Visit, ...] = ()
        """The fills that it has waited for, or read from, in the order in which it came to them: the first
        :data:`VISITS_MAX`."""
        self.queued_for = 0.0
        self.collapsed = False
        self.gone = False
        self.is_closed = False
        self._requirements: Requirements | None = None

    @property
    def requirements(self) -> Requirements:
        """What its header requires of the answer. Most misses never ask."""
        if self._requirements is None:
            self._requirements = Requirements(self.headers, self.target.path)
        return self._requirements

    @property
    def is_over(self) -> bool:
        """Whether it has been answered, or its client has left."""
        return self.gone or self.is_closed

    def visit(self, waiter: Waiter) -> Waiter:
        """``waiter`` waits for a fill on behalf of this request."""
        waiter.asker = self
        if len(self.visits) < VISITS_MAX:
            fill = waiter.fill
            joined = fill.started if waiter.leads else time.monotonic()
            waiter.visit = visit = Visit(fill.watch, joined, leads=waiter.leads)
            self.visits = (*self.visits, visit)
            if self.trace is not None and fill.watch.trace is not None and not waiter.leads:
                self.trace.shares(fill.watch.trace)
        return waiter

    def client_gone(self) -> None:
        """The client disconnected: all waits on its behalf end."""
        self.gone = True
        if self.waiter is not None:
            self.waiter.client_gone()
        if self.source is not None:
            self.source.close()

    def close(self) -> None:
        """The answer has been sent, or will not be. Idempotent."""
        self.is_closed = True
        # The source may refer to this exchange: the circle would keep megabytes of a body until the next collection.
        source, self.source = self.source, None
        if source is not None:
            source.close()
        if self.waiter is not None:
            self.waiter.leave()


class MemoryReader:
    """Reads a stored body that is in memory."""

    __slots__ = ("_data", "_offset", "_stop")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0
        self._stop = len(data)

    @property
    def content(self) -> bytes:
        """All of it, whatever was read or is to be."""
        return self._data

    def seek(self, start: int, stop: int) -> None:
        self._offset, self._stop = start, stop

    def read_now(self) -> bytes | None:
        data = self._data
        if self._offset or self._stop != len(data):
            data = data[self._offset : self._stop]
        self._offset = self._stop
        return data

    async def read(self) -> bytes:
        return self.read_now() or b""

    def close(self) -> None:
        """There is nothing to let go of."""


class StoredReader:
    """Reads a stored body from its file. Where the disk fails, or the file was cut short, the rest is read
    ``elsewhere``, if that is possible."""

    __slots__ = ("_elsewhere", "_entry", "_file", "_offset", "_rest", "_stop", "_store")

    def __init__(
        self,
        store: Store,
        entry: Entry,
        file: OpenBody,
        start: int,
        stop: int,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self._rest: Rest | None = None
        self._store = store
        self._entry = entry
        self._file: OpenBody | None = file
        self._offset = start
        self._stop = stop

    def seek(self, start: int, stop: int) -> None:
        self._offset, self._stop = start, stop
        if self._rest is not None:
            self._rest.seek(start, stop)

    def read_now(self) -> bytes | None:
        if self._rest is not None:
            return self._rest.read_now()
        if self._offset >= self._stop:
            return b""
        if self._file is None:
            raise BodyError("the reader was closed")
        if self._file.is_bad:
            self._torn(corrupt())
            return None
        size = min(READ_SIZE, self._stop - self._offset)
        try:
            data = self._store.files.read_now(self._file.fd, size, self._offset)
        except OSError as error:
            self._torn(error)
            return None
        if data is not None:
            if not data:
                self._torn(cut_short())
                return None
            self._offset += len(data)
        return data

    @property
    def left(self) -> int:
        """Bytes that are still to be read."""
        return self._stop - self._offset

    def read_into(self, buffer: memoryview) -> int | None:
        """The next bytes into ``buffer``, as far as the page cache has them: how many, ``None`` if the disk has to be
        asked. They are not taken before :meth:`skip`."""
        if self._rest is not None:
            return None
        if self._file is None:
            raise BodyError("the reader was closed")
        if self._file.is_bad:
            return None
        try:
            return self._store.files.read_into(self._file.fd, buffer[: self.left], self._offset)
        except OSError:
            return None  # :meth:`read_now` meets it, too, and sees to it

    def skip(self, count: int) -> None:
        self._offset += count

    async def read(self) -> bytes:
        data = self.read_now()
        if data is not None:
            return data
        if self._rest is None:
            assert self._file is not None
            try:
                data = await self._store.files.read(self._file, min(READ_SIZE, self._stop - self._offset), self._offset)
            except OSError as error:
                self._torn(error)
            else:
                if data:
                    self._offset += len(data)
                    return data
                self._torn(cut_short())
        assert self._rest is not None
        return await self._rest.read()

    def _torn(self, error: OSError) -> None:
        """The entry goes, and the rest of it is read elsewhere. Raises :class:`BodyLost` if that can't be."""
        if self._store.holds(self._entry):
            self._store.drop_unreadable(self._entry, error)
        if self._file is None:
            raise BodyError("the reader was closed")  # while it was read
        self._rest = self._elsewhere and self._elsewhere(self._offset, self._stop, self._entry.length)
        if self._rest is None:
            raise BodyLost(str(error)) from error

    def close(self) -> None:
        self._elsewhere = None
        if self._rest is not None:
            self._rest.close()
        if self._file is not None:
            file, self._file = self._file, None
            self._store.files.release(file)


def corrupt() -> TornFile:
    return TornFile(errno.EIO, "the body is not what was stored")


def cut_short() -> TornFile:
    return TornFile(errno.EIO, "the body file is shorter than its entry")
