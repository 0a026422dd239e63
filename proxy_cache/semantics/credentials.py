"""Names of request fields and URL parameters that carry secrets or identify the user.

The only list of them. RFC 9111 §3.5 is about Authorization alone, but many services use something else: a key, a token,
a cookie, or fields in which a gateway names the user. The response to a request with such a field may be for its sender
only. Such fields are not stored in readable form, and not sent back to anybody; parameters with such names are not
logged.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache
from typing import Final, Protocol

# Names in use: by package registries and repository managers, continuous integration, clouds, frameworks. (Many also
# match the expression below; listed, they are certain.)
LISTED: Final = frozenset(
    {
        "authorization", "proxy-authorization", "cookie", "cookie2", "dpop", "signature", "signature-input",
        "cache-peer",
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
        # Fields in which gateways and TLS terminators name the user (RFC 9440 and its forerunners).
        "remote-user", "remote-name", "remote-email", "remote-groups", "x-remote-user", "x-remote-group", "x-user",
        "x-user-id", "x-user-email", "x-username", "x-email", "x-forwarded-user", "x-forwarded-email",
        "x-forwarded-groups", "x-forwarded-preferred-username", "x-authenticated-user", "x-auth-request-user",
        "x-webauth-user", "x-amzn-oidc-data", "x-amzn-oidc-identity", "x-amzn-oidc-accesstoken",
        "x-goog-authenticated-user-email", "x-goog-iap-jwt-assertion", "cf-access-jwt-assertion",
        "cf-access-authenticated-user-email", "x-ms-client-principal", "x-ms-client-principal-id",
        "x-ms-client-principal-name", "x-consumer-username", "x-consumer-id", "x-consumer-custom-id",
        "tailscale-user-login", "tailscale-user-name", "impersonate-user", "impersonate-group", "client-cert",
        "client-cert-chain", "x-client-cert", "x-forwarded-client-cert", "x-ssl-client-cert", "ssl-client-cert",
        "x-ssl-client-s-dn", "x-ssl-client-dn", "x-client-dn", "x-arr-clientcert", "x-client-subject-dn",
    }
)  # fmt: skip

# And names that look like one. Too many are better than too few: a false match only keeps a response without caching
# fields out of the cache, and a parameter's value out of the log. Long stems match anywhere in the name, short ones as
# a separate word ("sig" but not "design", "pin" but not "ping").
_STEMS: Final = (
    r"token|secret|passw|passphrase|passcode|signature|credential|session|sess[_-]?id|jwt|saml|bearer|cookie"
    r"|access[_-]?key|api[_-]?key|key$|otp$|auth(?!or(?!i[sz]))"
)
_WORDS: Final = r"sig|pass|pwd|sid|otp|pin"
_WHO: Final = r"|(?:^|[_-])user(?:$|[_-]?(?:name|id|email|login)$)|principal|impersonate|oidc|client[_-]?cert|[_-]dn$"
_SENSITIVE: Final = re.compile(rf"{_STEMS}|(?:^|[^a-z0-9])(?:{_WORDS})(?:$|[^a-z0-9]){_WHO}")
# A user's name in a parameter is no secret.
_PARAMETER: Final = re.compile(
    rf"{_STEMS}|(?:^|[^a-z0-9])(?:{_WORDS}|key|code|x-amz-.*|x-goog-.*)(?:$|[^a-z0-9])", re.DOTALL
)


class HasNames(Protocol):
    """Fields with lower-case names, such as :class:`.headers.Headers`."""

    @property
    def names(self) -> frozenset[str]: ...


def is_secret_parameter(name: str) -> bool:
    """Whether a parameter of this lower-case name carries a secret."""
    return _PARAMETER.search(name) is not None


def is_credential(name: str, more: Set[str] = frozenset()) -> bool:
    """Whether a field of this lower-case name identifies the user. ``more``: further names."""
    return name in more or (_remembered(name) if len(name) <= 64 else _is_one(name))


def has_credentials(request: HasNames, more: Set[str] = frozenset()) -> bool:
    """Whether a request identifies its user."""
    return any(is_credential(name, more) for name in request.names)


def credentials_of(request: HasNames, more: Set[str] = frozenset()) -> frozenset[str]:
    """The names of the fields that identify a request's user."""
    return frozenset(name for name in request.names if is_credential(name, more))


def _is_one(name: str) -> bool:
    return name in LISTED or _SENSITIVE.search(name) is not None


_remembered = lru_cache(maxsize=1024)(_is_one)


_named: frozenset[str] = frozenset()


def use(names: frozenset[str]) -> None:
    """Set the operator's further names for :func:`is_shown`, for the whole process."""
    global _named
    _named = names


def is_shown(name: str) -> bool:
    """Whether the value of a field of this lower-case name may be logged."""
    return not is_credential(name, _named)
