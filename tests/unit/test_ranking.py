"""Which peer is the home of a key."""

from __future__ import annotations

import random

import pytest
from xxhash import xxh3_64_intdigest

from proxy_cache.upstream.peers.peer import Peer
from proxy_cache.upstream.peers.ranking import Ranking


def fleet(count: int) -> list[Peer]:
    return [Peer("http", f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 8080) for i in range(count)]


def keys(count: int) -> list[str]:
    return [f"http://packages.example/pool/{i}.deb" for i in range(count)]


def as_documented(peers: list[Peer], key: str) -> list[Peer]:
    """The definition in the module's docstring, word by word."""

    def fold(x: int) -> int:
        return (x >> 32) ^ (x % 2**32)

    def weight(peer: Peer) -> int:
        of_key, of_peer = xxh3_64_intdigest(key.encode()), xxh3_64_intdigest(peer.url.encode())
        return fold((of_key >> 32) * (of_peer >> 32)) * 2**32 + fold((of_key % 2**32) * (of_peer % 2**32))

    return sorted(sorted(peers, key=lambda peer: peer.url), key=weight, reverse=True)


@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 50, 300, 700])
def test_the_order_is_the_documented_one(count: int) -> None:
    peers = fleet(count)
    shuffled = random.Random(count).sample(peers, count)
    ranking = Ranking(shuffled)
    for key in keys(30):
        expected = as_documented(peers, key)
        assert list(ranking.ranked(key)) == expected
        assert ranking.home(key) == expected[0]
        assert ranking.first(key) == expected[:2]
        assert ranking.first(key, 5) == expected[:5]


def test_the_homes_are_the_same_in_every_version() -> None:
    """Nodes of two versions of this program have to agree while a fleet is being updated."""
    ranking = Ranking(
        [Peer("http", "node-a.example", 8080), Peer("http", "10.0.0.1", 3128), Peer("https", "2001:db8::1", 8443)]
    )
    a, b, c = "http://node-a.example:8080", "https://[2001:db8::1]:8443", "http://10.0.0.1:3128"
    assert [peer.url for peer in ranking.ranked("http://packages.example/a")] == [b, c, a]
    assert [peer.url for peer in ranking.ranked("")] == [a, c, b]


def test_nobody_is_the_home_where_nobody_is() -> None:
    ranking = Ranking[Peer](())
    assert ranking.home("http://packages.example/") is None
    assert ranking.first("http://packages.example/") == []


def test_keys_of_any_characters_have_a_home() -> None:
    ranking = Ranking(fleet(3))
    for key in ("http://packages.example/ü", "http://packages.example/\udcff", "x" * 100_000):
        assert ranking.home(key) in ranking.peers


def test_all_nodes_agree_whatever_the_order_of_their_lists() -> None:
    peers = fleet(20)
    rankings = [Ranking(random.Random(seed).sample(peers, 20)) for seed in range(5)]
    for key in keys(200):
        assert len({ranking.home(key) for ranking in rankings}) == 1


def test_equal_weights_are_ranked_by_url(monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy_cache.upstream.peers import ranking

    monkeypatch.setattr(ranking, "xxh3_64_intdigest", lambda data: 7)
    for count in (3, 40):
        peers = fleet(count)
        assert list(Ranking(reversed(peers)).ranked("key")) == sorted(peers, key=lambda peer: peer.url)


def test_a_peer_that_leaves_moves_its_own_keys_alone_and_evenly() -> None:
    peers = fleet(20)
    before, after = Ranking(peers), Ranking([peer for peer in peers if peer != peers[7]])
    moved_to: dict[Peer, int] = {}
    for key in keys(60_000):
        first, second = before.first(key)
        home = after.home(key)
        assert home is not None
        if first == peers[7]:
            assert home == second
            moved_to[home] = moved_to.get(home, 0) + 1
        else:
            assert home == first
    share = sum(moved_to.values())
    assert share == pytest.approx(3000, rel=0.1)
    assert len(moved_to) == 19
    assert max(moved_to.values()) < 1.35 * share / 19  # some 160 each, ± 13
