from __future__ import annotations

import re

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics import redaction
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.semantics.redaction import URL_MAX, Rules, for_log, one_line, redacted, shown
from proxy_cache.semantics.texts import brief

from . import given

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com/a?b=c", "http://example.com/a?b=c"),
        ("http://user:pw@example.com/a", "http://example.com/a"),
        ("http://a@b:pw@example.com:8080/", "http://example.com:8080/"),
        ("user:pw@example.com:443", "example.com:443"),
        ("/path/only?token=x", "/path/only?token=***"),
        ("http://example.com/?token=x&a=b", "http://example.com/?token=***&a=b"),
        ("http://example.com/?a=b;sig=x", "http://example.com/?a=b;sig=***"),
        (
            "http://example.com/?X-Amz-Signature=x&X-Amz-Date=y",
            "http://example.com/?X-Amz-Signature=***&X-Amz-Date=***",
        ),
        ("http://example.com/?X-Goog-Credential=x", "http://example.com/?X-Goog-Credential=***"),
        ("http://example.com/?%74oken=x", "http://example.com/?%74oken=***"),
        ("http://example.com/?accessToken=x&apiKey=y", "http://example.com/?accessToken=***&apiKey=***"),
        ("http://example.com/?password=x&pass=y&code=z", "http://example.com/?password=***&pass=***&code=***"),
        ("http://example.com/?jwt=a=b=c", "http://example.com/?jwt=***"),
        ("http://example.com/?session_id=x&oauth_nonce=y", "http://example.com/?session_id=***&oauth_nonce=***"),
        ("http://example.com/?design=1&author=a&country=x", "http://example.com/?design=1&author=a&country=x"),
        ("http://example.com/?token&key=", "http://example.com/?token&key="),
        ("http://example.com/?a#access_token=x", "http://example.com/?a"),
        ("http://example.com/a@b?c", "http://example.com/a@b?c"),
        ("http://example.com/a\r\nGET /b 200", "http://example.com/a\\r\\nGET%20/b%20200"),
        ("http://example.com/\x1b[31m\u2028\x85", "http://example.com/\\x1b[31m\\u2028\\x85"),
        ("http://example.com/\udc80é", "http://example.com/\\udc80é"),
        ("", ""),
    ],
)
def test_redacted(url: str, expected: str) -> None:
    assert redacted(url) == expected


@given(st.text())
def test_redacted_is_one_word(url: str) -> None:
    shown = redacted(url)
    assert shown.isprintable()
    assert " " not in shown


@given(st.text(alphabet="abcXYZ0%", min_size=1), st.text())
def test_no_secret_is_shown(secret: str, rest: str) -> None:
    secret = f"<{secret}>"
    assert secret not in redacted(f"http://u:{secret}@example.com/?a=b&x-token={secret}&{rest.replace(secret, '')}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # parameters of the path
        ("/a;jsessionid=1F2E?b=c", "/a;jsessionid=***?b=c"),
        ("/a;JSESSIONID=1F2E/b;v=1", "/a;JSESSIONID=***/b;v=1"),
        ("/a;PHPSESSID=1;sid=2;x=3", "/a;PHPSESSID=***;sid=***;x=3"),
        ("/a/token=x/b", "/a/token=***/b"),
        # userinfo, wherever it is
        ("/fetch/http://u:p@inner.example/a", "/fetch/http://inner.example/a"),
        ("/?url=http://u:p@inner.example/a", "/?url=http://inner.example/a"),
        ("/?url=http%3A%2F%2Fu%3Ap%40inner.example", "/?url=http%3A%2F%2Finner.example"),
        ("//u:p@inner.example/a", "//inner.example/a"),
        # tokens with a prefix of their issuer
        ("/bot123456:AAF-abcdefghijklmnop/getMe", "/***/getMe"),
        (f"/auth/{JWT}/a", "/auth/***/a"),
        (f"/a?b={JWT}", "/a?b=***"),
        ("/AKIAIOSFODNN7EXAMPLE/a", "/***/a"),
        ("/ghp_16C7e42F292c6912E7710c838347Ae178B4a/a", "/***/a"),
        ("/hvs.CAESIJ1abcdefghijklm/a", "/***/a"),
        # and those whose names come before them
        ("/token/s3cr3tvalue", "/token/***"),
        ("/v1/access_tokens/abcdef0123456789/a", "/v1/access_tokens/***/a"),
        ("/Api-Key/0123456789", "/Api-Key/***"),
        ("/password/hunter22/a", "/password/***/a"),
        # long random words
        ("/hooks/T00000000/B00000000/aB3dE5fG7hI9jK1lM3nO5pQ7", "/hooks/T00000000/B00000000/***"),
        ("/d/Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1ub3A=/x", "/d/***/x"),
    ],
)
def test_secrets_in_paths(path: str, expected: str) -> None:
    assert redacted(f"http://example.com{path}") == f"http://example.com{expected}"
    assert Target.of("http", "example.com", 80, path).shown == f"http://example.com:80{expected}"


