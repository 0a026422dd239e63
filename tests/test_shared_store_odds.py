"""Objects in a bucket that nobody of ours has written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.buckets import Bucket
from tests.support.content import content
from tests.support.origin import Origin, Reply
from tests.test_shared_store import ETAG, FOR_EVER, Start, bucket, start, written

__all__ = ["bucket", "start"]

Change = Callable[[dict[str, Any]], None]

ODD: dict[str, Change] = {
    "no time": lambda head: head.update(response_time=float("nan")),
    "a time that never was": lambda head: head.update(response_time=1e400),
    "an endless age": lambda head: head.update(initial_age=10**400),
    "a status without a body": lambda head: head.update(status=304),
    "no status": lambda head: head.update(status=7),
    "two lines in one": lambda head: head["headers"].append(["X-A", "1\r\nX-B: 2"]),
    "no name": lambda head: head["headers"].append(["", "1"]),
    "another length": lambda head: head["headers"].append(["Content-Length", "17"]),
    "chunks": lambda head: head["headers"].append(["Transfer-Encoding", "chunked"]),
    "nothing": dict.clear,
}


def changed(data: bytes, change: Change) -> bytes:
    """The object with another head, and that one's digest."""
    line, _, rest = data.partition(b"\n")
    size = int(line.split(b" ")[1])
    head = json.loads(rest[:size])
    head["headers"] = [field for field in head["headers"] if field[0].lower() != "content-length"]
    change(head)
    text = json.dumps(head).encode()
    line = b"proxy-cache-shared/1 %d %b" % (len(text), hashlib.sha256(text).hexdigest().encode())
    return line + b"\n" + text + rest[size:]


@pytest.mark.parametrize("size", [3000, 600_000])
def test_an_object_that_makes_no_sense_is_dropped(start: Start, origin: Origin, bucket: Bucket, size: int) -> None:
    """And is no error for the client: the origin has it."""
    urls = [origin.serve(f"/{number}", Reply(size=size, headers=(FOR_EVER, ETAG))) for number in range(len(ODD))]
    one = start()
    for url in urls:
        assert one.get(url).status == 200
    written(one, len(urls))
    names = {hashlib.sha256(url.encode()).hexdigest(): url for url in urls}
    found = {names[name.rpartition("/")[2]]: name for name in bucket.names()}
    for url, change in zip(urls, ODD.values(), strict=True):
        bucket.write(found[url], changed(bucket.read(found[url]), change))
    two = start(cache_shared_write="off")
    for number, (url, how) in enumerate(zip(urls, ODD, strict=True)):
        answer = two.get(url)
        assert (answer.status, answer.body) == (200, content(f"/{number}", size)), how
        assert origin.count(f"/{number}") == 2, how
        assert answer.header("X-B") is None
    assert two.value("shared_fetches_total", outcome="corrupt") == len(ODD)
