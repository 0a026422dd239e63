"""The ring of recent reasons: by key, and bounded."""

from __future__ import annotations

from proxy_cache.caching.recent_reasons import ERROR, KEY_MAX, NOT_STORED, REASONS_MAX, RecentReasons
from proxy_cache.semantics.texts import TEXT_MAX


def words(reasons: RecentReasons, key: str) -> list[str]:
    return [reason.word for reason in reasons.of(key)]


def test_the_latest_reason_comes_first() -> None:
    reasons = RecentReasons()
    reasons.note("a", NOT_STORED, "private", 200)
    reasons.note("a", ERROR, "connection_refused", 502, "Cannot connect")
    reasons.note("b", NOT_STORED, "no-store", 200)
    assert words(reasons, "a") == ["connection_refused", "private"]
    assert words(reasons, "c") == []


def test_the_same_reason_is_told_once_with_its_number() -> None:
    reasons = RecentReasons()
    for word in ("private", "no-store", "private", "private"):
        reasons.note("a", NOT_STORED, word, 200)
    reasons.note("a", NOT_STORED, "private", 404)
    latest, *others = reasons.of("a")
    assert (latest.status, latest.times) == (404, 1)
    assert [(one.word, one.times) for one in others] == [("private", 3), ("no-store", 1)]


def test_a_key_has_few_reasons() -> None:
    reasons = RecentReasons()
    for number in range(REASONS_MAX + 3):
        reasons.note("a", NOT_STORED, f"reason-{number}")
    assert words(reasons, "a") == [f"reason-{number}" for number in range(REASONS_MAX + 2, 2, -1)]


def test_the_key_that_had_none_for_longest_makes_room() -> None:
    reasons = RecentReasons(keys_max=3)
    for key in ("a", "b", "c", "a", "d"):
        reasons.note(key, NOT_STORED, "private")
    assert len(reasons) == 3
    assert [bool(reasons.of(key)) for key in "abcd"] == [True, False, True, True]


def test_no_text_is_long() -> None:
    reasons, key = RecentReasons(), "http://a.example/" + "a" * KEY_MAX
    reasons.note(key, ERROR, "http_protocol_error", 502, "\r\n" + "x" * 100_000)
    (reason,) = reasons.of(key)
    assert len(reason.detail) <= TEXT_MAX + 3
    assert reason.detail.isprintable()
    assert not reasons.of(key + "b")