NESTED = [
    "/?url=https://s3/x?X-Amz-Signature=hush",
    "/?url=https://s3/x?a=b;token=hush",
    "/?url=https%3A%2F%2Fs3%2Fx%3FX-Amz-Signature%3Dhush",
    "/?url=https%253A%252F%252Fs3%252Fx%253FX-Amz-Signature%253Dhush",
    "/?a=b%2526c%252525253Dhush",
    "/?x=1%26token=hush&y",
    "/?x=1%26user%5Btoken%5D%3Dhush&y",
    "/?x=%23access_token%3Dhush",
    "/?state=token%3Dhush",
    "/?body=%7B%22token%22%3A%22hush%22%7D",
    "/?body=%7B'password'%3A%20'hush'%7D",
    "/?url=http%253A%252F%252Fu%253Ahush%2540inner.example",
    "/fetch/https%3A%2F%2Fs3%2Fx%3FX-Amz-Signature%3Dhush/a",
    "/8%3Bjsessionid%3Dhush",
    "/8%3bjsessionid%3dhush?a=1",
    f"/?next=/reset/{JWT.replace('dozjg', 'hush')}",
    f"/?next=%2Freset%2F{JWT.replace('dozjg', 'hush')}",
    f"/next%2Freset%2F{JWT.replace('dozjg', 'hush')}",
]


@pytest.mark.parametrize("path", NESTED)
def test_secrets_of_urls_within_urls(path: str) -> None:
    assert "hush" not in redacted(f"http://example.com{path}")
    assert "hush" not in Target.of("http", "example.com", 80, path).shown


@pytest.mark.parametrize(
    "query",
    [
        "a=b=c",
        "url=https://inner.example/a?b=c&d=e",
        "url=https%3A%2F%2Fa%2Fb%3Fc%3Dd%26e",
        "q=50%25",
        "filter=a%3Ab",
        "scope=repository:acme/image:pull",
        "range=1%2D2",
        "json=%7B%22a%22%3A1%7D",
        "path=/a/b/c",
    ],
)
def test_what_is_within_urls_and_no_secret_stays_readable(query: str) -> None:
    assert redacted(f"http://example.com/?{query}") == f"http://example.com/?{query}"


@pytest.mark.parametrize("url", ["http://user:hush", "http://h/user:hush", "http://h/?url=http://user:hush",
                                 "http://h/?token=hush", "http://h/?a=b&toke", "http://h/token/hushhush"])  # fmt: skip
def test_nothing_is_told_of_where_a_text_was_cut_off(url: str) -> None:
    text = f"cannot get {url}"
    for cut in (brief(text + "x" * 500 + "@a.example/", len(text)), f"{text}[...]"):
        assert "hush" not in for_log(cut)
        assert for_log(cut).startswith("cannot get http://")


@pytest.mark.parametrize(
    "path",
    [
        "/packages/0f/3b/4519479f2cfd5d7a8d7a7a0f7f4a8a0e3e1f3c1d5b7a9c1e3f5d7b9a1c3e/requests-2.32.3-py3-none-any.whl",
        "/debian/dists/stable/main/binary-amd64/by-hash/SHA256/"
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "/v2/library/alpine/blobs/sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "/objects/9daeafb9864cf43055ae93beb0afd6c7d144bfa4",
        "/@babel/helper-plugin-utils/-/helper-plugin-utils-7.24.0.tgz",
        "/token/-/token-1.0.0.tgz",
        "/simple/token/",
        "/tokenizers/0.19.1/tokenizers-0.19.1.tar.gz",
        "/org/springframework/boot/spring-boot-starter-web/3.2.0/spring-boot-starter-web-3.2.0.jar",
        "/com/example/SpringFrameworkBootStarterWeb2/maven-metadata.xml",
        "/github.com/!azure/azure-sdk-for-go/sdk/azcore/@v/v1.9.0.zip",
        "/api/v1/crates/serde_json/1.0.114/download",
        "/nar/0c0wlr5ivp9z4kgg8ysvlkz0vd1m4bb8i7zvhlgq4s6x9f0l6h1d.nar.xz",
        "/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed/a",
        "/conda-forge/linux-64/python-3.12.0-hab00c5b_0_cpython.conda",
        "/repodata/repomd.xml;v=1",
        "/library/keys/apt-key.gpg",
        "/author/someone/a",
    ],
)
def test_what_packages_are_called_stays_readable(path: str) -> None:
    assert redacted(f"http://example.com{path}") == f"http://example.com{path}"
    assert shown(f"http://example.com:80{path}") == f"http://example.com:80{path}"


