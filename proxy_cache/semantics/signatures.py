"""Signed requests: the fields that must not be changed, and the parameters of a URL that only sign.

A signature covers the fields it names. One that covers Range is valid for that range only, so such a request is
forwarded with the client's range, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import unquote_plus, urlsplit

from .headers import Headers

# AWS Signature Version 4 and its imitations: Authorization: AWS4-HMAC-SHA256 Credential=…, SignedHeaders=a;b,
# Signature=…; in a presigned URL the same as X-Amz-SignedHeaders. Version 4a has AWS4-ECDSA-P256-SHA256, Google's has
# GOOG4-RSA-SHA256 and X-Goog-SignedHeaders.
_SIGNED_HEADERS: Final = re.compile(r"\bSignedHeaders=([^,\s]*+)", re.IGNORECASE)
_SIGNED_QUERY: Final = re.compile(r"x-[a-z]++-signedheaders", re.IGNORECASE)
# HTTP Message Signatures (RFC 9421 §4.1): Signature-Input: sig=("@method" "range");created=…
_COMPONENT: Final = re.compile(r'"(@?+[a-zA-Z0-9-]++)"')
# A signature with a shared key covers Range and the conditions, even if they are absent.
_SHARED_KEY: Final = frozenset({"range", "if-match", "if-modified-since", "if-none-match", "if-unmodified-since"})


def signed_fields(request: Headers, path: str) -> frozenset[str]:
    """The lower-case names of the fields that a request's signature covers; empty if it isn't signed.

    ``path``: with the query.
    """
    signed: set[str] = set()
    authorization = request.get("authorization")
    if authorization is not None:
        if authorization.lower().startswith("sharedkey "):
            signed |= _SHARED_KEY
        found = _SIGNED_HEADERS.search(authorization)
        if found is not None:
            signed.update(found[1].lower().split(";"))
    if "signedheaders" in path.lower():
        for member in path.partition("?")[2].split("&"):
            name, _, value = member.partition("=")
            if "signedheaders" in name.lower() and _SIGNED_QUERY.fullmatch(unquote_plus(name)):
                signed.update(unquote_plus(value).lower().split(";"))
    for value in request.get_all("signature-input"):
        signed.update(name.lower() for name in _COMPONENT.findall(value) if not name.startswith("@"))
    return frozenset(signed - {""})


# Query parameters that sign a URL for one download or for a short time, so that the same object has a new URL each
# time. Names are case-insensitive, and need a value.
_SIGNATURE: Final = re.compile(r"x-[a-z0-9]{1,16}-signature|q-signature")
"""Amazon, Google, Alibaba, Volcengine and their imitations (version 4); Tencent."""
_SIGNED_WITH: Final = {
    # Amazon (version 2), CloudFront, Google (version 2, and its CDN), Alibaba, Huawei, Docker's registry
    "signature": frozenset(
        {"expires", "key-pair-id", "policy", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "accesskeyid"}
    ),
    "sig": frozenset({"se", "sv", "si"}),  # Azure's shared access signature: its expiry, its version, a stored policy
    "md5": frozenset({"expires"}),  # nginx's secure_link
    "token": frozenset({"expires"}),  # Bunny
}
"""Parameters that sign if one of the others is present."""
_TIMED_MAC: Final = re.compile(r"[0-9]{9,11}-.{16,}", re.DOTALL)
"""Cloudflare: ``verify=`` with a time and a code."""
_AKAMAI: Final = frozenset({"hdnts", "hdnea", "__gda__", "__token__"})


def is_signed_url(path: str, ignored: Iterable[str] = ()) -> bool:
    """Whether a target (``path``: with the query) has a known signature of an object store or a CDN. ``ignored``:
    patterns of parameters that are not part of the key; signatures among them don't count."""
    query = path.partition("?")[2]
    if not query:
        return False
    found = {}
    for member in query.split("&"):
        name, _, value = member.partition("=")
        if value:
            found[unquote_plus(name).lower()] = value
    patterns = [pattern.lower() for pattern in ignored]
    for name, value in found.items():
        if patterns and _is_one_of(name, patterns):
            continue
        if name in _SIGNED_WITH:
            if not _SIGNED_WITH[name].isdisjoint(found):
                return True
        elif name == "verify":
            if _TIMED_MAC.fullmatch(unquote_plus(value)):
                return True
        elif name in _AKAMAI:
            if "hmac=" in unquote_plus(value).lower():
                return True
        elif _SIGNATURE.fullmatch(name):
            return True
    return False


def without_parameters(url: str, patterns: Iterable[str]) -> str:
    """``url`` without the query parameters whose names match one of the patterns (``X-Amz-*``, in any case)."""
    patterns = [pattern.lower() for pattern in patterns]
    parts = urlsplit(url)
    if not patterns or not parts.query:
        return url
    kept = [member for member in parts.query.split("&") if not _matches(member, patterns)]
    base = url.partition("?")[0]
    return f"{base}?{'&'.join(kept)}" if kept else base


def _matches(member: str, patterns: list[str]) -> bool:
    return _is_one_of(unquote_plus(member.partition("=")[0]).lower(), patterns)


def _is_one_of(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
