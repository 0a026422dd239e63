"""Where clients may have the proxy go: every form of a destination, decided without a packet."""

from __future__ import annotations

import ipaddress
import random
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import exceptions

from proxy_cache.mitm import access_values
from proxy_cache.semantics.targets import TargetError, of_connect
from proxy_cache.upstream.destinations import Denial, Destinations, Way
from proxy_cache.upstream.special_addresses import canonical, of_host, why_special

SPECIAL = {
    "loopback": [
        "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::ffff:7f00:1",
        "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::127.0.0.1",
        "64:ff9b:1:7f00:0:100::", "2002:7f00:1::", "2002:7f00:0001:1::9", "2001:0:7f00:1::",
        "2001:0:808:808::80ff:fffe",
        "fd00::5efe:127.0.0.1", "fd00::200:5efe:7f00:1",
    ],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "64:ff9b::", "2002::1"],
    "link-local": ["169.254.0.1", "169.254.255.255", "fe80::1", "fe80::1%eth0", "febf::1", "::ffff:169.254.1.1",
                   "64:ff9b::a9fe:101", "2002:a9fe:101::"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::fb", "::ffff:224.0.0.251"],
    "broadcast": ["255.255.255.255", "::ffff:255.255.255.255"],
    "metadata": ["169.254.169.254", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe",
                 "2002:a9fe:a9fe::1", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16",
                 "64:ff9b::6464:64c8"],
}  # fmt: skip
ORDINARY = [
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "203.0.113.9", "1.0.0.1", "126.255.255.255",
    "128.0.0.1", "169.253.255.255", "169.255.0.1", "223.255.255.255", "fd00::1", "fc00::1", "2001:db8::1",
    "2606:4700::1", "64:ff9b::8.8.8.8", "64:ff9b:1::8.8.8.8", "64:ff9b::10.0.0.1", "2002:808:808::1",
    "::ffff:10.0.0.1", "fec0::1",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "address"), [(kind, each) for kind, all_of in SPECIAL.items() for each in all_of])
def test_special_addresses_are_denied_in_all_their_forms(kind: str, address: str) -> None:
    assert why_special(canonical(address)) == kind
    for way in Way:
        denial = Destinations().of_address("x.example", 443, canonical(address), way)
        assert denial is not None
        assert (denial.reason, denial.error) == ("address", "destination_ip_prohibited")
        host = address.partition("%")[0]
        assert Destinations().at_door(host, 443, way) == denial


@pytest.mark.parametrize("address", ORDINARY)
def test_private_and_public_addresses_are_allowed(address: str) -> None:
    assert why_special(canonical(address)) is None
    for way in Way:
        assert Destinations().of_address("x.example", 443, canonical(address), way) is None
        assert Destinations().at_door(address, 443, way) is None


@pytest.mark.parametrize(
    "host",
    [
        "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7F000001", "0177.0.0.1", "017700000001", "0x7f.0.0.0x1",
        "127.0.0.1.", "127.0.0.1..", "2130706433.", "0x7f.1.", "::1", "::ffff:127.0.0.1", "0.0.0.0", "0", "0x0",
        "0251.0376.0251.0376", "2852039166", "0xa9fea9fe", "169.254.43518", "::ffff:169.254.169.254",
    ],
)  # fmt: skip
def test_odd_spellings_are_known_at_the_door(host: str) -> None:
    """Also behind a parent proxy, which may read them as addresses."""
    for parents in (frozenset[tuple[str, int]](), frozenset({("parent.example", 3128)})):
        for way in Way:
            denial = Destinations(parents=parents).at_door(host, 443, way)
            assert denial is not None
            assert denial.reason == "address"


@pytest.mark.parametrize(
    "host",
    ["", "example.com", "1password.example", "127.0.0.1.example", "0x7f.1.example", "256.1.1.1.example", "1.2.3.4.5",
     "0x", "0xg", "08.1", "127.0.0.256", "4294967296", "a.127", "xn--fiq228c.example"],
)  # fmt: skip
def test_what_is_a_name_is_left_to_its_look_up(host: str) -> None:
    assert of_host(host) is None or why_special(of_host(host) or ipaddress.IPv4Address(0)) is not None
    if host != "0x":
        assert Destinations().at_door(host, 443, Way.CONNECT) is None


