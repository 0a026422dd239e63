"""No word of the functions that decide is without its sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_cache.caching import sentences
from proxy_cache.caching.explained_entries import decided, freshness_of, iso
from proxy_cache.caching.recent_reasons import DROPPED, ERROR, KINDS, Reason
from proxy_cache.caching.sentences import Sentence, told
from proxy_cache.observe.metrics import NOT_STORED
from proxy_cache.semantics.directives import parse_cache_control
from proxy_cache.semantics.freshness import LIFETIME_RULES
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.policy import BY_THE_BOOK, Policy, TtlRule
from proxy_cache.semantics.reuse import BECAUSE, decide
from proxy_cache.semantics.status_fields import PROXY_ERRORS
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.store.recent_drops import WORDS

NOW = 1_700_000_000.0
TABLES: Mapping[str, Mapping[str, Sentence]] = {
    name: table for name, table in vars(sentences).items() if name.isupper() and isinstance(table, dict)
}


@pytest.mark.parametrize("name", TABLES)
def test_each_sentence_is_one_and_names_a_section(name: str) -> None:
    for word, sentence in TABLES[name].items():
        assert word == word.strip()
        assert re.fullmatch(r"(RFC \d{4} §[\d.]*\d)?", sentence.rfc)
        if name != "NEVER_STALE":  # which goes into another one
            assert sentence.text[0].isupper() or sentence.text.startswith(("{method}", "503"))
            assert sentence.text.rstrip(")").endswith(".")


def test_every_reason_of_the_metrics_has_a_sentence() -> None:
    assert set(NOT_STORED) | {"abandoned", "stalled"} == set(sentences.WHY_NOT_STORED)


def test_every_decision_has_a_sentence() -> None:
    assert set(sentences.DECIDED) == BECAUSE


def test_every_way_to_go_has_a_sentence() -> None:
    for word in WORDS:
        assert told(Reason(DROPPED, word, None, "", NOW)).text.startswith("It was ")


def test_every_kind_of_reason_is_told() -> None:
    for kind in KINDS:
        assert told(Reason(kind, "unheard-of", None, "", NOW)).text
    for error in PROXY_ERRORS:
        assert told(Reason(ERROR, error, 502, "", NOW)).rfc == "RFC 9209 §2.3"


DIRECTIVES = st.lists(
    st.sampled_from(
        [
            "no-cache", "no-store", "private", "public", "must-revalidate", "proxy-revalidate", "immutable",
            "max-age=60", "max-age=0", "s-maxage=60", "stale-while-revalidate=60", "stale-if-error=60",
            'no-cache="content-type"', 'private="x-a"', "must-understand",
        ]
    )
)  # fmt: skip
ASKED = st.lists(st.sampled_from(["no-cache", "max-age=10", "max-age=0", "min-fresh=70", "max-stale=9", "max-stale"]))
FIELDS = st.lists(
    st.sampled_from(
        [
            (b"Last-Modified", b"Mon, 01 Jan 2024 00:00:00 GMT"), (b"Expires", b"0"),
            (b"Expires", b"Mon, 01 Jan 2035 00:00:00 GMT"), (b"CDN-Cache-Control", b"max-age=5"), (b"ETag", b'"a"'),
        ]
    )
)  # fmt: skip


@given(
    DIRECTIVES, ASKED, FIELDS, st.sampled_from([200, 404, 501]), st.sampled_from([None, 30]),
    st.sampled_from([None, "cdn-cache-control"]), st.integers(0, 200),
)  # fmt: skip
def test_all_that_can_be_decided_can_be_told(
    directives: list[str], asked: list[str], fields: list[tuple[bytes, bytes]], status: int, assigned: int | None,
    targeted: str | None, age: int,
) -> None:  # fmt: skip
    headers = Headers([(b"Cache-Control", ", ".join(directives).encode()), *fields])
    response = StoredResponse(status, headers, NOW, NOW, assigned_lifetime=assigned, targeted=targeted)
    request = parse_cache_control([", ".join(asked)] if asked else [])
    decision = decide(request, response, NOW + age)
    assert response.lifetime_rule in LIFETIME_RULES
    for sentence in (decided(decision, response, NOW + age), freshness_of(response, BY_THE_BOOK)):
        assert "{" not in sentence.text
        assert sentence.rfc


def test_a_rule_of_now_is_told_from_one_of_then() -> None:
    response = StoredResponse(200, Headers([(b"Cache-Control", b"no-cache")]), NOW, NOW, assigned_lifetime=30)
    same = Policy(ttl=lambda status, headers: TtlRule(30))
    other = Policy(ttl=lambda status, headers: TtlRule(60))
    plain = StoredResponse(200, Headers(), NOW, NOW, assigned_lifetime=30)
    assert "by a rule of cache_ttl" in freshness_of(response, same).text
    assert "of the time when it was stored" in freshness_of(response, other).text
    assert "of the time when it was stored" in freshness_of(response, BY_THE_BOOK).text
    assert "by cache_default_ttl" in freshness_of(plain, BY_THE_BOOK).text


def test_times_of_any_size_can_be_shown() -> None:
    assert iso(0) == "1970-01-01T00:00:00+00:00"
    assert iso(1e15).startswith("9999-12-31T")
