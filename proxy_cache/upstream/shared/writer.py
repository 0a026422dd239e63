"""Writes responses to the shared store, behind: nobody waits for it, and what can't be written is dropped and counted.

A short object is written by one PUT that only succeeds if there is none (``If-None-Match: *``), a long one in several
parts, when there is none yet. What is there already stays, unless ours is newer and says something else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from ...semantics.stored import StoredResponse
from ...store.entry import Entry
from ...store.files import OpenBody
from ...store.store import Store
from ..source import Wanted
from .body import SHORT
from .breaker import Breaker
from .bucket import MULTIPART, Bucket, Changed, Exists, StoreFails
from .choice import is_for_all, is_worth_writing
from .events import SharedEvents
from .layout import Damaged, StoredHead, block_size, encode, name_of, scope_of, variant_of
from .objects import Objects, StoredObject

logger = logging.getLogger(__name__)

QUEUE_MAX: Final = 1000
"""Objects that may wait to be written."""
QUEUE_BYTES: Final = 1 << 30
"""Bytes of their bodies. They are in the local store and not in memory; but what has been evicted when its turn comes
can't be written."""
AT_ONCE: Final = 4
"""Objects that are written at the same time."""
READ: Final = 1 << 20
"""Bytes of a long body that are read at once."""
HASHED: Final = 64 << 20
"""Bytes of it that are hashed at once, in a thread of the disk's."""
LOOK: Final = 10.0
"""Seconds that a look at what is there may take."""


@dataclass(slots=True, eq=False)
class _Task:
    name: str
    wanted: Wanted | None
    entry: Entry | None
    """``None``: delete what is there."""
    size: int


class SharedWriter:
    """The queue, and who works on it. ``on_change(name)`` is called when an object was written or deleted."""

    def __init__(
        self,
        bucket: Bucket,
        store: Store,
        events: SharedEvents,
        breaker: Breaker,
        mode: str,
        on_change: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.mode = mode
        """``immutable``, ``all`` or ``off``. May be changed at any time."""
        self.on_change = on_change
        self.breaker = breaker
        self._bucket = bucket
        self._objects = Objects(bucket)
        self._store = store
        self._events = events
        self._queue: deque[_Task] = deque()
        self._size = 0
        self._busy: dict[str, _Task] = {}
        """What is being done now, one thing at a time with each name."""
        self._workers: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def queued(self) -> int:
        """Objects that are not written yet."""
        return len(self._queue) + len(self._busy)

    @property
    def queued_bytes(self) -> int:
        return self._size

    def stored(self, wanted: Wanted, entry: Entry) -> None:
        """A response from the origin is in the local store."""
        try:
            if self._is_closed or not is_worth_writing(self.mode, wanted, entry, time.time()):
                return
        except Exception:  # it is on the way of a response, which must not fail for this
            logger.exception("is %s to be written to the shared store?", entry)
            return
        if not self.breaker.lets_pass:
            self._events.shared_written("skipped")
        elif self.queued >= QUEUE_MAX or (self._size and self._size + entry.length > QUEUE_BYTES):
            self._events.shared_written("full")
        else:
            self._add(_Task(name_of(wanted.key, scope_of(wanted.policy)), wanted, entry, entry.length))

    def delete(self, name: str) -> None:
        """What is there is of no use any more, nor is what waits to be written there, or is being written: this comes
        after it."""
        for task in [task for task in self._queue if task.name == name]:
            self._queue.remove(task)
            self._size -= task.size
        if self.mode != "off" and not self._is_closed and len(self._queue) < 2 * QUEUE_MAX:
            self._add(_Task(name, None, None, 0))

    def _add(self, task: _Task) -> None:
        self._queue.append(task)
        self._size += task.size
        if len(self._workers) < AT_ONCE:
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def drain(self, seconds: float) -> None:
        """Write what is queued, for so many seconds at the most, and nothing any more."""
        self._is_closed = True
        if self._workers and seconds > 0:
            await asyncio.wait(self._workers, timeout=seconds)
        left = self.queued
        for worker in list(self._workers):
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers, timeout=1.0)
        if left:
            logger.warning("proxy-cache: %d responses not written to the shared store: no time left", left)

    # -- the workers ----------------------------------------------------------------------------------------------

    def _next(self) -> _Task | None:
        for task in self._queue:
            if task.name not in self._busy:
                self._queue.remove(task)
                return task
        return None

    async def _work(self) -> None:
        await asyncio.sleep(0)  # tasks may start eagerly, and nothing is done on the way of a request
        while (task := self._next()) is not None:
            self._busy[task.name] = task
            outcome = "failed"
            try:
                outcome = await self._do(task)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError):
                    self.breaker.left()
                    raise
                if isinstance(error, StoreFails):
                    self.breaker.failed(str(error))
                else:
                    self.breaker.left()
                    logger.warning("proxy-cache: not written to the shared store: %s: %s", type(error).__name__, error)
            finally:
                del self._busy[task.name]
                self._size -= task.size
                self._events.shared_written(outcome)

    async def _do(self, task: _Task) -> str:
        if not self.breaker.enter():
            return "skipped"
        if task.entry is None or task.wanted is None:
            await self._bucket.delete(task.name)
            outcome = "deleted"
        else:
            outcome = await self._write(task, task.wanted, task.entry)
        self.breaker.succeeded()
        self._objects.forget(task.name)
        self.on_change(task.name)
        return outcome

    async def _write(self, task: _Task, wanted: Wanted, entry: Entry) -> str:
        response = entry.response  # a validation may have changed it
        body = await self._store.open_body(entry)
        if body is None or not is_for_all(wanted, response):
            return "gone"
        try:
            source = _Body(self._store, body, entry.length)
            sha256, sums = await source.sums()
            head = StoredHead(
                key=task.name.rpartition("/")[2], generation=secrets.token_hex(8), status=response.status,
                headers=response.headers, request_time=response.request_time, response_time=response.response_time,
                initial_age=response.initial_age, vary=response.vary, length=entry.length, sha256=sha256,
                block=block_size(entry.length), sums=sums,
            )  # fmt: skip
            outcome = await self._put(task.name, head, source)
            if outcome == "variant":
                outcome = await self._put_variant(task.name, head, source)
        finally:
            if isinstance(body, OpenBody):
                self._store.files.release(body)
        if outcome in ("stored", "replaced"):
            self._events.shared_moved("written", entry.length)
        return outcome

    async def _put(self, name: str, head: StoredHead, source: _Body) -> str:
        """``stored``, ``replaced`` or ``exists``; ``variant`` if another variant is there."""
        start, is_long = encode(head), head.length > MULTIPART
        if not is_long:
            try:
                await self._bucket.create(name, start + await source.read(0, head.length))
                return "stored"
            except (Exists, NotImplementedError):
                pass
        there = await self._look(name)
        if there is not None:
            known, fields = there.head, {field for field, _ in there.head.vary}
            if known.vary != head.vary and fields and fields <= {field for field, _ in head.vary}:
                return "variant"
            if known.response_time >= head.response_time or _is_as_good(known, head, time.time()):
                return "exists"
        if is_long:
            await self._bucket.upload(name, source.chunks(start), head.length)
        else:
            await self._bucket.replace(name, start + await source.read(0, head.length))
        return "stored" if there is None else "replaced"

    async def _put_variant(self, name: str, head: StoredHead, source: _Body) -> str:
        first = await self._look(name)
        values = dict(head.vary)
        if first is None or not all(field in values for field, _ in first.head.vary):
            return "failed"  # it has been deleted or replaced meanwhile
        selecting = tuple((field, values[field]) for field, _ in first.head.vary)
        outcome = await self._put(variant_of(name, first.head.generation, selecting), head, source)
        return "exists" if outcome == "variant" else outcome

    async def _look(self, name: str) -> StoredObject | None:
        """What is there; ``None``: nothing, or nothing of use."""
        self._objects.forget(name)
        try:
            async with asyncio.timeout(LOOK):
                return await self._objects.find(name, whole=False)
        except (Damaged, Changed):
            return None
        except TimeoutError as error:
            raise StoreFails(f"no answer within {LOOK:g} s") from error

    def snapshot(self) -> dict[str, Any]:
        """For the status page."""
        return {"write": self.mode, "queued": self.queued, "queued_bytes": self.queued_bytes}


