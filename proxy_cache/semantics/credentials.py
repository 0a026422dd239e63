"""Names that speak of secrets and of who is asking: of request fields, and of parameters in URLs.

The one list of them. RFC 9111 §3.5 speaks of Authorization alone, but many services take something else: a key, a
token, a cookie, or what a gateway in front says of the user. What is answered to a request with one of these fields may
be for its sender only, they are not kept where they can be read, and they are not sent back to anybody. Parameters with
such names are not shown in logs.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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
        # What gateways and TLS terminators say of who is asking (RFC 9440 and its forerunners).
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

# And what looks like one of them. Too much is better than too little: a name too many costs a response that says
# nothing about caching its place in the cache, and a parameter its value in the log. Long stems count anywhere in the
# name, short ones as a word of their own ("sig" but not "design", "pin" but not "ping").
_STEMS: Final = (
    r"token|secret|passw|passphrase|passcode|signature|credential|session|sess[_-]?id|jwt|saml|bearer|cookie"
    r"|access[_-]?key|api[_-]?key|key$|otp$|auth(?!or(?!i[sz]))"
)
_WORDS: Final = r"sig|pass|pwd|sid|otp|pin"
_WHO: Final = r"|(?:^|[_-])user(?:$|[_-]?(?:name|id|email|login)$)|principal|impersonate|oidc|client[_-]?cert|[_-]dn$"
_SENSITIVE: Final = re.compile(rf"{_STEMS}|(?:^|[^a-z0-9])(?:{_WORDS})(?:$|[^a-z0-9]){_WHO}")
# A parameter may say who somebody is: that is no secret.
_PARAMETER: Final = re.compile(
    rf"{_STEMS}|(?:^|[^a-z0-9])(?:{_WORDS}|key|code|x-amz-.*|x-goog-.*)(?:$|[^a-z0-9])", re.DOTALL
)


def is_secret_parameter(name: str) -> bool:
    """Whether the value of a parameter of this name, which is lower-case, opens something."""
    return _PARAMETER.search(name) is not None


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
    return name in LISTED or _SENSITIVE.search(name) is not None


_remembered = lru_cache(maxsize=1024)(_is_one)


_named: frozenset[str] = frozenset()


def use(names: frozenset[str]) -> None:
    """Fields that the operator has named as well, for what :func:`is_shown` tells; for the process."""
    global _named
    _named = names


def is_shown(name: str) -> bool:
    """Whether a log may have the value of a field of this name, which is lower-case."""
    return not is_credential(name, _named)
