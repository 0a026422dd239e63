"""mitmproxy's filter expressions, compiled: what the target of a request decides is decided without a flow.

``~d``, ``~u``, ``~m``, a bare regex, ``~all`` and combinations of them look at nothing but the target, and
``~c`` at the status beside it. A compiled filter answers for them in microseconds, and says so where there is more to
look at (a header, a body, the client): only then is it mitmproxy's filter that is asked, about a flow that is made for
the question. In ``~d a & ~hq b`` the first half alone answers for all other hosts.

A filter is asked about the *target*. mitmproxy's own ``~d`` and ``~u`` look at the Host header first, which a client
may write what it likes into: by that one client could choose the rules for another site's responses. So the flows that
filters see here have the Host that their target has (RFC 9112 §3.2.2 has a proxy replace it anyway).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from mitmproxy import flowfilter, http
from mitmproxy.connection import Client, ConnectionState, Server

from ..semantics.client_names import user_name
from ..semantics.headers import Headers
from ..semantics.keys import Target
from . import compat
from .compat import NODES as nodes
from .metadata import USER

NO_RESPONSE: Final = 0
"""The status while there is no response yet."""
SOME_RESPONSE: Final = -1
"""The status of a response while nothing is known of it."""


@dataclass(slots=True)
class Facts:
    """The facts of a request that a filter can be told without a flow. (Not frozen, as :class:`Target` isn't.)"""

    hosts: tuple[str, ...]
    """The host in each of the spellings that ``~d`` looks at."""
    url: str | None
    """As mitmproxy shows it, its ``pretty_url``; ``None`` to ask about all of a host's at once."""
    method: bytes
    status: int = NO_RESPONSE

    @classmethod
    def of_host(cls, target: Target, method: bytes) -> Facts:
        return cls(_names(target.scheme, target.host, target.authority)[0], None, method)

    @classmethod
    def of(cls, target: Target, method: bytes, status: int = NO_RESPONSE) -> Facts:
        hosts, base = _names(target.scheme, target.host, target.authority)
        return cls(hosts, base if target.path == "*" else base + target.path, method, status)

    def answered(self, status: int) -> Facts:
        """The same, with a response."""
        return Facts(self.hosts, self.url, self.method, status)


Check: TypeAlias = Callable[[Facts], bool | None]
"""Whether a filter matches; ``None`` if that takes more to tell: the URL where it is left out, or a flow."""


@lru_cache(maxsize=4096)
def _names(scheme: str, host: str, authority: str) -> tuple[tuple[str, ...], str]:
    """The host in all its spellings, and what URLs begin with, as mitmproxy has them."""
    if not compat.FILTERS.is_on:
        return (host_of_flow(host),), ""  # every filter is asked with a flow
    mitmproxy_url, shown = compat.find("mitmproxy.net.http:url"), shown_authority(authority)
    pretty_host, pretty_port = mitmproxy_url.parse_authority(shown, check=False)
    port = pretty_port or mitmproxy_url.default_port(scheme) or 443
    hosts = dict.fromkeys((host_of_flow(host), pretty_host))
    return tuple(hosts), mitmproxy_url.unparse(scheme, pretty_host, port, "")


def host_of_flow(host: str) -> str:
    """mitmproxy reads internationalised names: ``xn--bcher-kva.example`` is ``bücher.example`` to it."""
    if "xn--" not in host:
        return host
    try:
        return host.encode("ascii").decode("idna")
    except UnicodeError:
        return host


def shown_authority(authority: str) -> str:
    """The Host field for a target: in ASCII, as clients send it (RFC 9110 §4.2, RFC 3986 §3.2.2)."""
    if authority.isascii():
        return authority
    try:
        return authority.encode("idna").decode("ascii")
    except UnicodeError:
        return authority


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter expression of mitmproxy's, parsed."""

    expression: flowfilter.TFilter
    check: Check
    needs_flow: bool
    """Whether there is something in it that only a flow can tell."""
    asks_client: bool
    """Whether the answer may differ between two clients that send the same bytes."""
    uses_url: bool
    """Whether more of the target counts than its host."""
    names_status: bool
    """Whether it has a ``~c``."""

    @classmethod
    def of(cls, expression: flowfilter.TFilter) -> Filter:
        if not compat.FILTERS.is_on:
            return cls(expression, lambda facts: None, True, asks_client=True, uses_url=True, names_status=False)
        kinds = {type(token) for token in _tokens(expression)}
        return cls(
            expression,
            _compiled(expression),
            needs_flow=not kinds <= _COMPILED,
            asks_client=not kinds <= _COMPILED | _ASK_MESSAGES,
            uses_url=nodes.FUrl in kinds,
            names_status=nodes.FCode in kinds,
        )

    def matches(self, flow: http.HTTPFlow) -> bool:
        """mitmproxy's own answer."""
        return bool(flowfilter.match(self.expression, flow))


_CONSTANT: Final[dict[type, bool]] = {
    nodes.FAll: True,
    nodes.FHTTP: True,
    nodes.FTCP: False,
    nodes.FUDP: False,
    nodes.FDNS: False,
}
"""Filters that are the same for every HTTP flow."""
_ASK_RESPONSE: Final = frozenset({nodes.FHeadResponse, nodes.FContentTypeResponse, nodes.FAsset, nodes.FBodResponse})
"""Filters that don't match before there is a response."""
_ASK_MESSAGES: Final = _ASK_RESPONSE | {
    nodes.FHead,
    nodes.FHeadRequest,
    nodes.FContentType,
    nodes.FContentTypeRequest,
    nodes.FBod,
    nodes.FBodRequest,
}
_COMPILED: Final = frozenset(_CONSTANT) | {
    nodes.FDomain,
    nodes.FUrl,
    nodes.FMethod,
    nodes.FCode,
    nodes.FReq,
    nodes.FResp,
}


def _tokens(part: Any) -> list[Any]:
    """The operands of an expression."""
    if isinstance(part, nodes.FNot):
        return _tokens(part.itm)
    if isinstance(part, (nodes.FAnd, nodes.FOr)):
        return [token for one in part.lst for token in _tokens(one)]
    return [part]


def _compiled(part: Any) -> Check:
    kind = type(part)
    if kind is nodes.FAnd:
        return _all([_compiled(one) for one in part.lst])
    if kind is nodes.FOr:
        return _any([_compiled(one) for one in part.lst])
    if kind is nodes.FNot:
        return _not(_compiled(part.itm))
    if kind in _CONSTANT:
        constant = _CONSTANT[kind]
        return lambda facts: constant
    if kind is nodes.FDomain:
        return _host(part.re.search)
    if kind is nodes.FUrl:
        in_url = part.re.search
        return lambda facts: None if facts.url is None else in_url(facts.url) is not None
    if kind is nodes.FMethod:
        in_method = part.re.search
        return lambda facts: in_method(facts.method) is not None
    if kind is nodes.FReq:
        return lambda facts: facts.status == NO_RESPONSE
    if kind is nodes.FResp:
        return lambda facts: facts.status != NO_RESPONSE
    if kind is nodes.FCode:
        code: int = part.num
        return lambda facts: None if facts.status == SOME_RESPONSE else code == facts.status != NO_RESPONSE
    if kind in _ASK_RESPONSE:
        return lambda facts: False if facts.status == NO_RESPONSE else None
    return lambda facts: None


def _host(search: Callable[[str], Any]) -> Check:
    def check(facts: Facts) -> bool:
        for host in facts.hosts:  # noqa: SIM110 - a generator takes twice as long, and there is mostly one
            if search(host) is not None:
                return True
        return False

    return check


def _all(checks: list[Check]) -> Check:
    def check(facts: Facts) -> bool | None:
        answer: bool | None = True
        for one in checks:
            part = one(facts)
            if part is False:
                return False
            if part is None:
                answer = None
        return answer

    return check


def _any(checks: list[Check]) -> Check:
    def check(facts: Facts) -> bool | None:
        answer: bool | None = False
        for one in checks:
            part = one(facts)
            if part:
                return True
            if part is None:
                answer = None
        return answer

    return check


def _not(inner: Check) -> Check:
    def check(facts: Facts) -> bool | None:
        answer = inner(facts)
        return None if answer is None else not answer

    return check


# -- flows to ask about -------------------------------------------------------------------------------------------


def by_its_target(flow: http.HTTPFlow, target: Target, method: bytes) -> http.HTTPFlow:
    """``flow`` as filters are to see it: without a response, and with the Host of its target."""
    asked = http.HTTPFlow(flow.client_conn, Server(address=(target.host, target.port)))
    asked.metadata, asked.marked, asked.comment = _without_password(flow.metadata), flow.marked, flow.comment
    asked.is_replay = flow.is_replay
    asked.request = request = flow.request.copy()
    request.data.method = method
    request.data.host = host_of_flow(target.host)
    request.host_header = shown_authority(target.authority)
    return asked


def made_up_flow(target: Target, method: bytes, headers: Headers) -> http.HTTPFlow:
    """A flow that no client has sent, for filters to be asked about: it seems to come from this machine."""
    client = Client(
        peername=("127.0.0.1", 0), sockname=("127.0.0.1", 0), timestamp_start=time.time(), state=ConnectionState.OPEN
    )
    lines = b"".join(b"%b: %b\r\n" % field for field in headers.fields)
    return by_its_target(flow_of(client, target, lines), target, method)


def _without_password(metadata: dict[str, Any]) -> dict[str, Any]:
    """A rule may ask for the user (``~meta``), by the name that the log has."""
    found = metadata.get(USER)
    return {**metadata, USER: (user_name(str(found[0])), "")} if found else metadata


def flow_of(client: Client, target: Target, lines: bytes, user: str | None = None) -> http.HTTPFlow:
    """The same for a GET that no flow was made of. ``lines``: its field lines, each with CRLF at the end."""
    flow = http.HTTPFlow(client, Server(address=(target.host, target.port)))
    if user is not None:
        flow.metadata[USER] = user, ""
    fields = []
    for line in lines[:-2].split(b"\r\n"):
        name, _, value = line.partition(b":")
        fields.append((name, value.strip(b" \t")))
    flow.request = http.Request(
        host_of_flow(target.host), target.port, b"GET", target.scheme.encode(), b"", target.path.encode(), b"HTTP/1.1",
        http.Headers(fields), b"", None, 0.0, 0.0,
    )  # fmt: skip
    flow.request.host_header = shown_authority(target.authority)
    return flow
