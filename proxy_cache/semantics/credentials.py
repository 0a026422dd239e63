"""Which request fields say who is asking.

RFC 9111 §3.5 speaks of Authorization alone, but many services take something else: a key, a token, a cookie. What is
answered to a request with one of these may be for its sender only, they are not kept where they can be read, and they
are not sent back to anybody.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache
from typing import Final

from .headers import Headers

# Names that are in use, so that nobody has to wonder whether the expression below finds one. Package registries and
# repository managers, continuous integration, clouds, and what frameworks use.
LISTED: Final = frozenset(
    {
        "authorization", "proxy-authorization", "cookie", "cookie2", "dpop", "signature", "signature-input",
        "api-key", "apikey", "x-api-key", "x-apikey", "x-access-key", "x-access-token", "x-app-token", "x-auth",
        "x-auth-email", "x-auth-key", "x-auth-token", "x-auth-user", "x-authorization", "x-client-secret",
        "x-forwarded-access-token", "x-id-token", "x-jwt-assertion", "x-secret", "x-session-id", "x-session-token",
        "x-token", "x-user-token", "access-token", "auth-token", "token",
        "private-token", "job-token", "deploy-token", "x-gitlab-token", "x-github-token", "x-gitea-otp",
        "npm-otp", "x-jfrog-art-api", "x-nuget-apikey", "x-artifactory-token", "x-octopus-apikey",
        "circle-token", "x-circleci-token", "x-buildkite-token", "x-rundeck-auth-token",
        "x-amz-security-token", "x-aws-ec2-metadata-token", "x-goog-api-key", "x-goog-iam-authorization-token",
        "x-ms-authorization-auxiliary", "x-functions-key", "x-zumo-auth", "ocp-apim-subscription-key",
        "x-consul-token", "x-nomad-token", "x-vault-token", "dd-api-key", "dd-application-key",
        "x-shopify-access-token", "x-figma-token",
    }
)  # fmt: skip

# And what looks like one of them. Too much is better than too little: a name too many costs a response that says
# nothing about caching its place in the cache.
_LOOKS_LIKE_ONE: Final = re.compile(
    r"auth(?!or(?!i))|cookie|token|secret|passw|credential|signature|session|jwt|otp$|api-?key|key$"
)


def is_credential(name: str, more: Set[str] = frozenset()) -> bool:
    """Whether a field of this name, which is lower-case, says who is asking. ``more``: further names."""
    return name in more or (_remembered(name) if len(name) <= 64 else _is_one(name))


def has_credentials(request: Headers, more: Set[str] = frozenset()) -> bool:
    """Whether a request says who is asking."""
    return any(is_credential(name, more) for name in request.names)


def credentials_of(request: Headers, more: Set[str] = frozenset()) -> frozenset[str]:
    """The fields of a request that say who is asking, by their names."""
    return frozenset(name for name in request.names if is_credential(name, more))


def _is_one(name: str) -> bool:
    return name in LISTED or _LOOKS_LIKE_ONE.search(name) is not None


_remembered = lru_cache(maxsize=1024)(_is_one)
