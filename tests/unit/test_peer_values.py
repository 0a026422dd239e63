"""Values of ``cache_peers``, and what a file of peers may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy_cache.upstream.peers import file_discovery
from proxy_cache.upstream.peers.listings import InDns, InFile, parse, parse_one, parse_peer
from proxy_cache.upstream.peers.peer import Peer


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("http://node-a:8080", "http://node-a:8080"),
        ("HTTP://Node-A.Example.:08080/", "http://node-a.example:8080"),
        ("http://node_a.example:80", "http://node_a.example:80"),
        ("https://10.0.0.1:443", "https://10.0.0.1:443"),
        ("http://[2001:DB8:0:0::1]:8080", "http://[2001:db8::1]:8080"),
        ("http://[::ffff:10.0.0.1]:8080", "http://10.0.0.1:8080"),
        ("http://xn--bcher-kva.example:8080", "http://xn--bcher-kva.example:8080"),
    ],
)
def test_a_peer_has_one_spelling_on_all_nodes(value: str, url: str) -> None:
    peer = parse_peer(value)
    assert peer.url == str(peer) == url
    assert parse_peer(url) == peer


def test_kinds_of_values_are_mixed_and_each_counts_once() -> None:
    assert parse(
        ["http://a:1", "dns://Proxies.example.:8080", "file:///etc/my%20peers.yml", "http://A:1/", "dns://p.:1"]
    ) == (
        Peer("http", "a", 1),
        InDns("proxies.example.", 8080),
        InFile(Path("/etc/my peers.yml")),
        InDns("p.", 1),
    )
    assert [str(one) for one in parse(["dns://p:1", "file:///a%20b"])] == ["dns://p:1", "file:///a%20b"]
    assert parse([]) == ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "begins with none of"),
        ("10.0.0.1:8080", "begins with none of"),
        ("ftp://a:1", "begins with none of"),
        ("http:/a:1", "begins with none of"),
        ("http://a", "no port"),
        ("http://a:", "no port"),
        ("http://[::1]", "no port"),
        ("http://:8080", "no host"),
        ("http://a:0", "'0' is not a port"),
        ("http://a:65536", "'65536' is not a port"),
        ("http://a:+80", "'\\+80' is not a port"),
        ("http://a:²", "'²' is not a port"),
        ("http://a:" + "9" * 5000, "is not a port"),
        ("http://a:80/cache", "more than a host and a port"),
        ("http://a:80?x", "more than a host and a port"),
        ("http://a :80", "spaces"),
        ("http://a:80\n", "spaces or control"),
        ("http://2001:db8::1:8080", "in brackets"),
        ("http://[2001:db8::1:8080", "in brackets"),
        ("http://[10.0.0.1]:8080", "not an IPv6 address"),
        ("http://[fe80::1%eth0]:8080", "zone"),
        ("http://127.1:8080", "not a canonical IPv4 address"),
        ("http://010.0.0.1:8080", "not a canonical IPv4 address"),
        ("http://2130706433:8080", "not a canonical IPv4 address"),
        ("http://0.0.0.0:8080", "where one listens"),
        ("http://[::]:8080", "where one listens"),
        ("http://224.0.0.1:8080", "multicast"),
        ("http://bücher.example:8080", "xn--"),
        ("http://a..b:8080", "not the name of a host"),
        ("http://-a:8080", "not the name of a host"),
        ("http://" + "a" * 64 + ":8080", "not the name of a host"),
        ("http://*.example:8080", "not the name of a host"),
        ("dns://10.0.0.1:8080", "needs no look-up: http://10.0.0.1:8080"),
        ("dns://proxies", "no port"),
        ("file://peers.json", "path from the root"),
        ("file:///etc/peers/", "a folder"),
        ("file:///etc/*.json", "not a pattern"),
        ("file:///etc/a#b", "%23"),
        ("file:///etc/a%00b", "zero byte"),
    ],
)
def test_a_wrong_value_is_named_with_the_reason_in_one_line(value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_one(value)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 300
    assert value[:20].replace("\n", "") in text


def test_a_password_in_a_value_is_shown_to_nobody() -> None:
    with pytest.raises(ValueError, match="peers share a token") as caught:
        parse_one("http://user:secret@node-a:8080")
    assert "secret" not in str(caught.value)
    assert "http://…@node-a:8080" in str(caught.value)


def test_this_proxy_is_one_peer() -> None:
    for value in ("dns://proxies:8080", "file:///etc/peers"):
        with pytest.raises(ValueError, match="one peer"):
            parse_peer(value)


@pytest.mark.parametrize(
    "text",
    [
        '[{"targets": ["10.0.0.1:8080", "Node-B:8080"], "labels": {"site": "a"}},\n'
        ' {"targets": ["[::1]:8443"], "labels": {"__scheme__": "https"}, "source": "x"}]',
        "- targets: [10.0.0.1:8080, Node-B:8080]\n  labels: {site: a}\n"
        "- targets:\n  - '[::1]:8443'\n  labels:\n    __scheme__: https\n",
    ],
    ids=["json", "yaml"],
)
def test_a_file_has_groups_of_targets(text: str) -> None:
    assert [peer.url for peer in file_discovery.parse(text.encode())] == [
        "http://10.0.0.1:8080", "http://node-b:8080", "https://[::1]:8443"
    ]  # fmt: skip


def test_a_file_may_say_that_there_are_no_peers() -> None:
    for text in ("[]", "[]\n# nobody yet\n", '[{"targets": []}]', "\ufeff[]"):
        assert file_discovery.parse(text.encode()) == ()


MANY_IN_FEW = "".join(
    [
        "- targets: []\n  more:\n  - &a0 [1]\n",
        *(f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 13)),
        "- targets: [*a12]\n",
    ]
)
"""A list of 10^12 numbers."""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("# nobody\n", "not a list of groups"),
        ("{}", "not a list of groups"),
        ("10.0.0.1:8080", "not a list of groups"),
        ('["10.0.0.1:8080"]', "group 1 has no list of targets"),
        ('[{"targets": []}, {"labels": {}}]', "group 2 has no list of targets"),
        ('[{"targets": "10.0.0.1:8080"}]', "group 1 has no list of targets"),
        ('[{"targets": ["10.0.0.1:1", "10.0.0.2"]}]', "group 1, target '10.0.0.2': it has no port"),
        ('[{"targets": [8080]}]', "group 1, target '8080': it is not a text"),
        ('[{"targets": ["http://a:1"]}]', "it is not host:port"),
        ('[{"targets": ["a:1"], "labels": []}]', "labels"),
        ('[{"targets": ["a:1"], "labels": {"__scheme__": "ftp"}}]', "neither http nor https: 'ftp'"),
        ('[{"targets": ["a:1"], "labels": {"__scheme__": []}}]', "neither http nor https"),
        ('[{"targets": ["a:1"', "neither JSON nor YAML"),
        ("- targets: [a:1]\n - targets", "neither JSON nor YAML"),
        ("- targets: [a:1]\n  targets: [b:1]\n", "neither JSON nor YAML"),
        ("[" * 100_000, "nested too deeply|neither JSON nor YAML"),
        ("!!python/object:os.system x", "neither JSON nor YAML"),
        (MANY_IN_FEW, "group 2, target list: it is not a text"),
    ],
)
def test_a_file_with_a_mistake_is_taken_for_nothing_and_the_mistake_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        file_discovery.parse(text.encode())


def test_a_file_that_cannot_be_a_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        file_discovery.parse(b"\xff\xfe[")
    with pytest.raises(ValueError, match="not JSON"):
        file_discovery.parse(b"- targets: [a:1]", is_json=True)
    monkeypatch.setattr(file_discovery, "SIZE_MAX", 10)
    with pytest.raises(ValueError, match="larger"):
        file_discovery.parse(b'[{"targets": []}]')
