"""A node of a fleet as it is an hour after its start: a further script, ``mitmdump -s addons/cache.py -s …/this``.

For an hour after a start, or a change of the list, a home first asks others for what it doesn't have. Here that hour is
over from the beginning, which no option of the product could say.
"""

from proxy_cache.upstream.peers import fleet

fleet.CHANGED_FOR = 0.0  # type: ignore[misc]
