"""How the body of an answer comes from the origin's connection into the store: through memory, or by a pipe."""

from __future__ import annotations

from typing import Final

from ...store.body import Body
from ...store.pipes import SPLICE_MIN, Pipes
from ...upstream.response import OriginResponse
from ...wire.responses import OriginError

LITTLE: Final = 128 * 1024
"""Bytes that are not worth a trip to the disk by themselves: so much is copied for the price of a change of threads."""
LITTLE_MAX: Final = 8
"""Times that so little comes, one after the other, before the rest of a body takes the usual way."""


async def copy(response: OriginResponse, body: Body, pipes: Pipes) -> OriginError | None:
    """Write what comes; the error if it broke off. Never more than it said it would be."""
    try:
        if body.kept and not body.is_range and body.total is not None and response.spliceable >= SPLICE_MIN:
            await _splice(response, body, body.total, pipes)
        while chunk := response.read_now() or await response.read():
            _check(body, len(chunk))
            if not body.put(chunk):
                await body.drain()
    except OriginError as error:
        return error
    if body.total is not None and body.length != body.total:
        return OriginError("http_response_incomplete", f"{body.length - body.start} of {body.total - body.start} bytes")
    return None


async def _splice(response: OriginResponse, body: Body, total: int, pipes: Pipes) -> None:
    """A long body goes from the connection to its file by itself, as long as it is kept and comes fast."""
    if held := response.read_held():
        _check(body, len(held))
        body.put(held)
    pipe = pipes.acquire()  # nothing that may fail between this and where it is closed
    if pipe is None:
        return
    little = 0
    # What is more than was announced is left for the usual way to complain of.
    while body.kept and pipes.usable and response.spliceable and body.length < total and little < LITTLE_MAX:
        try:
            count = await response.splice(pipe.writer, min(pipe.size, total - body.length))
            if not count:
                break
            if count < LITTLE and response.spliceable:
                little += 1
                if not body.put(pipe.read(count)):
                    await body.drain()
                continue
        except BaseException:
            pipe.close()
            raise
        little = 0
        await body.splice(pipe, count)
    pipes.release(pipe)


def _check(body: Body, count: int) -> None:
    """Whether so much more is still within what was announced."""
    if body.total is not None and body.length + count > body.total:
        raise OriginError("http_protocol_error", f"more than the {body.total - body.start} bytes announced")