def _is_as_good(known: StoredHead, head: StoredHead, now: float) -> bool:
    """Whether what is there has the same content, and is fresh as yet."""
    if (known.sha256, known.status, known.vary) != (head.sha256, head.status, head.vary):
        return False
    stored = StoredResponse(
        known.status, known.headers, known.request_time, known.response_time, known.vary, known.initial_age
    )
    return now < stored.fresh_until


class _Body:
    """The body of an entry, from memory or its file."""

    def __init__(self, store: Store, body: OpenBody | bytes, length: int) -> None:
        self._files = store.files
        self._body = body
        self._length = length

    async def read(self, start: int, stop: int) -> bytes:
        """Raises ``OSError``."""
        if not isinstance(self._body, OpenBody):
            return bytes(self._body[start:stop])
        parts, offset = [], start
        while offset < stop:
            data = await self._files.read(self._body, min(READ, stop - offset), offset)
            if not data:
                raise OSError("the body file ended early")
            parts.append(data)
            offset += len(data)
        return b"".join(parts)

    async def chunks(self, start: bytes) -> AsyncIterator[bytes]:
        """With ``start`` in front."""
        yield start
        for offset in range(0, self._length, READ):
            yield await self.read(offset, min(offset + READ, self._length))

    async def sums(self) -> tuple[str, bytes]:
        """The SHA-256 of all of it, in hexadecimal, and of each block."""
        hashing, body = _Hashing(self._length), self._body
        if isinstance(body, OpenBody):
            for start in range(0, self._length, HASHED):
                stop = min(start + HASHED, self._length)
                await self._files.run_on(body, hashing.add_file, body.fd, start, stop)
        elif self._length <= SHORT:
            hashing.add(body)
        else:
            await asyncio.to_thread(hashing.add, body)
        return hashing.whole.hexdigest(), hashing.sums


class _Hashing:
    def __init__(self, length: int) -> None:
        self.whole = hashlib.sha256()
        self.block = block_size(length)
        self.sums = b""

    def add(self, data: bytes) -> None:
        """``data`` begins where a block begins, and ends with one or with the body."""
        self.whole.update(data)
        view = memoryview(data)
        self.sums += b"".join(
            hashlib.sha256(view[start : start + self.block]).digest() for start in range(0, len(data), self.block)
        )

    def add_file(self, fd: int, start: int, stop: int) -> None:
        """In the pool."""
        while start < stop:
            data = os.pread(fd, min(self.block, stop - start), start)
            if len(data) < min(self.block, stop - start):
                raise OSError("the body file ended early")
            self.add(data)
            start += len(data)
