"""Names of clients, for fairness and the log: a user's, where clients have to say who they are, or an address.

A user may be called anything. In the log a name is one word that can't be taken for the end of its field, nor for an
address; in ``Forwarded``, by which a peer is told whom it is asked for, it is an identifier of RFC 7239 §6.3.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from hashlib import sha256
from typing import Final

NAME_MAX: Final = 100
"""Characters of a name. What is longer ends in a digest, so that two of them stay two."""
_OTHER: Final = re.compile(rb"[^!#$&-Z\\^-~%]|%(?![0-9A-F]{2})")
_NAME: Final = re.compile(r"(?:[!#$&-Z\\^-~]|%[0-9A-F]{2})+")
_NOT_IN_NODE: Final = re.compile(r"[^A-Za-z0-9.-]")
_ESCAPED: Final = re.compile(r"_([0-9A-F]{2})")
_NODE: Final = re.compile(r"_(?:[A-Za-z0-9.-]|_[0-9A-F]{2})+")


@lru_cache(maxsize=1024)
def user_name(user: str) -> str:
    """The name of a client that has proven to be this user. A name's name is itself."""
    name = _OTHER.sub(lambda found: b"%%%02X" % found[0][0], user.encode("utf-8", "replace")).decode("ascii")
    if not name or is_address(name) or name == "unknown":
        name = f"user:{name}"  # no user has a colon in its name (RFC 7617 §2)
    if len(name) > NAME_MAX:
        begins = name[: NAME_MAX - 17]
        if (escape := begins.rfind("%")) >= len(begins) - 2:
            begins = begins[:escape]  # without half of an escape
        name = f"{begins}~{sha256(name.encode()).hexdigest()[:16]}"
    return name


def is_address(text: str) -> bool:
    """Whether it is an address of IPv4 or IPv6."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1024)
def node(client: str) -> str:
    """``client`` as a node of ``Forwarded``: an address (RFC 7239 §6: one of IPv6 is in brackets, and quoted), or a
    user's name as an obfuscated identifier (§6.3)."""
    if not client or client == "unknown":
        return "unknown"
    if is_address(client):
        return f'"[{client}]"' if ":" in client else client
    return "_" + _NOT_IN_NODE.sub(lambda found: f"_{ord(found[0]):02X}", client)


@lru_cache(maxsize=1024)
def client_of(node: str) -> str | None:
    """The client that :func:`node` was made of; ``None`` if it is none. The value may be anybody's."""
    if _NODE.fullmatch(node) is not None:
        name = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), node[1:])
        is_name = len(name) <= NAME_MAX and _NAME.fullmatch(name) is not None
        return name if is_name and name == user_name(name) else None
    text = node.strip('"').removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
