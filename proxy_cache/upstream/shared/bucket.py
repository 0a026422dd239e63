"""The object store, by ``obstore``, which does its work in threads of its own.

Errors are told apart here: an object is missing, it has changed, or the store fails.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from ...semantics.texts import brief

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES: Final = ("s3", "gs", "az", "file")
PARAMETERS: Final = frozenset({"endpoint", "region"})
"""What may stand behind the ``?`` of a URL. Credentials may not: it is shown in logs and lists of processes."""
CHUNK: Final = 64 * 1024
"""Bytes of a body that are handed on at once, at least."""
MULTIPART: Final = 8 * 1024 * 1024
"""Bytes from which on an object is written in several parts, of this size or more."""
PARTS_MAX: Final = 9000
"""Parts of an upload. (S3 knows 10,000.)"""


class BadUrl(Exception):
    """Why ``cache_shared`` can't be used, in one line."""


class StoreFails(Exception):
    """The store can't be reached, is slow, or refuses."""


class Changed(Exception):
    """The object is another one now."""


class Exists(Exception):
    """There is such an object already."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An object, or a span of it, as it arrives."""

    chunks: AsyncIterator[bytes]
    tag: str | None
    """The store's own entity tag."""
    start: int
    stop: int
    """The bytes of the object that come."""


def check_url(url: str) -> None:
    """Whether it may be a store, without asking it. Raises :class:`BadUrl`."""
    try:
        parts = urlsplit(url)
        parameters = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise BadUrl(f"{url!r} is no URL: {error}") from error
    if parts.scheme not in SCHEMES:
        raise BadUrl(f"{url!r} is not s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder")
    if parts.username or parts.password or parts.fragment:
        raise BadUrl("the URL names the bucket and nothing else; credentials belong in the environment")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.strip("/"):
            raise BadUrl(f"{url!r} is not file:///folder")
    elif not parts.netloc:
        raise BadUrl(f"{url!r} names no bucket")
    for name, value in parameters:
        if name not in PARAMETERS or parts.scheme != "s3":
            raise BadUrl(f"a URL {parts.scheme}:// has no parameter {name!r}; settings belong in the environment")
        if name == "endpoint" and urlsplit(value).scheme not in ("http", "https"):
            raise BadUrl(f"endpoint: {value!r} is not http(s)://host:port")
    if importlib.util.find_spec("obstore") is None:
        raise BadUrl("needs the package obstore: pip install '.[shared]' in the project's folder")


