"""Environment variables by which build tools use a proxy and trust its CA, and how shells are told of them."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from .certificates import JAVA_PASSWORD
from .command import BadInput

SHELLS: Final = ("sh", "fish", "github", "docker")
NO_PROXY: Final = "localhost,127.0.0.1,::1"
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?")
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f\"'\\]")


@dataclass(frozen=True, slots=True)
class ProxyUrl:
    """Where the proxy is."""

    url: str
    """With user and password, if there are some."""
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> ProxyUrl:
        """``http://host:port``, or ``host:port``. Raises :class:`BadInput`, which doesn't quote a password."""
        bad = BadInput("--proxy: has to be http://HOST:PORT, such as http://proxy.example:8080")
        if _UNSAFE.search(text):
            raise bad
        if "://" not in text:
            text = f"http://{text}"
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise bad from error
        if parts.scheme != "http":
            raise BadInput(f"--proxy: the proxy speaks http to its clients, not {parts.scheme}, also about https URLs")
        if port is None or not 0 < port < 65536 or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise bad
        if not (_is_address(host) if ":" in host else _HOST.fullmatch(host)):
            raise bad
        if parts.username and ":" in unquote(parts.username):
            raise BadInput("--proxy: the name of a user has no colon in it")
        shown = f"[{host}]" if ":" in host else host
        user, at, _ = parts.netloc.rpartition("@")
        return cls(f"http://{user}{at}{shown}:{port}", host, port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Files:
    """What was written."""

    bundle: Path
    """The system's certificates and the proxy's CA (PEM)."""
    authority: Path
    """The proxy's CA alone, for variables that add to a store."""
    java: Path
    """The bundle as Java has it."""


def variables(proxy: ProxyUrl, no_proxy: str, files: Files, environment: Mapping[str, str]) -> dict[str, str]:
    """All of them, with their values. ``environment``: that of the tools, where it is known."""
    bundle, authority = str(files.bundle), str(files.authority)
    return {
        # curl reads the first in small letters alone; others read the capital ones.
        "http_proxy": proxy.url,
        "HTTP_PROXY": proxy.url,
        "https_proxy": proxy.url,
        "HTTPS_PROXY": proxy.url,
        "no_proxy": no_proxy,
        "NO_PROXY": no_proxy,
        # Yarn from 2 on asks for its own.
        "YARN_HTTP_PROXY": proxy.url,
        "YARN_HTTPS_PROXY": proxy.url,
        # These replace a store.
        "SSL_CERT_FILE": bundle,  # OpenSSL (Python, Ruby, wget), Go, uv, rustls
        "PIP_CERT": bundle,
        "REQUESTS_CA_BUNDLE": bundle,
        "CONDA_SSL_VERIFY": bundle,
        "CURL_CA_BUNDLE": bundle,
        "GIT_SSL_CAINFO": bundle,
        "CARGO_HTTP_CAINFO": bundle,
        "AWS_CA_BUNDLE": bundle,
        "npm_config_cafile": bundle,  # where an npmrc has a cafile, npm and pnpm look at that alone
        # These add to one.
        "NODE_EXTRA_CA_CERTS": authority,  # whatever runs in node
        "DENO_CERT": authority,
        "JAVA_TOOL_OPTIONS": _java(proxy, files.java, environment.get("JAVA_TOOL_OPTIONS", "")),
    }


def _java(proxy: ProxyUrl, store: Path, before: str) -> str:
    """Options of every JVM: it looks at none of the other variables. What it has been told before stays."""
    ours = {
        "http.proxyHost": proxy.host,
        "http.proxyPort": str(proxy.port),
        "https.proxyHost": proxy.host,
        "https.proxyPort": str(proxy.port),
        "javax.net.ssl.trustStore": str(store),
        "javax.net.ssl.trustStorePassword": JAVA_PASSWORD,
    }
    kept = [word for word in before.split() if word[2:].partition("=")[0] not in ours or not word.startswith("-D")]
    return " ".join([*kept, *(_java_word(f"-D{name}={value}") for name, value in ours.items())])


def _java_word(text: str) -> str:
    """JVMs take quotes in this variable, and no escapes."""
    return f'"{text}"' if " " in text else text


def printed(shell: str, values: Mapping[str, str]) -> str:
    """Lines to be evaluated by a shell (``sh``, ``fish``), to be appended to ``$GITHUB_ENV``, or for docker's
    ``--env-file``. Raises :class:`BadInput`."""
    for name, value in values.items():
        if "\n" in value or "\r" in value or "\0" in value:
            raise BadInput(f"{name}: there is a line break in {value!r}")
    if shell == "sh":
        lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    elif shell == "fish":
        lines = [f"set -gx {name} {_fish(value)}" for name, value in values.items()]
    else:
        lines = [f"{name}={value}" for name, value in values.items()]
    return "".join(f"{line}\n" for line in lines)


def _fish(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