def destinations(*rules: str, ports: tuple[str, ...] = ("443",), modes: tuple[str, ...] = ("regular",)) -> Destinations:
    return access_values.destinations(
        SimpleNamespace(access_destinations=list(rules), access_connect_ports=list(ports), mode=list(modes))
    )


def ask(
    found: Destinations, host: str, port: int, address: str | None = None, way: Way = Way.REQUEST, **more: Any
) -> str:
    """``allowed``, ``open`` (at the door, where the address is to decide) or the reason."""
    if address is None:
        denial = found.at_door(host, port, way)
    else:
        denial = found.of_address(host, port, canonical(address), way, **more)
    return denial.reason if isinstance(denial, Denial) else "allowed"


ALLOW_LIST = destinations("allow packages.example", "allow *.objects.example:8000-8999", "allow 10.0.0.0/8", "deny *")


@pytest.mark.parametrize(
    ("host", "port", "address", "expected"),
    [
        ("packages.example", 80, None, "allowed"),
        ("packages.example", 80, "203.0.113.1", "allowed"),
        ("PACKAGES.example.", 80, "203.0.113.1", "allowed"),
        ("packages.example", 80, "127.0.0.1", "address"),  # its zone points to loopback now
        ("packages.example", 80, "169.254.169.254", "address"),
        ("a.packages.example", 80, None, "allowed"),  # it may be in 10.0.0.0/8
        ("a.packages.example", 80, "10.1.2.3", "allowed"),
        ("a.packages.example", 80, "203.0.113.1", "rule"),
        ("a.objects.example", 8443, "203.0.113.1", "allowed"),
        ("a.objects.example", 9443, "203.0.113.1", "rule"),
        ("10.9.9.9", 80, None, "allowed"),
        ("::ffff:10.9.9.9", 80, None, "allowed"),
        ("64:ff9b::10.9.9.9", 80, None, "rule"),  # what is allowed for one address is so for that alone
        ("203.0.113.1", 80, None, "rule"),
        ("127.0.0.1", 80, None, "rule"),
    ],
)
def test_an_allow_list(host: str, port: int, address: str | None, expected: str) -> None:
    assert ask(ALLOW_LIST, host, port, address) == expected


@pytest.mark.parametrize(
    ("rules", "host", "port", "address", "expected"),
    [
        (["deny 10.0.0.0/8"], "a.example", 80, "10.0.0.1", "rule"),
        (["deny 10.0.0.0/8"], "64:ff9b::10.0.0.1", 80, None, "rule"),
        (["deny 10.0.0.0/8"], "a.example", 80, "11.0.0.1", "allowed"),
        (["allow 10.1.0.0/16", "deny 10.0.0.0/8"], "a.example", 80, "10.1.0.1", "allowed"),
        (["allow 10.1.0.0/16", "deny 10.0.0.0/8"], "a.example", 80, "10.2.0.1", "rule"),
        (["deny *.example"], "a.example", 80, None, "rule"),
        (["deny *.example"], "example", 80, None, "allowed"),
        (["deny b\u00fccher.example"], "xn--bcher-kva.example", 80, None, "rule"),
        (["deny *:8080"], "a.example", 8080, None, "rule"),
        (["deny *:8080"], "a.example", 8081, None, "allowed"),
        (["deny [fd00::/8]:443"], "a.example", 443, "fd00::1", "rule"),
        (["deny fd00::/8"], "a.example", 80, "fd00::1", "rule"),
        (["deny [fd00::1]"], "fd00::1", 80, None, "rule"),
        (["allow 127.0.0.0/8"], "127.0.0.1", 8000, None, "allowed"),
        (["allow 127.0.0.0/8"], "localhost", 8000, "127.0.0.1", "allowed"),
        (["allow 127.0.0.0/8"], "::1", 8000, None, "address"),
        (["allow 127.0.0.0/8"], "64:ff9b::127.0.0.1", 8000, None, "address"),
        (["allow ::ffff:127.0.0.0/104"], "127.0.0.1", 8000, None, "allowed"),
        (["allow localhost"], "localhost", 8000, "127.0.0.1", "address"),  # a name allows no address
        (["allow localhost", "allow 127.0.0.1:8000"], "localhost", 8000, "127.0.0.1", "allowed"),
        (["allow localhost", "allow 127.0.0.1:8000"], "localhost", 8001, "127.0.0.1", "address"),
        (["allow *"], "127.0.0.1", 8000, None, "allowed"),
        (["allow *"], "a.example", 25, None, "port"),
        (["allow a.example"], "a.example", 25, None, "port"),
        (["allow a.example:25"], "a.example", 25, None, "allowed"),
        (["allow 10.0.0.0/8:20-25"], "a.example", 25, "10.0.0.1", "allowed"),
        (["allow 10.0.0.0/8:20-25"], "a.example", 25, "11.0.0.1", "port"),
        ([], "a.example", 22, None, "port"),
        ([], "a.example", 1023, None, "port"),
        ([], "a.example", 1024, None, "allowed"),
        ([], "a.example", 80, None, "allowed"),
        ([], "a.example", 443, None, "allowed"),
    ],
)
def test_the_first_rule_that_matches_counts(
    rules: list[str], host: str, port: int, address: str | None, expected: str
) -> None:
    assert ask(destinations(*rules), host, port, address) == expected


