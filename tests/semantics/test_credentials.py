"""Request fields that identify the user."""

from __future__ import annotations

import pytest

from proxy_cache.semantics import credentials
from proxy_cache.semantics.credentials import LISTED, has_credentials, is_credential, is_secret_parameter
from proxy_cache.semantics.policy import Policy
from proxy_cache.semantics.redaction import redacted
from proxy_cache.semantics.storing import judge, why_not_shared
from proxy_cache.semantics.vary import matches, selecting_values

from . import h, http_date

MODIFIED = f"Last-Modified: {http_date(-9)}"


@pytest.mark.parametrize(
    "name",
    [
        *sorted(LISTED),
        "x-acme-token",
        "acme-apikey",
        "x-acme-api-key",
        "x-my-authorization",
        "session-id",
        "x-saml-assertion",
        "x-bearer",
        "x-passphrase",
        "x-passcode",
        "x-pwd",
        "x-sid",
        "x-pin",
        "x-acme-user",
        "oidc-claim-sub",
        "impersonate-extra-scopes",
        "x-acme-client-cert",
    ],
)
def test_a_credential(name: str) -> None:
    assert is_credential(name)
    assert has_credentials(h("Accept: */*", f"{name.title()}: x"))
    assert judge(h(f"{name}: x"), 200, h(MODIFIED)).why_not in ("credentials", "authorization")


@pytest.mark.parametrize(
    "name",
    [
        "accept", "accept-encoding", "user-agent", "range", "if-none-match", "host", "via", "cache-control", "pragma",
        "x-forwarded-for", "x-request-id", "traceparent", "referer", "origin", "dnt", "x-author", "content-type",
        "npm-in-ci", "npm-command", "pip-version", "x-keyboard", "sec-fetch-mode", "priority", "te",
        "x-user-agent", "x-users", "x-country-code", "x-design", "ping", "x-spin", "x-cdn", "from",
    ],
)  # fmt: skip
def test_none(name: str) -> None:
    """Fields that every client sends must not prevent storing."""
    assert not is_credential(name)
    assert judge(h(f"{name}: x"), 200, h(MODIFIED)).why_not is None


@pytest.mark.parametrize(
    ("lines", "why_not"),
    [
        ([], "no-freshness"),
        (['ETag: "a"'], "credentials"),
        ([MODIFIED], "credentials"),
        ([MODIFIED, "Cache-Control: proxy-revalidate"], "credentials"),
        ([MODIFIED, "Cache-Control: stale-if-error=5"], "credentials"),
        ([MODIFIED, "Cache-Control: max-age=5"], None),
        ([f"Expires: {http_date(9)}"], None),
        (["Cache-Control: s-maxage=5"], None),
        ([MODIFIED, "Cache-Control: public"], None),
        ([MODIFIED, "Cache-Control: must-revalidate"], None),
        ([MODIFIED, "Cache-Control: no-cache"], None),
        (["Cache-Control: private, max-age=5"], "private"),
    ],
)
@pytest.mark.parametrize("request_line", ["PRIVATE-TOKEN: x", "X-Api-Key: x", "Cookie: a=b"])
def test_what_says_nothing_is_for_its_asker(request_line: str, lines: list[str], why_not: str | None) -> None:
    assert judge(h(request_line), 200, h(*lines)).why_not == why_not


def test_no_lifetime_is_made_up() -> None:
    """`cache_default_ttl`"""
    assert judge(h(), 200, h(), guess=120).assigned == 120
    for line in ("X-Api-Key: x", "PRIVATE-TOKEN: x", "Cookie: a=b"):
        assert judge(h(line), 200, h(), guess=120).why_not == "credentials"


def test_further_names() -> None:
    policy = Policy(credentials=frozenset({"x-tenant"}))
    request, response = h("X-Tenant: a"), h(MODIFIED)
    assert judge(request, 200, response).why_not is None
    verdict = judge(request, 200, response, policy)
    assert (verdict.why_not, verdict.credentials) == ("credentials", {"x-tenant"})
    assert why_not_shared(request, response, policy) == "credentials"
    allowed = Policy(credentials=frozenset({"x-tenant"}), ignore_authorization=True)
    assert judge(request, 200, response, allowed).why_not is None


def test_none_is_kept_where_vary_names_it() -> None:
    request = h("PRIVATE-TOKEN: abc", "X-Acme-Token: abc", "X-Tenant: abc", "X-Plain: sha256:abc")
    names = ("private-token", "x-acme-token", "x-plain", "x-tenant")
    values = selecting_values(names, request, {"x-tenant"})
    assert "abc" not in repr(values)
    assert matches(values, request)
    # Who has read the index has nothing that would do for a value.
    for name, value in values:
        assert value is not None
        assert not matches(values, request.set(name, value))


SECRET_NAMES = [
    "token", "my_secret", "password", "passphrase", "passcode", "signature", "credential", "session", "sessid", "jwt",
    "saml", "bearer", "cookie", "access_key", "api-key", "key", "otp", "auth", "authorization", "authorisation", "sig",
    "pass", "pwd", "sid", "pin",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_one_list_of_what_is_secret(name: str) -> None:
    """What is a credential in a field is one in a URL, and is in no log from either."""
    assert is_credential(f"x-{name}")
    assert is_secret_parameter(name)
    assert redacted(f"http://a.example/?{name}=hush") == f"http://a.example/?{name}=***"
    assert "hush" not in repr(h(f"X-{name.title()}: hush"))


@pytest.mark.parametrize("name", sorted(LISTED))
def test_no_credential_is_in_a_log(name: str) -> None:
    assert "hush" not in repr(h(f"{name.title()}: hush"))


def test_fields_that_an_operator_names_are_in_no_log() -> None:
    assert "plain" in repr(h("X-Tenant: plain"))
    credentials.use(frozenset({"x-tenant"}))
    try:
        assert "plain" not in repr(h("X-Tenant: plain"))
    finally:
        credentials.use(frozenset())
