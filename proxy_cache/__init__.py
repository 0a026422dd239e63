"""A caching forward proxy for build agents, as a mitmproxy addon.

Cacheable GETs are answered from a disk cache; misses of one key share one origin request (a *fill*), and at most
``origin_max_in_flight`` fills run at once, the rest waiting in a queue that is fair between clients. A fill belongs
to the cache and not to a client: it writes at the origin's speed, and every client reads along from the first byte.

Only ``addon``, ``layers`` and ``options`` know mitmproxy. Imports go down this list and never up: addon, layers,
options, cache, fills, limiter, origin, store, semantics.
"""

__version__ = "0.1.0"
