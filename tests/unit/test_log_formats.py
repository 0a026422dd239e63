"""The formats of the access log: what each says of a request, and that nothing which a client sends can get out of its
place or show a secret."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy_cache.observe.log_formats import LoggedRequest, as_json, as_line, as_squid, host_of, without_default_port
from proxy_cache.semantics.redaction import redacted

URL = "http://packages.example:80/pool/tool_1.0.deb"
FORMATS = {"line": as_line, "json": as_json, "squid": as_squid}
STAMPS = {
    "line": "2026-11-27T09:15:02.118+01:00",
    "json": "2026-11-27T09:15:02.118+01:00",
    "squid": "1795767302.118",
}
SQUID = re.compile(
    r"(?P<time>\d{1,10}\.\d{3}) +(?P<elapsed>\d+) (?P<remotehost>\S+) (?P<code>[A-Z_]+)/(?P<status>\d{3}) "
    r"(?P<bytes>\d+) (?P<method>\S+) (?P<url>\S+) (?P<rfc931>\S+) "
    r"(?P<hierarchy>[A-Z_]+)/(?P<peerhost>\S+) (?P<type>\S+)"
)
"""Squid's native format (``%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt``)."""


def request(served_from: str = "miss", **changes: object) -> LoggedRequest:
    plain = LoggedRequest("GET", URL, 200, 48211, 0.0312, served_from, 0.0, "10.0.3.7")
    return plain._replace(**changes)  # type: ignore[arg-type]


def squid(logged: LoggedRequest) -> re.Match[str]:
    line = as_squid(STAMPS["squid"], logged)
    match = SQUID.fullmatch(line)
    assert match is not None, line
    return match


FULL = request(
    queued=0.25, status=502, served_from="error", note="Cannot connect to host", request_id="8f1d",
    reasons=" fwd=uri-miss error=connection_refused", phases=(("lookup", 0.0001), ("connect", 0.0012)),
    trace=("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"),
)  # fmt: skip


def test_a_line_has_everything_at_its_place() -> None:
    assert as_line(STAMPS["line"], FULL) == (
        "2026-11-27T09:15:02.118+01:00 GET http://packages.example:80/pool/tool_1.0.deb 502 48211 B 31.2 ms error "
        "queued=250ms fwd=uri-miss error=connection_refused request_id=8f1d lookup=0.1ms connect=1.2ms "
        "trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331 [10.0.3.7] "
        "(Cannot connect to host)"
    )


def test_an_object_has_everything_by_its_name() -> None:
    assert json.loads(as_json(STAMPS["json"], FULL)) == {
        "time": "2026-11-27T09:15:02.118+01:00", "method": "GET", "url": URL, "status": 502, "bytes": 48211,
        "duration_ms": 31.2, "source": "error", "client": "10.0.3.7", "queued_ms": 250, "fwd": "uri-miss",
        "error": "connection_refused", "request_id": "8f1d", "lookup_ms": 0.1, "connect_ms": 1.2,
        "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331",
        "note": "Cannot connect to host",
    }  # fmt: skip
    assert list(json.loads(as_json(STAMPS["json"], request()))) == [
        "time", "method", "url", "status", "bytes", "duration_ms", "source", "client",
    ]  # fmt: skip


def test_squids_line_has_ten_fields() -> None:
    assert as_squid(STAMPS["squid"], FULL) == (
        "1795767302.118     31 10.0.3.7 TCP_MISS/502 48211 GET http://packages.example/pool/tool_1.0.deb - "
        "HIER_DIRECT/packages.example -"
    )


@pytest.mark.parametrize(
    ("logged", "told"),
    [
        (request("hit"), "TCP_HIT/200 HIER_NONE/-"),
        (request("hit", status=304), "TCP_IMS_HIT/304 HIER_NONE/-"),
        (request("hit", reasons=" cut=client"), "TCP_HIT_ABORTED/200 HIER_NONE/-"),
        (request("miss", reasons=" fwd=uri-miss"), "TCP_MISS/200 HIER_DIRECT/packages.example"),
        (request("miss", reasons=" fwd=stale"), "TCP_REFRESH_MODIFIED/200 HIER_DIRECT/packages.example"),
        (request("miss", reasons=" fwd=request"), "TCP_CLIENT_REFRESH_MISS/200 HIER_DIRECT/packages.example"),
        (request("revalidated", reasons=" fwd=stale"), "TCP_REFRESH_UNMODIFIED/200 HIER_DIRECT/packages.example"),
        (request("coalesced", reasons=" fwd=uri-miss"), "TCP_CF_MISS/200 HIER_NONE/-"),
        (request("stale", reasons=" fwd=stale detail=stale-while-revalidate"), "TCP_HIT/200 HIER_NONE/-"),
        (request("stale", reasons=" fwd=stale detail=stale-if-error"), "TCP_REFRESH_FAIL_OLD/200 HIER_NONE/-"),
        (request("forwarded", method="POST", reasons=" fwd=method"), "TCP_MISS/200 HIER_DIRECT/packages.example"),
        (request("tunnel", method="CONNECT", url="git.example:443"), "TCP_TUNNEL/200 HIER_DIRECT/git.example"),
        (request("tunnel", method="CONNECT", url="[::1]:443"), "TCP_TUNNEL/200 HIER_DIRECT/::1"),
        (request("addon", status=407), "TCP_DENIED/407 HIER_NONE/-"),
        (request("addon"), "NONE_NONE/200 HIER_NONE/-"),
        (request("own", method="TRACE"), "NONE_NONE/200 HIER_NONE/-"),
        (request("error", status=403, reasons=" fwd=bypass error=http_request_denied"), "TCP_DENIED/403 HIER_NONE/-"),
        (request("error", status=499, reasons=" cut=client"), "TCP_MISS_ABORTED/000 HIER_NONE/-"),
        (
            request("error", status=503, reasons=" fwd=uri-miss error=connection_limit_reached detail=timeout"),
            "TCP_MISS/503 HIER_NONE/-",
        ),
        (
            request("error", status=502, reasons=" fwd=stale error=connection_refused"),
            "TCP_REFRESH_FAIL_ERR/502 HIER_DIRECT/packages.example",
        ),
        (
            request("error", method="-", url="-", status=400, reasons=" fwd=bypass error=http_request_error"),
            "NONE_NONE/400 HIER_NONE/-",
        ),
    ],
)  # fmt: skip
def test_result_codes(logged: LoggedRequest, told: str) -> None:
    match = squid(logged)
    assert f"{match['code']}/{match['status']} {match['hierarchy']}/{match['peerhost']}" == told


