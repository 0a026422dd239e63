"""HTTP semantics and caching (RFC 9110, RFC 9111) as pure functions over headers and times.

The rules of this package:

- No clock, no disk, no network, no mitmproxy: time comes in as unix seconds, fields as :class:`~.headers.Headers`.
- Every decision about what HTTP allows is made here, and names the section of the standard that it follows.
- Nothing here raises, whatever bytes a peer sent. What cannot be understood is read in the sense that caches less.
- What depends only on a stored response is computed when it is made (``stored``), so that a hit parses nothing.

``headers`` fields and hop-by-hop · ``keys`` request target and cache key · ``dates`` HTTP-date · ``directives``
Cache-Control · ``freshness`` age and lifetime · ``vary`` variants · ``storing`` may it be stored · ``stored`` a stored
response · ``reuse`` may it be used now · ``validation`` conditions and 304 · ``policy`` what an operator has ruled ·
``targeted`` RFC 9213 · ``ranges`` 206 · ``spans`` bytes that are here or missing · ``signatures`` what a request is
signed for · ``status_fields`` Cache-Status and Proxy-Status.
"""
