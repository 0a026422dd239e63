"""The API of a running proxy, asked over HTTP: always directly, never through a proxy that the environment names."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from .command import BadInput, Environment

DEFAULT_API: Final = "http://127.0.0.1:8082"
"""Where ``metrics_listen`` is by default."""
PREFIX: Final = "/api/v1"
PATIENCE: Final = 30.0
"""Seconds without a byte after which the proxy is given up: what streams says something every second."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_HINT: Final = "--api has to name the proxy's metrics port (metrics_listen)"

Parameters = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Where:
    """Where the API is, taken apart."""

    url: str
    scheme: str
    host: str
    port: int | None
    path: str


class Api:
    """``token``: goes with each request; ``None``: there is none."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """Raises :class:`BadInput`."""
        self._where = _where(url)
        self._token = token

    def get(self, path: str, parameters: Parameters = ()) -> Any:
        """The answer to a question. Raises :class:`BadInput`, with one line that says what is wrong."""
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters)
        with self._asked("GET", f"{PREFIX}/{path}" + (f"?{query}" if query else "")) as response:
            return self._parsed(response.read())

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a change. Raises :class:`BadInput`."""
        with self._asked("POST", f"{PREFIX}/{path}", body) as response:
            return self._parsed(response.read())

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of an answer that is NDJSON, as they come. Raises :class:`BadInput`."""
        with self._asked("POST", f"{PREFIX}/{path}", body) as response:
            while line := response.readline():
                if line.strip():
                    found = self._parsed(line)
                    if not isinstance(found, dict):
                        raise self._no_api()
                    yield found

    @contextlib.contextmanager
    def _asked(
        self, method: str, target: str, body: Mapping[str, Any] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        where = self._where
        connection = self._connection()
        headers = {"Accept": "application/json, application/x-ndjson, application/problem+json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, where.path + target, data, headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise self._refused(response.status, response.getheader("Content-Type", ""), response.read(65536))
            if "json" not in response.getheader("Content-Type", ""):
                raise self._no_api()
            yield response
        except TimeoutError as error:
            raise BadInput(f"{where.url} has said nothing for {PATIENCE:.0f} s") from error
        except http.client.IncompleteRead as error:
            raise BadInput(f"{where.url}: the answer broke off") from error
        except http.client.HTTPException as error:
            raise BadInput(f"{where.url} does not speak HTTP; {_HINT}") from error
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
            raise BadInput(f"no proxy at {where.url}: {why}; {_HINT}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        where = self._where
        if where.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(where.host, where.port, timeout=PATIENCE, context=context)
        return http.client.HTTPConnection(where.host, where.port, timeout=PATIENCE)

    def _refused(self, status: int, content_type: str, body: bytes) -> BadInput:
        """What the API says against it (RFC 9457)."""
        if "json" not in content_type:
            return self._no_api(status)
        try:
            problem = json.loads(body)
            said = problem.get("detail") or problem["title"]
        except (ValueError, AttributeError, KeyError):
            return self._no_api(status)
        hint = ""
        if status == 401:
            hint = " (--token-file, or PROXY_CACHE_TOKEN_FILE, names the file with the proxy's token)"
        return BadInput(f"{status}: {said}{hint}")

    def _no_api(self, status: int | None = None) -> BadInput:
        answer = "answers" if status is None else f"answers {status}"
        return BadInput(f"{self._where.url} {answer}, but not as the API of proxy-cache does; {_HINT}")

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise self._no_api() from error


def _where(url: str) -> _Where:
    bad = BadInput("--api: has to be http://HOST:PORT, such as http://127.0.0.1:8082")
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise bad from error
    if parts.username is not None:
        raise BadInput("--api: no user and no password: what changes anything takes --token-file")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not url.isprintable():
        raise bad
    if " " in url or not url.isascii():
        raise bad
    return _Where(url.rstrip("/"), parts.scheme, host, port, parts.path.rstrip("/"))


def add_arguments(parser: argparse.ArgumentParser, environment: Environment, *, token: bool = False) -> None:
    """``--api`` and ``--json``; ``--token-file`` for what changes anything, or shows secrets (``token``)."""
    group = parser.add_argument_group("the proxy")
    group.add_argument(
        "--api", metavar="URL", default=environment.get("PROXY_CACHE_API") or DEFAULT_API,
        help="its metrics port (default: PROXY_CACHE_API, else %(default)s)"
        if not environment.get("PROXY_CACHE_API")
        else "its metrics port (default: %(default)s, by PROXY_CACHE_API)",
    )  # fmt: skip
    if token:
        group.add_argument(
            "--token-file", metavar="FILE", type=Path, default=None,
            help="with the token that the proxy has in admin_token_file (default: PROXY_CACHE_TOKEN_FILE; "
            "PROXY_CACHE_TOKEN is the token itself)",
        )  # fmt: skip
    group.add_argument("--json", action="store_true", help="what the API says, as JSON")


def api_of(options: argparse.Namespace, environment: Environment, *, token: bool = False) -> Api:
    """The API that the arguments name. Raises :class:`BadInput`."""
    return Api(options.api, _token(options.token_file, environment) if token else None)


def _token(named: Path | None, environment: Environment) -> str | None:
    """The first line of the file; more of them are there only while the token is changed."""
    file = named or environment.get("PROXY_CACHE_TOKEN_FILE")
    if not file:
        return _checked("PROXY_CACHE_TOKEN", environment.get("PROXY_CACHE_TOKEN") or None)
    option = "--token-file" if named else "PROXY_CACHE_TOKEN_FILE"
    path = Path(file).expanduser()
    try:
        lines = path.read_text("ascii").split("\n")
    except OSError as error:
        raise BadInput(f"{option}: {path} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise BadInput(f"{option}: {path} has no token in it") from error
    token = next((line.strip() for line in lines if line.strip()), None)
    if token is None:
        raise BadInput(f"{option}: {path} is empty")
    return _checked(option, token)


def _checked(option: str, token: str | None) -> str | None:
    if token is not None and _TOKEN.fullmatch(token) is None:
        raise BadInput(f"{option}: a token has no spaces and no control characters in it")
    return token
