"""Long bodies on their way from an origin's connection to their file, past our memory (splice(2))."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.caching.fills.transfer import copy
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store import checksums as checksums_module
from proxy_cache.store.body import Body, BodyError
from proxy_cache.store.index import Entry
from proxy_cache.store.pipes import Pipe, Pipes
from proxy_cache.store.store import Store
from proxy_cache.upstream.response import OriginResponse
from proxy_cache.wire.responses import OriginError
from tests.support.looks import is_open_still
from tests.support.stores import hold_reads, nothing_is_known_to_be_in_memory, with_store
from tests.support.tasks import begun

from .test_origin_connection import CLOSE, RawOrigin, body_of, clients

BODY = os.urandom(1_000_000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
pytestmark = pytest.mark.skipif(not hasattr(os, "splice"), reason="no splice(2)")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    with contextlib.suppress(OSError):
        pipe.close()


def test_what_came_before_and_what_the_pipe_holds_end_up_side_by_side(tmp_path: Path, pipe: Pipe) -> None:
    fd = os.open(tmp_path / "body", os.O_RDWR | os.O_CREAT)
    os.write(pipe.writer, BODY[5000:65_000])
    spliced = Pipes().splice(fd, [BODY[1000:2000], BODY[2000:5000]], pipe, 60_000, 1000)
    assert (spliced.fd, spliced.count, spliced.error) == (fd, 60_000, None)
    assert os.pread(fd, 100_000, 0) == bytes(1000) + BODY[1000:65_000]
    os.close(fd)


def test_a_file_that_cannot_be_spliced_to(tmp_path: Path, pipe: Pipe) -> None:
    """On file systems without splice: it is not tried again with the next body, and nothing is lost."""
    pipes = Pipes()
    fd = os.open(tmp_path / "body", os.O_RDWR | os.O_CREAT | os.O_APPEND)  # EINVAL, says splice(2)
    os.write(pipe.writer, BODY[:60_000])
    spliced = pipes.splice(fd, [], pipe, 60_000, 0)
    assert spliced.count == 0
    assert spliced.unsupported
    assert not pipes.usable
    assert pipes.acquire() is None
    assert pipe.read(60_000) == BODY[:60_000]
    os.close(fd)


def test_pipes_are_used_again() -> None:
    pipes = Pipes()
    first = pipes.acquire()
    assert first is not None
    pipes.release(first)
    assert pipes.acquire() is first
    pipes.release(first)
    before = os.fstat(first.reader)
    pipes.close()
    assert not is_open_still(first.reader, before)


# -- from a connection -------------------------------------------------------------------------------------


def spliced(
    pieces: list[bytes], *, then: list[bytes] | None = None, read_after: int | None = None, **settings: Any
) -> tuple[bytes | str, RawOrigin]:
    """A body through a pipe, or the name of the error. ``then``: a further response to request afterwards.
    ``read_after``: bytes after which the rest is read, not spliced."""

    async def run() -> tuple[bytes | str, RawOrigin]:
        origin = RawOrigin([pieces, *([then] if then else [])])
        pipe = Pipe()
        async with clients(origin, **settings) as get:
            response = await get()
            body = response.read_held()
            assert response.spliceable
            try:
                while response.spliceable and (read_after is None or len(body) < read_after):
                    body += pipe.read(await response.splice(pipe.writer, pipe.size))  # 0: then nothing is spliceable
                body += await body_of(response)
            except OriginError as error:
                return error.error, origin
            finally:
                response.close()
                pipe.close()
            if then:
                assert await body_of(await get()) == b"ok"
        return body, origin

    return asyncio.run(run())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_body_is_spliced_to_its_last_byte_and_no_further() -> None:
    body, origin = spliced([HEAD, BODY], then=[OK])
    assert body == BODY
    assert origin.connections == 1


def test_head_and_body_that_come_at_once() -> None:
    assert spliced([HEAD + BODY])[0] == BODY


def test_a_body_that_comes_in_pieces() -> None:
    assert spliced([HEAD, *(BODY[at : at + 50_000] for at in range(0, 1_000_000, 50_000))])[0] == BODY


def test_the_rest_may_be_read() -> None:
    body, origin = spliced([HEAD, BODY[:400_000], BODY[400_000:]], then=[OK], read_after=1)
    assert body == BODY
    assert origin.connections == 1


def test_a_body_that_breaks_off() -> None:
    assert spliced([HEAD, BODY[:500_000], CLOSE])[0] == "http_response_incomplete"


def test_an_origin_that_stops() -> None:
    assert spliced([HEAD, BODY[:500_000]], timeout=1)[0] == "connection_read_timeout"


def test_what_follows_a_body_is_not_the_answer_to_the_next_request() -> None:
    """Its connection is not used again (RFC 9112 §6.3: "an attempt at request smuggling […] or response splitting")."""
    body, origin = spliced([HEAD + BODY + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"], then=[OK])
    assert body == BODY
    assert origin.connections == 2


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EINVAL, errno.ENOMEM])
def test_a_system_that_refuses_to_splice(monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    """As in sandboxes: the body is read, and no byte is lost."""

    def refuse(*_: object) -> int:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "splice", refuse)
    assert spliced([HEAD, BODY])[0] == BODY


def test_no_descriptor_left() -> None:
    async def run() -> bytes:
        async with clients(RawOrigin([[HEAD, BODY]])) as get:
            pipe = Pipe()
            response = await get()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                assert await response.splice(pipe.writer, pipe.size) == 0
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                pipe.close()
            return await body_of(response)

    assert asyncio.run(run()) == BODY


def test_what_is_not_spliced_is_read_as_ever() -> None:
    async def run() -> bytes:
        async with clients(RawOrigin([[HEAD, BODY]])) as get:
            return await body_of(await get())

    assert asyncio.run(run()) == BODY


def test_short_chunked_and_endless_bodies_are_not_for_pipes() -> None:
    heads = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ]

    async def run() -> list[int]:
        spliceable = []
        async with clients(RawOrigin([[head] for head in heads])) as get:
            for _ in heads:
                response = await get()
                spliceable.append(response.spliceable)
                response.close()
        return spliceable

    assert asyncio.run(run()) == [0, 0, 0]


def test_who_waits_for_more_may_be_ended() -> None:
    async def run() -> None:
        origin = RawOrigin([[HEAD]])
        pipe = Pipe()
        async with clients(origin) as get:
            response = await get()
            assert isinstance(response, OriginResponse)
            waiting = await begun(response.splice(pipe.writer, pipe.size))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            response.close()
            await origin.ended.wait()
        pipe.close()

    asyncio.run(run())


# -- to a store --------------------------------------------------------------------------------------------


def filled(pipe: Pipe, data: bytes) -> int:
    return os.write(pipe.writer, data)


async def all_of(body: Body) -> bytes:
    reader = body.reader()
    data = b""
    while chunk := await reader.read():
        data += chunk
    reader.close()
    return data


def file_of(store: Store, entry: Entry) -> bytes:
    return Path(store.files.path(entry.id)).read_bytes()


def response_of(length: int) -> StoredResponse:
    headers = Headers([(b"Content-Length", b"%d" % length), (b"Cache-Control", b"max-age=600"), (b"ETag", b'"1"')])
    return StoredResponse(200, headers, 0.0, 0.0)


def test_memory_and_pipes_take_turns(tmp_path: Path, pipe: Pipe) -> None:
    """However its parts arrive, the file has the body in order; readers read along."""

    async def story(store: Store) -> None:
        body = store.body(900_000, keep=True)
        early = asyncio.create_task(all_of(body))
        at = 0
        for number, size in enumerate([10_000, 300_000, 90_000, 1_000, 200_000, 99_000, 200_000]):
            part = BODY[at : at + size]
            at += size
            if number % 2:
                await body.splice(pipe, filled(pipe, part))
            else:
                body.put(part)
        body.finish()
        entry = await store.commit(body, "http://x/", response_of(900_000))
        assert entry is not None
        assert await early == BODY[:900_000]
        assert file_of(store, entry) == BODY[:900_000]

    with_store(tmp_path, story)


def test_nothing_is_left_of_a_body_that_is_given_up(tmp_path: Path, pipe: Pipe) -> None:
    """Even while its file is being made: the file is deleted, and the pipe closed when the thread is done."""

    async def story(store: Store) -> None:
        release = threading.Event()
        store.files.splicer.run(release.wait)
        body = store.body(900_000, keep=True)
        splicing = await begun(body.splice(pipe, filled(pipe, BODY[:500_000])))
        splicing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await splicing
        body.fail(BodyError("given up"))
        before = os.fstat(pipe.reader)  # it is still in use
        release.set()
        await store.files.drain()
        assert not is_open_still(pipe.reader, before)
        assert list(store.files.scan()) == []

    with_store(tmp_path, story)


def test_a_pipe_is_closed_by_who_is_ended_before_it_is_used(tmp_path: Path, pipe: Pipe) -> None:
    """While the previous part of the body is being written."""

    async def story(store: Store) -> None:
        release = hold_reads(store)
        body = store.body(2_000_000, keep=True)
        assert not body.put(BODY[:500_000])
        await body.drain()
        assert body.flushing
        splicing = await begun(body.splice(pipe, filled(pipe, BODY[500_000:800_000])))
        before = os.fstat(pipe.reader)
        splicing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await splicing
        assert not is_open_still(pipe.reader, before)
        release.set()
        body.fail(BodyError("given up"))

    with_store(tmp_path, story)


def test_whatever_goes_wrong_in_the_thread_nobody_waits_for_ever(tmp_path: Path, pipe: Pipe) -> None:
    failures: list[str] = []

    async def story(store: Store) -> None:
        def no_memory(entry_id: int) -> int:
            raise MemoryError

        store.files.create_in_place = no_memory  # type: ignore[method-assign]
        body = store.body(900_000, keep=True)
        reading = asyncio.create_task(all_of(body))
        body.put(BODY[:10_000])
        await body.splice(pipe, filled(pipe, BODY[10_000:500_000]))
        assert not body.kept
        body.put(BODY[500_000:900_000])
        body.finish()
        assert await reading == BODY[:900_000]

    with_store(tmp_path, story, on_failure=failures.append)
    assert failures == ["write"]


def test_a_file_stays_open_while_a_thread_writes_to_it(
    tmp_path: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the commit is cancelled, twice: a closed descriptor could belong to another file by then."""
    release, began = threading.Event(), threading.Event()

    async def story(store: Store) -> None:
        body = store.body(900_000, keep=True)
        await body.splice(pipe, filled(pipe, BODY[:500_000]))
        assert body.file.open_body is not None
        fd = body.file.open_body.fd
        body.put(BODY[500_000:510_000])
        write_at = checksums_module.write_at

        def slow(*arguments: Any) -> None:
            began.set()
            release.wait()
            write_at(*arguments)

        monkeypatch.setattr(checksums_module, "write_at", slow)
        committing = asyncio.create_task(store.commit(body, "http://x/", response_of(900_000)))
        await asyncio.get_running_loop().run_in_executor(None, began.wait)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        body.fail(BodyError("given up"))
        before = os.fstat(fd)
        release.set()
        await store.files.drain()
        assert not is_open_still(fd, before)
        assert list(store.files.scan()) == []

    with_store(tmp_path, story)


