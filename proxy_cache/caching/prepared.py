"""Prepared hits: head and body of a whole response, or one range, ready to be sent. Most requests are answered so."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, TypeAlias

from ..semantics.headers import Headers
from ..semantics.ranges import RangeSpec, without_digests
from ..semantics.status_fields import cache_status
from ..semantics.stored import StoredResponse
from ..semantics.vary import matches
from ..store.files import WARM_MAX, OpenBody
from ..store.index import Entry
from ..store.memory import LARGEST, SMALL
from ..store.store import Store
from ..wire.requests import response_head
from .answers import Answer
from .headers import NAME, Heads, put

SENDFILE: Final = range(SMALL + 1, WARM_MAX + 1)
"""Bytes of bodies for which the kernel's page cache beats our memory: sending it takes no copy, but a second system
call, and of more bytes the pages cost more than a copy does. (100 kB: 26 against 36 µs, measured; see
docs/performance.md.)"""
RANGE_MAX: Final = 256 * 1024
"""Bytes of a range that is read from its file at once. A longer one is read at its client's pace."""
AGE_MARK: Final = secrets.token_hex(16)
TTL_MARK: Final = secrets.token_hex(16)
RANGE_MARK: Final = secrets.token_hex(16)
LENGTH_MARK: Final = 10**17 + secrets.randbelow(10**17)
"""Placeholders in a template for values that change by the second, or by the range. No origin can guess them."""


Hit: TypeAlias = tuple[bytes, bytes | bytearray | memoryview, int | None, int]
"""Head, body, file and status."""
DigestOf: TypeAlias = Callable[[int, Headers, bytes | bytearray | memoryview], str]
"""Of a response's status, header and body."""


class Prepared:
    """The head of an entry's hits, made once, but for its age and its ttl."""

    __slots__ = ("_after", "_before", "_between", "_bytes", "_from", "_until", "digest", "response")

    def __init__(self, response: StoredResponse, template: bytes) -> None:
        self.response = response
        self._before, _, rest = template.partition(AGE_MARK.encode())
        self._between, _, self._after = rest.partition(TTL_MARK.encode())
        self._from = self._until = 0.0
        self._bytes = b""
        self.digest: str | None = None
        """See :meth:`PreparedHits.find_with_digest`."""

    def head(self, now: float) -> bytes:
        if not self._from <= now < self._until:
            response = self.response
            age = response.age(now)
            self._from = response.response_time + age - response.initial_age
            self._until = self._from + 1
            self._bytes = b"%b%d%b%d%b" % (self._before, age, self._between, response.lifetime - age, self._after)
        return self._bytes


class PreparedRange:
    """The head of a 206 with one range of an entry, made once, but for its age, its ttl, the range and its length."""

    __slots__ = ("_format", "_from", "_is_length_first", "_this_second", "_until", "response")

    def __init__(self, response: StoredResponse, template: bytes) -> None:
        self.response = response
        length = str(LENGTH_MARK).encode()
        self._is_length_first = template.index(length) < template.index(RANGE_MARK.encode())
        # Filled in twice: age and ttl once a second, the range for each request.
        template = template.replace(b"%", b"%%%%").replace(length, b"%%d").replace(RANGE_MARK.encode(), b"%%d-%%d")
        self._format = template.replace(AGE_MARK.encode(), b"%d").replace(TTL_MARK.encode(), b"%d")
        self._from = self._until = 0.0
        self._this_second = b""

    def head(self, now: float, start: int, stop: int) -> bytes:
        if not self._from <= now < self._until:
            response = self.response
            age = response.age(now)
            self._this_second = self._format % (age, response.lifetime - age)
            self._from = response.response_time + age - response.initial_age
            self._until = self._from + 1
        if self._is_length_first:
            return self._this_second % (stop - start, start, stop - 1)
        return self._this_second % (start, stop - 1, stop - start)


