"""A mitmproxy script for tests: heads that tell another length than the body has, as a bug in the product would make
them. Paths say by how much: ``/tells/10-more/…``, ``/tells/10-less/…``."""

from __future__ import annotations

import functools
import re

from proxy_cache.caching.answers import Answer, Exchange
from proxy_cache.caching.cache import Cache


def told(exchange: Exchange, answer: object) -> object:
    found = re.match(r"/tells/(\d+)-(more|less)/", exchange.target.path)
    if isinstance(answer, Answer) and answer.length is not None and found is not None:
        answer.length += int(found[1]) if found[2] == "more" else -int(found[1])
    return answer


get, finish_miss, get_now = Cache.get, Cache.finish_miss, Cache.get_now


@functools.wraps(get)
async def get_wrong(self: Cache, exchange: Exchange, *, alone: bool = False) -> object:
    return told(exchange, await get(self, exchange, alone=alone))


@functools.wraps(finish_miss)
def finish_miss_wrong(self: Cache, exchange: Exchange, waiter: object) -> object:
    return told(exchange, finish_miss(self, exchange, waiter))  # type: ignore[arg-type]


@functools.wraps(get_now)
def get_now_wrong(self: Cache, exchange: Exchange) -> object:
    return told(exchange, get_now(self, exchange))


setattr(Cache, "get", get_wrong)  # noqa: B010
setattr(Cache, "finish_miss", finish_miss_wrong)  # noqa: B010
setattr(Cache, "get_now", get_now_wrong)  # noqa: B010
