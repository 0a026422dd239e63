"""An S3 API on loopback with one bucket, which can be stopped, fall silent, and be tampered with."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Self

BUCKET = "shared"
SAFETY = 120.0
"""Seconds after which a silent store answers all the same, so that no thread is left."""


class Bucket:
    """moto's server, with a record of what was asked."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self.application = DomainDispatcherApplication(create_backend_app)
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and Range of each, without those of :attr:`client`."""
        self.talks = threading.Event()
        """Cleared, requests wait for it."""
        self.talks.set()
        self.waiting = threading.Semaphore(0)
        """Released for each request that waits."""
        self.status = ""
        """In place of an answer."""
        self.silent_at = 0
        """After so many bytes of an object nothing follows; 0: all of it does."""
        self.refuses_conditions = False
        """Whether it says 501 to If-None-Match."""
        self._released = threading.Event()
        self._port = 0
        self._server: Any = None

    def __enter__(self) -> Self:
        self.start()
        self.client.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(self, *_: object) -> None:
        self.talks.set()
        self._released.set()
        for name in self.names():
            self.client.delete_object(Bucket=BUCKET, Key=name)
        self.client.delete_bucket(Bucket=BUCKET)
        self.stop()

    def start(self) -> None:
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", self._port, self, threaded=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """It refuses connections until :meth:`start`."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "test" in environ.get("HTTP_USER_AGENT", ""):
            return self.application(environ, start_response)
        if environ["PATH_INFO"].endswith("/start"):  # the first look of a proxy
            return self.application(environ, start_response)
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
        if not self.talks.is_set():
            self.waiting.release()
            self.talks.wait(SAFETY)
        if self.status or (self.refuses_conditions and "HTTP_IF_NONE_MATCH" in environ):
            start_response(self.status or "501 Not Implemented", [("Content-Length", "0")])
            return [b""]
        answer = self.application(environ, start_response)
        return self._in_part(answer) if self.silent_at and environ["REQUEST_METHOD"] == "GET" else answer

    def _in_part(self, answer: Iterable[bytes]) -> Iterable[bytes]:
        data = b"".join(answer)
        yield data[: self.silent_at]
        if len(data) > self.silent_at:
            self._released.wait(SAFETY)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """For a proxy."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def asked(self, method: str) -> int:
        return sum(one[0] == method for one in self.requests)

    # -- as somebody who tampers with it --------------------------------------------------------------------------

    @cached_property
    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="key",
            aws_secret_access_key="secret", config=Config(proxies={}, user_agent="test"),
        )  # fmt: skip

    def names(self) -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def read(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def tag(self, name: str) -> tuple[str, object]:
        """Its entity tag, and when it was written."""
        found = self.client.head_object(Bucket=BUCKET, Key=name)
        return found["ETag"], found["LastModified"]

    def write(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data)

    def flip(self, name: str, at: int) -> None:
        """Change a byte; a negative position counts from the end."""
        data = bytearray(self.read(name))
        data[at] ^= 1
        self.write(name, bytes(data))