class PreparedHits:
    """Finds prepared hits in the store."""

    def __init__(self, store: Store, heads: Heads) -> None:
        self._store = store
        self._index, self._memory = store.index, store.memory
        self._heads = heads

    def find(self, key: str, headers: Headers, now: float) -> Hit | None:
        """Head, body, file and status for a GET without range, condition or directive, if a fresh entry has them ready.

        The file is the descriptor of the body's if it is better sent from there (see :data:`SENDFILE`). It is good
        until somebody else has had a turn on the loop.
        """
        entry = self._index.only(key)
        if entry is None:
            return None
        response = entry.response
        if not now < response.fresh_until or (response.vary and not matches(response.vary, headers)):
            return None
        if entry.memory is None and not self._brought_to_memory(entry):
            return None
        prepared = entry.prepared
        if prepared is None or prepared.response is not response:
            prepared = entry.prepared = Prepared(response, self._template(entry))
            response.headers.pack()
        self._index.touch(entry, now)
        self._memory.touch(entry)
        body = entry.memory
        assert body is not None
        file = self._store.files.warm(entry.id, entry.length, now) if entry.length in SENDFILE else None
        return prepared.head(now), body, file, response.status

    def find_with_digest(self, key: str, headers: Headers, now: float, digest_of: DigestOf) -> tuple[Hit, str] | None:
        """The same, with a digest of the body, which ``digest_of`` makes, once for an entry; it may be empty."""
        hit = self.find(key, headers, now)
        entry = self._index.only(key)
        if hit is None or entry is None or (prepared := entry.prepared) is None:
            return None
        if prepared.digest is None:
            prepared.digest = digest_of(prepared.response.status, prepared.response.headers, hit[1])
        return hit, prepared.digest

    def find_range(self, key: str, headers: Headers, spec: RangeSpec, now: float) -> Hit | None:
        """The same for a GET with one range and, but for that, plain: if all of the range is in memory, or in a file
        that is open, and in the page cache."""
        entry = self._index.only(key)
        if entry is None:
            return None
        response = entry.response
        if response.status != 200 or not now < response.fresh_until:
            return None
        if response.vary and ("range" in dict(response.vary) or not matches(response.vary, headers)):
            return None  # (``headers`` are without the Range)
        start, stop = spec
        # Most name both ends, which takes no call. (``within`` has the rules for all of them.)
        if start is not None and stop is not None and start <= stop < entry.length:
            stop += 1
        elif span := spec.within(entry.length):
            start, stop = span
        else:
            return None
        body: bytearray | memoryview | None
        if entry.memory is not None:
            body = memoryview(entry.memory)[start:stop]
            self._memory.touch(entry)
        else:
            # It has a file of its own.
            if stop - start > RANGE_MAX or (entry.spans is not None and not entry.spans.covers(start, stop)):
                return None
            body = self._store.files.read_open(entry.id, stop - start, start)
            if body is None:
                return None
        prepared = entry.prepared_range
        if prepared is None or prepared.response is not response:
            prepared = entry.prepared_range = PreparedRange(response, self._range_template(entry))
        self._index.touch(entry, now)
        return prepared.head(now, start, stop), body, None, 206

    def _brought_to_memory(self, entry: Entry) -> bool:
        """Whether its body is worth having in memory and can be had without waiting."""
        if entry.length > LARGEST or entry.spans is not None or entry.response.status in (204, 304):
            return False
        file = self._store.open_now(entry)
        if isinstance(file, OpenBody):
            try:
                data = self._store.files.read_now(file.fd, entry.length, 0) if entry.length else b""
            except OSError:
                return False  # the usual way meets it again, and drops the entry
            finally:
                self._store.files.release(file)
            if data is not None and len(data) == entry.length:
                self._store.bring_to_memory(entry, data)
        return entry.memory is not None

    def _template(self, entry: Entry) -> bytes:
        """The head of a hit as :class:`~.cache.Cache` would make it, with marks where age and ttl belong."""
        response = entry.response
        headers = put(response.headers, "Age", AGE_MARK)
        if response.status == 200 and "accept-ranges" not in headers:
            headers = headers.add("Accept-Ranges", "bytes")
        return self._finished(response, response.status, headers, entry.length)

    def _range_template(self, entry: Entry) -> bytes:
        """The same for a 206, with marks for the range and its length, too."""
        response = entry.response
        headers = put(response.headers, "Age", AGE_MARK)
        if "accept-ranges" not in headers:
            headers = headers.add("Accept-Ranges", "bytes")
        headers = put(without_digests(headers), "Content-Range", f"bytes {RANGE_MARK}/{entry.length}")
        return self._finished(response, 206, headers, LENGTH_MARK)

    def _finished(self, response: StoredResponse, status: int, headers: Headers, length: int) -> bytes:
        headers = self._heads.own(headers, response, f"{cache_status(NAME, hit=True)}; ttl={TTL_MARK}")
        answer = Answer(status, "", headers, b"", length, "hit")
        return response_head(answer.status, answer.reason_phrase, answer.framed(http11=True, head=False)[0])