SECRETS = st.sampled_from(
    [
        "token",
        "/",
        "/token/",
        ";",
        "=",
        "?",
        "&",
        "@",
        "//",
        "eyJ",
        ".",
        "bot123:",
        "A1b2",
        "%40",
        "a",
        "%3D",
        "%25",
        "%2F",
        "%22",
    ]
)


@given(st.lists(SECRETS, max_size=30).map("".join))
def test_the_short_way_shows_what_the_long_one_does(path: str) -> None:
    url = f"http://example.com:80/{path}"
    assert shown(url) == redacted(url)


def test_what_is_shown_is_bounded_and_of_what_is_cut_nothing_is_told() -> None:
    assert len(redacted("http://example.com/" + "a" * 100_000)) <= URL_MAX + 5
    url = f"http://example.com/{'a/' * 2000}http://user:{'s' * 5000}@inner.example/"
    assert "sss" not in redacted(url)
    assert "sss" not in redacted(f"http://user:{'s' * 5000}@example.com/")
    assert "sss" not in redacted(f"http://example.com/?{'a=b&' * 1000}{'x' * 77}token={'s' * 5000}")


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "/",
        "//",
        "a=",
        ";",
        "&a=1",
        "@",
        "://",
        "%2F%2F",
        "eyJa.",
        "x-amz-",
        "A1",
        "/token/",
        "%25",
        "?a=%25",
        "?a=b=",
        "?a=%22:",
        "%3Da",
    ],
)
def test_redaction_takes_as_long_as_the_url_is(unit: str) -> None:
    """The shown part bounds the work: a megabyte takes no longer than its shown part."""
    assert len(redacted("http://example.com/" + unit * (1_000_000 // len(unit)))) < 2 * URL_MAX


@pytest.fixture
def use() -> object:
    yield redaction.use
    redaction.use(Rules())


def test_an_operator_names_more(use: object) -> None:
    redaction.use(Rules(["Ticket"], [re.compile(r"build-(\d+)-(\w+)"), re.compile("sesame")]))
    target = Target.of("http", "example.com", 80, "/build-12-x/sesame/a?ticket=1&b=2")
    assert target.shown == "http://example.com:80/build-***-***/***/a?ticket=***&b=2"
    assert redacted("http://example.com/ticket/1/a;ticket=2") == "http://example.com/ticket/***/a;ticket=***"


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    assert one_line(text).isprintable()
    assert for_log(text, keep_lines=True).replace("\n", "").isprintable()


def test_urls_in_texts_are_redacted() -> None:
    text = "cannot get 'http://u:p@example.com/a?token=x', nor HTTP://example.com/;jsessionid=y\r\nGET / 200 \x1b[2J"
    assert for_log(text) == (
        "cannot get 'http://example.com/a?token=***', nor HTTP://example.com/;jsessionid=***\\r\\nGET / 200 \\x1b[2J"
    )


def test_what_objects_say_of_themselves_has_no_secrets() -> None:
    target = Target.of("http", "example.com", 80, "/a?token=hush")
    assert repr(target) == "<Target http://example.com:80/a?token=***>"
    headers = Headers(
        [
            (b"Authorization", b"Basic hush"),
            (b"Cookie", b"hush"),
            (b"X-Api-Key", b"hush"),
            (b"PRIVATE-TOKEN", b"hush"),
            (b"Accept", b"*/*"),
        ]
    )
    assert "hush" not in repr(headers)
    assert "Accept: */*" in repr(headers)


@pytest.mark.parametrize(
    "text",
    [
        "closed before the end of b'GET / HTTP/1.1\\r\\nProxy-Authorization: Basic aHVzaA==\\r\\nAccept: x'",
        "Headers[(b'Proxy-Authorization', b'Basic aHVzaA=='), (b'Accept', b'x')]",
        '{"authorization": "aHVzaA=="}',
        "proxy-authorization:Bearer\taHVzaA==\r\nAccept: x",
        "authorization=aHVzaA==",
    ],
)
def test_credentials_in_a_text_are_hidden(text: str) -> None:
    """mitmproxy quotes heads in messages for whoever wants to know everything."""
    assert "aHVzaA" not in for_log(text)
    assert "***" in for_log(text)
    assert ("Accept" in for_log(text)) == ("Accept" in text)


@pytest.mark.parametrize("text", ["authorization failed: no such user", "no authorization, then a reset"])
def test_talk_about_credentials_stays(text: str) -> None:
    assert for_log(text) == text
