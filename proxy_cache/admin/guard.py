"""Who may ask the metrics port, and who may change something by it. Pure functions of a request's fields.

A browser on the operator's machine can reach the port on behalf of any page that it shows. Such a page must not read
anything (its name may have been made to lead here: DNS rebinding), and must not change anything:

- ``Host`` has to be one that nobody else can have in their DNS: an address, ``localhost``, this machine's own name, or
  one of the option ``admin_hosts``;
- ``Origin`` has to be the page of this port itself, and ``Sec-Fetch-Site`` must not tell of another site
  (Fetch Metadata Request Headers §2.3);
- what changes something needs a token, which no browser adds by itself.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..settings import AdminSettings, is_one_of
from .problems import Problem

_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::([0-9]{1,5}))?")
_OWN_SITE: Final = frozenset({"same-origin", "none"})
"""``none``: the user has typed the address."""


def check_host(hosts: Sequence[str], settings: AdminSettings) -> None:
    """``hosts``: the values of ``Host``. Raises :class:`Problem`."""
    if not hosts:
        return  # HTTP/1.0: no browser
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        raise Problem(400, "Host must be there once, as name:port or address:port")
    name = match[1].strip("[]").lower().rstrip(".")
    is_own = _is_address(name) or name in own_names() or name.endswith(".localhost")
    if not (is_own or is_one_of(settings.hosts, name, int(match[2] or 80))):
        raise Problem(421, f"Host {name} is no name of this machine: add it to admin_hosts, or use the address")


def check_site(fields: Mapping[str, str]) -> None:
    """Whether a request is from a page of ours, or no browser's. Raises :class:`Problem`."""
    origin = fields.get("Origin")
    # The scheme is that of a proxy before this one, if there is one: Host, which was checked, is what tells.
    if origin is not None and origin.lower().partition("://")[2] not in {fields.get("Host", "").lower()} - {""}:
        raise Problem(403, "Origin is another than this port's own")
    if fields.get("Sec-Fetch-Site", "none").strip().lower() not in _OWN_SITE:
        raise Problem(403, "Sec-Fetch-Site: a page of another site asks")


def check_token(authorization: str | None, settings: AdminSettings) -> None:
    """Whether a request may change something. Raises :class:`Problem`."""
    if not settings.tokens:
        raise Problem(403, "nothing can be changed by this port without the option admin_token_file")
    if not bears_token(authorization, settings):
        raise Problem(401, "Authorization: Bearer TOKEN of admin_token_file is needed", {"WWW-Authenticate": "Bearer"})


def bears_token(authorization: str | None, settings: AdminSettings) -> bool:
    """Whether ``Authorization`` has one of the tokens (RFC 6750 §2.1)."""
    scheme, _, token = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and is_token(token.strip(), settings.tokens)


def is_token(given: str, tokens: Iterable[str]) -> bool:
    """Whether this is one of the tokens. How long that takes tells nothing of them but their number and lengths."""
    text = given.encode("utf-8", "surrogateescape")
    found = False
    for token in tokens:
        found |= hmac.compare_digest(text, token.encode())
    return found


def own_names() -> frozenset[str]:
    """By which this machine knows itself, without asking anybody."""
    name = socket.gethostname().lower().rstrip(".")
    return frozenset({"localhost", name, name.partition(".")[0]}) - {""}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