def test_what_could_not_be_read_is_told_as_squid_does() -> None:
    match = squid(request("error", method="-", url="-", status=400, reasons=" fwd=bypass"))
    assert (match["method"], match["url"]) == ("NONE", "error:invalid-request")


@pytest.mark.parametrize(
    ("client", "told"), [("10.0.3.7", "10.0.3.7 -"), ("fd00::1", "fd00::1 -"), ("ci-agent", "- ci-agent")]
)
def test_users_have_a_field_of_their_own(client: str, told: str) -> None:
    match = squid(request(client=client))
    assert f"{match['remotehost']} {match['rfc931']}" == told


@pytest.mark.parametrize(
    ("url", "shown", "host"),
    [
        ("http://a.example:80/x:80/", "http://a.example/x:80/", "a.example"),
        ("https://a.example:443/", "https://a.example/", "a.example"),
        ("https://a.example:80/", "https://a.example:80/", "a.example"),
        ("http://[fd00::1]:80/?u=http://b:80/", "http://[fd00::1]/?u=http://b:80/", "fd00::1"),
        ("http://xn--bcher-kva.example:8080/", "http://xn--bcher-kva.example:8080/", "xn--bcher-kva.example"),
        ("git.example:443", "git.example:443", "git.example"),
    ],
)
def test_urls_as_squid_has_them(url: str, shown: str, host: str) -> None:
    assert (without_default_port(url), host_of(url)) == (shown, host)


# -- what clients send ------------------------------------------------------------------------------------------------

NASTY = [
    "http://user:hush@a.example/",
    "http://user:hush@x@[fd00::1]:8080/",
    "http://a.example/x?X-Amz-Signature=hush&X-Amz-Credential=hush",
    "http://a.example/x?sig=hush&se=2026",
    "http://a.example/x;jsessionid=hush?a=1",
    "http://a.example/x;JSESSIONID=hush\x00\x1b[2J",
    "http://a.example/%3Bjsessionid%3Dhush",
    "http://a.example/?url=https%253A%252F%252Fu%253Ahush%2540b.example",
    "http://a.example/?body=%7B%22token%22%3A%22hush%22%7D",
    "http://a.example/token/hush-hush\r\nGET http://forged.example/ 200",
    "http://a.example/\udcff\udc80?access_token=hush\udcff",
    "http://b\u00fccher.example/?pass=hush",
    f"http://a.example/{'a/' * 3000}?token=hush",
    f"http://a.example/?{'a=b&' * 2000}token=hush",
    'http://a.example/"],"x":"y?api_key=hush"',
    "http://a.example/\u2028\u2029\x85?secret=hush",
    "u:hush@a.example:443",
]


@pytest.mark.parametrize("url", NASTY)
@pytest.mark.parametrize("format", FORMATS)
def test_no_format_shows_a_secret(url: str, format: str) -> None:
    # (In a text, a URL has a scheme, and ends with a quote.)
    note = f"cannot get {url}" if "://" in url and '"' not in url else ""
    logged = request(url=redacted(url), note=note, reasons=" fwd=uri-miss")
    line = FORMATS[format](STAMPS[format], logged)
    assert "hush" not in line
    check(format, line, logged)


def check(format: str, line: str, logged: LoggedRequest) -> None:
    """A line is one, and has its fields where they belong."""
    assert line.isprintable()
    assert len(line) < 30_000
    line.encode("utf-8")
    match format:
        case "json":
            line.encode("ascii")
            told = json.loads(line, object_pairs_hook=unique)
            assert (told["status"], told["source"]) == (logged.status, logged.served_from)
            assert "\n" not in told["url"]
        case "squid":
            found = SQUID.fullmatch(line)
            assert found is not None, line
            assert int(found["bytes"]) == logged.size
        case _:
            words = line.split(" ")
            assert words[3:6] == [str(logged.status), str(logged.size), "B"]


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


ANYTHING = st.one_of(
    st.text(
        st.characters(min_codepoint=0, max_codepoint=0x10FFFF, categories=None, exclude_categories=()), max_size=80
    ),
    st.binary(max_size=80).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.binary(max_size=80).map(lambda data: data.decode("latin-1")),
)


@given(method=ANYTHING.filter(bool), path=ANYTHING, note=ANYTHING)
@example(method="\x1b", path='"}\n{"', note='"\\')
def test_whatever_a_client_sends_stays_in_its_place(method: str, path: str, note: str) -> None:
    logged = request(method=method, url=redacted(f"http://a.example/{path}"), note=note, reasons=" fwd=method")
    for format, as_text in FORMATS.items():
        line = as_text(STAMPS[format], logged)
        if format == "line":  # (a method is shown as it came, but for blanks and what is invisible)
            assert line.isprintable()
        else:
            check(format, line, logged)