def test_a_reader_that_is_closed_while_a_thread_reads_for_it(
    tmp_path: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its open file has not become another one."""

    async def story(store: Store) -> None:
        nothing_is_known_to_be_in_memory(monkeypatch)
        body = store.body(900_000, keep=True)
        await body.splice(pipe, filled(pipe, BODY[:500_000]))
        assert body.file.open_body is not None
        fd = body.file.open_body.fd
        release = hold_reads(store)
        reader = body.reader()
        reading = await begun(reader.read())
        body.fail(BodyError("given up"))
        reader.close()
        before = os.fstat(fd)
        release.set()
        with pytest.raises(BodyError):
            await reading
        assert not is_open_still(fd, before)

    with_store(tmp_path, story)


def test_a_full_disk_is_told_of_once(tmp_path: Path, pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    async def story(store: Store) -> None:
        for _ in range(3):
            body = store.body(900_000, keep=True)
            os.mkdir(store.files.path(body.file.entry_id))
            await body.splice(pipe, filled(pipe, BODY[:500_000]))
            assert not body.kept
            body.fail(BodyError("enough"))

    with_store(tmp_path, story)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_disk_that_takes_no_more(tmp_path: Path, pipe: Pipe) -> None:
    """It is not kept, but delivered to the last byte: the rest is read from the pipe."""
    failures: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    async def story(store: Store) -> None:
        body = store.body(900_000, keep=True)
        reading = asyncio.create_task(all_of(body))
        body.put(BODY[:10_000])
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # EFBIG
        try:
            await body.splice(pipe, filled(pipe, BODY[10_000:500_000]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not body.kept
        await body.splice(pipe, filled(pipe, BODY[500_000:900_000]))
        body.finish()
        assert await reading == BODY[:900_000]
        assert await store.commit(body, "http://x/", response_of(900_000)) is None
        await store.files.drain()
        assert list(store.files.scan()) == []

    try:
        with_store(tmp_path, story, on_failure=failures.append)
    finally:
        signal.signal(signal.SIGXFSZ, before)
    assert failures == ["write"]


def test_where_splicing_is_refused_the_body_is_kept_all_the_same(tmp_path: Path, pipe: Pipe) -> None:
    async def story(store: Store) -> None:
        make = store.files.create_in_place

        def appending(entry_id: int) -> int:  # for which splice(2) has EINVAL, as for some file systems
            os.close(make(entry_id))
            return os.open(store.files.path(entry_id), os.O_RDWR | os.O_APPEND)

        store.files.create_in_place = appending  # type: ignore[method-assign]
        body = store.body(900_000, keep=True)
        await body.splice(pipe, filled(pipe, BODY[:500_000]))
        assert body.kept
        assert store.pipes.acquire() is None
        body.put(BODY[500_000:900_000])
        body.finish()
        entry = await store.commit(body, "http://x/", response_of(900_000))
        assert entry is not None
        assert file_of(store, entry) == BODY[:900_000]

    with_store(tmp_path, story)


def test_more_than_was_announced_costs_no_pipe(tmp_path: Path) -> None:
    """The bytes read so far are checked before a pipe is acquired, which would not be released."""

    class TooMuch:
        spliceable = 500_000

        def read_held(self) -> bytes:
            return BODY[:600_000]

    async def story(store: Store) -> None:
        pipe = store.pipes.acquire()
        assert pipe is not None
        store.pipes.release(pipe)
        body = store.body(500_000, keep=True)
        error = await copy(TooMuch(), body, store.pipes)  # type: ignore[arg-type]
        assert error is not None
        assert error.error == "http_protocol_error"
        body.fail(error)
        assert store.pipes.acquire() is pipe
        store.pipes.release(pipe)

    with_store(tmp_path, story)
