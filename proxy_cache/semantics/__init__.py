"""HTTP semantics and caching (RFC 9110, RFC 9111) as pure functions over headers and times.

The rules of this package:

- No clock, no disk, no network, no mitmproxy: time comes in as unix seconds, fields as :class:`~.headers.Headers`.
- Every decision about what HTTP allows is made here, and names the section of the standard that it follows.
- Nothing here raises, whatever bytes a peer sent. Unintelligible values are interpreted so that less is cached.
- Everything that depends on a stored response alone is computed when it is made (``stored``): a hit parses nothing.

``headers`` fields and hop-by-hop · ``keys`` request target and cache key · ``dates`` HTTP-date · ``directives``
Cache-Control · ``freshness`` age and lifetime · ``vary`` variants · ``storing`` may it be stored · ``stored`` a stored
response · ``reuse`` may it be used now · ``entity_tags`` ETag · ``validation`` conditions and 304 · ``policy`` the
operator's rules · ``targeted`` RFC 9213 · ``ranges`` 206 · ``spans`` present and missing bytes · ``signatures`` the
signed parts of a request · ``status_fields`` Cache-Status and Proxy-Status.
"""