def test_tunnels_go_to_443_alone_unless_told_otherwise() -> None:
    default, other, none = destinations(), destinations(ports=("443, 8000-8999",)), destinations(ports=("",))
    for port, expected in ((443, "allowed"), (80, "port"), (22, "port"), (8443, "port")):
        assert ask(default, "a.example", port, way=Way.CONNECT) == expected
    assert ask(other, "a.example", 8443, way=Way.CONNECT) == "allowed"
    assert ask(none, "a.example", 443, way=Way.CONNECT) == "port"
    assert ask(destinations(ports=("*",)), "a.example", 22, way=Way.CONNECT) == "allowed"
    # Where it is not known what for, as it is with SOCKS: what either way may.
    assert ask(destinations(ports=("22",)), "a.example", 22, way=Way.UNKNOWN) == "allowed"
    assert ask(default, "a.example", 22, way=Way.UNKNOWN) == "port"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((), "listener"),
        (("allow 10.0.0.0/8",), "listener"),
        (("allow *",), "listener"),
        (("allow a.example:8080",), "listener"),
        (("allow 10.0.0.5:8080",), "allowed"),
    ],
)
def test_own_listeners_are_denied_unless_a_rule_names_address_and_port(rules: tuple[str, ...], expected: str) -> None:
    found = destinations(*rules)
    assert ask(found, "a.example", 8080, "10.0.0.5", is_own=lambda: True) == expected
    assert ask(found, "a.example", 8080, "10.0.0.5", is_own=lambda: False) == "allowed"


def test_what_the_operator_has_named_is_no_clients_choice() -> None:
    found = destinations("deny *", modes=("reverse:http://127.0.0.1:9000", "regular"))
    assert ask(found, "127.0.0.1", 9000) == "allowed"
    assert ask(found, "127.0.0.1", 9001) == "rule"


