"""What is remembered of entries that went by the thousand: bounded, and the latest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy_cache.store.columns import key_hash
from proxy_cache.store.recent_drops import DROPS_MAX, EVICTED, WORDS, Drop, RecentDrops


def hashes(*keys: str) -> list[int]:
    return [key_hash(key) for key in keys]


def test_what_happened_to_a_key() -> None:
    drops = RecentDrops()
    drops.note(hashes("a", "b"), EVICTED, 1.0)
    drops.note(hashes("a"), "purge-tag", 2.0)
    drops.note(hashes("a", "c"), EVICTED, 3.0)
    assert drops.of("a") == (Drop(EVICTED, 3.0, 2), Drop("purge-tag", 2.0, 1))
    assert drops.of("b") == (Drop(EVICTED, 1.0, 1),)
    assert drops.of("d") == ()


def test_a_slice_of_many_is_bounded() -> None:
    drops = RecentDrops()
    many = [f"http://x/{number}" for number in range(DROPS_MAX + 500)]
    drops.note(hashes(*many), EVICTED, 1.0)
    assert len(drops) == DROPS_MAX
    assert [bool(drops.of(key)) for key in (many[0], many[499], many[500], many[-1])] == [False, False, True, True]


slices = st.lists(
    st.tuples(st.lists(st.integers(0, 3), max_size=12), st.sampled_from(WORDS)), max_size=12
)  # fmt: skip


@given(st.integers(1, 9), slices)
def test_the_last_ones_are_known_whatever_the_slices(drops_max: int, slices: list[tuple[list[int], str]]) -> None:
    drops = RecentDrops(drops_max)
    noted: list[tuple[int, str, float]] = []
    for at, (keys, word) in enumerate(slices):
        drops.note(hashes(*map(str, keys)), word, float(at))
        noted += [(key, word, float(at)) for key in keys]
    last = noted[-drops_max:]
    assert len(drops) == len(last)
    for key in range(4):
        of_key = [(word, at) for number, word, at in last if number == key]
        expected = {
            Drop(word, max(at for one, at in of_key if one == word), [one for one, _ in of_key].count(word))
            for word in {word for word, _ in of_key}
        }
        found = drops.of(str(key))
        assert set(found) == expected
        assert [drop.at for drop in found] == sorted((drop.at for drop in found), reverse=True)
