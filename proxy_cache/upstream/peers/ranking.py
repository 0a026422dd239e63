"""Which peer is the home of a key: rendezvous hashing (Thaler and Ravishankar, 1998), "highest random weight".

Each peer has a weight for each key, and the peer with the highest one is the key's home. Nodes that have the same list
agree without a word, on every machine and every version of Python; a peer that leaves moves the keys that it was home
of and no others, evenly to all that remain, and one that comes takes its share of each.

    seed(peer)        = XXH3_64(URL of the peer, "http://host:port")
    weight(key, peer) = fold(XXH3_64(key) * seed(peer)),  where fold(x) = (x >> 64) ^ (x mod 2**64)

Multiply and fold is XXH3's own step for mixing (``XXH3_mul128_fold64``). Of equal weights, the peer whose URL sorts
first wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from xxhash import xxh3_64_intdigest

_LANE: Final = 16
"""Bytes of a product."""
_MANY: Final = 16
"""With so many peers, the highest leading byte is not far from 255: count down from there."""


class HasUrl(Protocol):
    @property
    def url(self) -> str:
        """The same on all nodes."""


P = TypeVar("P", bound=HasUrl)


class Ranking(Generic[P]):
    """The peers in the order of their weights, for any key.

    This is on the way of each miss. One multiplication of big integers multiplies the key's hash with the seeds of all
    peers, each product in 128 bits of its own, and only the few weights with the highest leading byte are looked at.
    For 500 peers that takes a third of the time of one hash for each peer, and a sixth of that of a loop in Python.
    Against one ``xxh3_64_intdigest`` of a key (about 0.1 µs) the home takes 30 times as long among 3 peers, 50 among
    50, and 260 among 500; the first two together hardly more.
    """

    def __init__(self, peers: Iterable[P]) -> None:
        """No two ``peers`` may have the same URL."""
        self.peers = tuple(sorted(peers, key=lambda peer: peer.url))
        seeds = (xxh3_64_intdigest(peer.url.encode()) for peer in self.peers)
        self._seeds = int.from_bytes(b"".join(seed.to_bytes(_LANE, "little") for seed in seeds), "little")
        self._size = _LANE * len(self.peers)

    def home(self, key: str) -> P | None:
        """The first in rank; ``None`` if there are no peers."""
        return next(self.ranked(key), None)

    def first(self, key: str, count: int = 2) -> list[P]:
        """The first so many in rank, or fewer if there aren't so many."""
        return list(islice(self.ranked(key), count))

    def ranked(self, key: str) -> Iterator[P]:
        """All of them, the home first. Costs what is asked for: the first two are found much sooner than all."""
        peers = self.peers
        if not peers:
            return
        products = self._seeds * xxh3_64_intdigest(key.encode(errors="surrogatepass"))
        # Fold: the lower half of each lane is the weight. (Its upper half gets bits of the next lane, and isn't read.)
        weights = (products ^ (products >> 64)).to_bytes(self._size, "little")
        highest = weights[7::_LANE]
        for byte in range(255, -1, -1) if len(peers) >= _MANY else sorted(set(highest), reverse=True):
            found = highest.find(byte)
            if found >= 0:
                another = highest.find(byte, found + 1)
                if another < 0:
                    yield peers[found]
                else:
                    alike = [found, another]
                    while (another := highest.find(byte, another + 1)) >= 0:
                        alike.append(another)
                    # Big-endian strings sort as their numbers do, and a stable sort leaves equal ones as they are.
                    alike.sort(key=lambda i: weights[_LANE * i : _LANE * i + 8][::-1], reverse=True)
                    for i in alike:
                        yield peers[i]