class Bucket:
    """One bucket (or folder), below a prefix."""

    def __init__(self, url: str) -> None:
        """Raises :class:`BadUrl`. Nothing is asked of the store yet."""
        check_url(url)
        from obstore.exceptions import BaseError

        self.shown = url.partition("?")[0]
        self._errors: tuple[type[Exception], ...] = (BaseError, OSError, ValueError, RuntimeError)
        self._knows_create = True
        try:
            # Reading fails at once, and the origin is asked. Writing may take its time.
            self._reading = _opened(url, 0, "1s", "5s", "1day")
            self._writing = _opened(url, 2, "5s", "30s", "1hour")
        except self._errors as error:
            raise BadUrl(_shown(error)) from error

    async def open(self, name: str, start: int = 0, stop: int | None = None, tag: str | None = None) -> Opened | None:
        """The object from ``start`` to ``stop``, or to its end; ``None`` if it isn't there. ``tag``: only if it still
        has this one.

        Raises :class:`Changed` (also if it is too short), :class:`StoreFails`. A caller has to set a limit of time.
        """
        import obstore

        options: Any = {}
        if start or stop is not None:
            options["range"] = (start, stop) if stop is not None else {"offset": start}
        if tag is not None:
            options["if_match"] = tag
        try:
            result = await obstore.get_async(self._reading, name, options=options or None)
        except FileNotFoundError as error:
            if _is_about_bucket(error):
                raise StoreFails(_shown(error)) from error
            return None
        except self._errors as error:
            if _says(error, "PreconditionError", "status code: 412", "status code: 416", "range was invalid"):
                raise Changed(_shown(error)) from error
            raise StoreFails(_shown(error)) from error
        first, last = result.range
        return Opened(self._chunks(result), result.meta.get("e_tag"), first, last)

    async def _chunks(self, result: Any) -> AsyncIterator[bytes]:
        try:
            async for chunk in result.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)
        except self._errors as error:
            raise StoreFails(_shown(error)) from error

    async def warm_up(self) -> None:
        """Have credentials and a connection before the first request needs them: that may take longer than a request
        waits. Raises :class:`StoreFails`."""
        await self.open("start", 0, 1)

    async def create(self, name: str, data: bytes) -> None:
        """Write a short object, unless there is one. Raises :class:`Exists`, :class:`StoreFails`, and
        ``NotImplementedError`` if this store can't tell."""
        import obstore

        if not self._knows_create:
            raise NotImplementedError
        try:
            await obstore.put_async(self._writing, name, data, mode="create", use_multipart=False)
        except self._errors as error:
            # 409: somebody else is just writing it. 501: the store doesn't know If-None-Match.
            if _says(error, "AlreadyExistsError", "PreconditionError", "status code: 412", "status code: 409"):
                raise Exists from error
            if _says(error, "NotImplementedError", "NotSupportedError", "status code: 501"):
                self._knows_create = False
                raise NotImplementedError from error
            raise StoreFails(_shown(error)) from error

    async def replace(self, name: str, data: bytes) -> None:
        """Write a short object in place of any. Raises :class:`StoreFails`."""
        import obstore

        try:
            await obstore.put_async(self._writing, name, data, use_multipart=False)
        except self._errors as error:
            raise StoreFails(_shown(error)) from error

    async def upload(self, name: str, chunks: AsyncIterator[bytes], length: int) -> None:
        """Write a long object in parts, in place of any. It is there when all of it is. Raises :class:`StoreFails`, and
        ``OSError`` of ``chunks``."""
        import obstore

        size = max(MULTIPART, -(-length // PARTS_MAX))
        try:
            await obstore.put_async(self._writing, name, chunks, use_multipart=True, chunk_size=size, max_concurrency=3)
        except self._errors as error:
            raise StoreFails(_shown(error)) from error

    async def delete(self, name: str) -> None:
        """Idempotent. Raises :class:`StoreFails`."""
        import obstore

        try:
            await obstore.delete_async(self._writing, name)
        except FileNotFoundError:
            return
        except self._errors as error:
            raise StoreFails(_shown(error)) from error


def _opened(url: str, retries: int, connect: str, silence: str, most: str) -> ObjectStore:
    """``connect``, ``silence``, ``most``: limits of time for a connection, between two bytes, and for all of it."""
    from datetime import timedelta

    from obstore.store import LocalStore, from_url

    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(unquote(parts.path), mkdir=True)
    settings: dict[str, Any] = dict(parse_qsl(parts.query))
    client: Any = {"connect_timeout": connect, "read_timeout": silence, "timeout": most}
    if parts.scheme == "s3":
        endpoint = settings.get("endpoint") or next(
            (os.environ[name] for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
             if os.environ.get(name)), "",
        )  # fmt: skip
        if endpoint.startswith("http://"):
            client["allow_http"] = True  # whoever writes it so has decided that
        if os.environ.get("AWS_PROFILE") and not os.environ.get("AWS_ACCESS_KEY_ID"):
            settings["credential_provider"] = _profile()
    retry: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=20)}
    place = f"{parts.scheme}://{parts.netloc}{parts.path}"
    return from_url(place, client_options=client, retry_config=retry, **settings)


def _profile() -> Any:
    """obstore knows the environment and instance roles by itself, profiles by way of boto3."""
    if importlib.util.find_spec("boto3") is None:
        raise BadUrl("AWS_PROFILE needs the package boto3")
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()


def _is_about_bucket(error: Exception) -> bool:
    text = str(error)
    return any(word in text for word in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist"))


def _says(error: Exception, *words: str) -> bool:
    """Whether it is of one of these kinds, or its text has one of these words: it is there alone that obstore tells a
    status."""
    text = str(error).partition("\n")[0]
    return any(type(error).__name__ == word or word in text for word in words)


def _shown(error: Exception) -> str:
    return brief(str(error).partition("\n")[0] or type(error).__name__)