def test_behind_a_parent_proxy_names_have_to_do() -> None:
    found = destinations("deny 10.0.0.0/8", "deny *.internal", modes=("upstream:http://parent.example:3128",))
    assert ask(found, "a.example", 80) == "allowed"  # whatever the parent finds for it
    assert ask(found, "10.0.0.1", 80) == "rule"
    assert ask(found, "a.internal", 80) == "rule"
    for name in ("localhost", "LOCALHOST.", "a.localhost", "metadata.google.internal.", "2130706433"):
        assert ask(destinations(modes=("upstream:http://parent.example:3128",)), name, 80) == "address"
    # Nor is the parent itself a destination: its own pages are for its machine alone.
    assert ask(destinations(modes=("upstream:http://127.0.0.1:3128",)), "127.0.0.1", 3128) == "address"
    allowed = destinations("allow 127.0.0.0/8", modes=("upstream:http://parent.example:3128",))
    assert ask(allowed, "localhost", 80) == "allowed"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("access_destinations", "example.com", "is no rule"),
        ("access_destinations", "permit example.com", "is no rule"),
        ("access_destinations", "allow", "is no rule"),
        ("access_destinations", "allow http://example.com/", "not a URL"),
        ("access_destinations", "allow example.com/path", "is no rule for hosts"),
        ("access_destinations", "allow .example.com", r"did you mean \*\.example\.com"),
        ("access_destinations", "deny 10.0.0.1/8", "did you mean 10.0.0.0/8"),
        ("access_destinations", "deny 10.0.0.0/33", "no network such as"),
        ("access_destinations", "deny 10.0.0.256", "no network such as"),
        ("access_destinations", "deny 10.*", "as a network"),
        ("access_destinations", "deny fd00::/129", "no network such as"),
        ("access_destinations", "deny [fd00::1", "no network such as|is no rule"),
        ("access_destinations", "deny example.com:", "no port"),
        ("access_destinations", "deny example.com:0", "no port"),
        ("access_destinations", "deny example.com:65536", "no port"),
        ("access_destinations", "deny example.com:90-80", "no port"),
        ("access_destinations", "deny :80", "has no host"),
        ("access_destinations", "deny *, allow a.example", "would never count"),
        ("access_destinations", "deny 10.0.0.0/8, allow 10.1.0.0/16", "would never count"),
        ("access_connect_ports", "https", "no port"),
        ("access_connect_ports", "443-", "no port"),
        ("access_clients", "10.0.0.1/8", "did you mean 10.0.0.0/8"),
        ("access_clients", "example.com", "no network such as"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(option: str, value: str, told: str) -> None:
    options = {"access_destinations": [], "access_connect_ports": ["443"], "access_clients": [], "mode": ["regular"]}
    asked = SimpleNamespace(**(options | {option: [value]}))
    parse = access_values.clients if option == "access_clients" else access_values.destinations
    with pytest.raises(exceptions.OptionsError, match=told) as raised:
        parse(asked)
    assert str(raised.value).startswith(f"{option}: ")
    assert "\n" not in str(raised.value)


# -- beside the system's own reading ----------------------------------------------------------------------------------

_PIECES = (
    "0", "1", "127", "0x7f", "0177", "2130706433", "255", "256", "0xffffffff", "00", "x", ".", ".", ".", ":", "::",
    "ffff", "169.254", "a9fe", "64:ff9b::", "2002:7f00:1::", "%eth0", "e", "A",
)  # fmt: skip


def read_by_the_system(host: str) -> str | None:
    """The address that the C library takes a host for, without a look-up."""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])


def disagreement(random_: random.Random) -> str | None:
    """A host that passes the door though the system takes it for an address that is denied."""
    host = "".join(random_.choices(_PIECES, k=random_.randint(1, 9)))
    if random_.random() < 0.3:
        host = f"{random_.choice(_PIECES)}{random_.choice(SPELLINGS)}"
    elif random_.random() < 0.5:
        host = random_.choice(SPELLINGS)
        at = random_.randrange(len(host) + 1)
        host = host[:at] + random_.choice(_PIECES) + host[at + random_.randint(0, 2) :]
    address = read_by_the_system(host)
    if address is None or why_special(canonical(address)) is None:
        return None
    return None if Destinations().at_door(host, 443, Way.CONNECT) is not None else f"{host} is {address}"


SPELLINGS = ("127.0.0.1", "127.1", "0x7f.1", "017700000001", "::ffff:127.0.0.1", "169.254.169.254", "::1", "0.0.0.0")


def test_whatever_the_system_takes_for_a_denied_address_does_not_pass_the_door() -> None:
    random_ = random.Random(6)
    assert [found for _ in range(20_000) if (found := disagreement(random_)) is not None] == []


def connect_with(random_: random.Random) -> str | None:
    """What is wrong with how the target of a mutated CONNECT is taken: it raises, or names this machine and passes."""
    text = random_.choice([f"{each}:443" if ":" not in each else f"[{each}]:443" for each in SPELLINGS])
    for _ in range(random_.randint(0, 3)):
        at = random_.randrange(len(text) + 1)
        text = (
            text[:at]
            + random_.choice((*_PIECES, "[", "]", "@", "/", " ", "\0", "\u2460"))
            + text[at + random_.randint(0, 2) :]
        )
    try:
        host, port = of_connect(text)
    except TargetError:
        return None
    address = read_by_the_system(host)
    if address is None or why_special(canonical(address)) is None:
        return None
    passes = Destinations(connect_ports=(range(1, 65536),)).at_door(host, port, Way.CONNECT) is None
    return f"{text} is {address}" if passes else None


def test_mutated_targets_of_connect_name_nothing_that_is_denied() -> None:
    random_ = random.Random(7)
    assert [found for _ in range(20_000) if (found := connect_with(random_)) is not None] == []
