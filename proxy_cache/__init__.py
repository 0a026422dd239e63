"""A caching forward proxy for build agents, as a mitmproxy addon.

Cacheable GETs are answered from a disk cache; misses of one key share one origin request (a *fill*), and at most
``origin_max_in_flight`` fills run at once, the rest waiting in a queue that is fair between clients. A fill belongs
to the cache and not to a client: it writes at the origin's speed, and every client reads along from the first byte.

The rooms, from the door to the ground; imports run down this list and never up (tests/unit/test_rooms.py):

- ``preflight``: a look at the options and what they need, before a start;
- ``mitm``: mitmproxy's hooks, options and layers; the only room that imports mitmproxy;
- ``workers``: several processes that are one proxy: their parent, and what each does otherwise than a single one;
- ``app``: builds all below from ``settings``, hands new ones on, drains and stops; knows no mitmproxy;
- ``admin``: the metrics port: metrics, health, the API, and who may ask;
- ``downstream``: towards clients: the door, the fast lane, sending, accounts;
- ``settings``: what the operator has set, as frozen values;
- ``caching``: the way of one GET: its answer, fills, ranges, the limiter;
- ``upstream``: where responses come from: origins (their names, their connections, one exchange with its retries),
  other nodes, and the store that many proxies share;
- ``store``: bodies and the index on disk, eviction, checksums;
- ``wire``: HTTP/1 as bytes, without a socket or a clock;
- ``semantics``: RFC 9110 and 9111 as pure functions.

``observe`` (metrics, logs) and ``runtime`` (the event loop, the collector, SIGHUP) stand beside them.
``cli`` is the command ``proxy-cache``: it asks a proxy that runs, is for the machines of clients, and starts the proxy;
it imports none of these (but ``check`` the ``preflight``, and ``run`` the ``workers``), nor they it.
"""

__version__ = "0.1.0"
