"""Analytical workers: DuckDB reads Parquet from an S3 API through the proxy, by signed requests for ranges."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import server_context
from tests.support.intercepted import ca_of
from tests.support.proxy import Proxy

INSTALL = "pip install -e '.[dev]' -c constraints.txt"
duckdb = pytest.importorskip("duckdb", reason=f"needs duckdb ({INSTALL})")
httpfs = pytest.importorskip("duckdb_extension_httpfs", reason=f"needs duckdb-extension-httpfs ({INSTALL})")
pytest.importorskip("moto.server", reason=f"needs moto[server,s3] ({INSTALL})")

BUCKET = "lake"


@dataclass
class Counted:
    """A WSGI application that keeps a record of what it is asked for."""

    application: Callable[..., Iterable[bytes]]
    gets: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        get = environ["REQUEST_METHOD"] == "GET"
        if get:
            self.gets.append((environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
        for chunk in self.application(environ, start_response):
            self.sent += len(chunk) if get else 0
            yield chunk

    def figures(self) -> tuple[int, int]:
        gets, sent = len(self.gets), self.sent
        self.gets, self.sent = [], 0
        return gets, sent


class S3:
    """A real S3 API on loopback, with one bucket."""

    def __init__(self, tls: ssl.SSLContext | None = None, ca: Path | None = None) -> None:
        """``ca``: of its certificate, if it has one."""
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.counted = Counted(DomainDispatcherApplication(create_backend_app))
        self.ca = ca
        self._server = make_server("127.0.0.1", 0, self.counted, threaded=True, ssl_context=tls)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> S3:
        self._thread.start()
        self.client.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()

    @property
    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3", endpoint_url=f"http{'s' if self.ca else ''}://{self.netloc}", region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret", config=Config(proxies={}), verify=str(self.ca),
        )  # fmt: skip


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, in_tls: bool, origin_certificate: Path) -> Iterator[S3]:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with S3(server_context(origin_certificate), origin_certificate) if in_tls else S3() as running:
        yield running


def query(s3: S3, sql: str, proxy: Proxy | None = None) -> tuple[Any, float]:
    """The answer of a DuckDB that has just been started, and the seconds it took."""
    extension = next(Path(httpfs.__path__[0]).rglob("httpfs.duckdb_extension"))
    with duckdb.connect() as database:
        database.execute(f"LOAD '{extension}'")
        if proxy is not None:
            database.execute(f"SET http_proxy = '{proxy.address[0]}:{proxy.address[1]}'")
        if s3.ca is not None:
            database.execute(f"SET ca_cert_file = '{s3.ca if proxy is None else ca_of(proxy)}'")
            database.execute("SET enable_server_cert_verification = true")
        database.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID 'key', SECRET 'secret', REGION 'us-east-1', ENDPOINT '{s3.netloc}', "
            f"URL_STYLE 'path', USE_SSL {s3.ca is not None})"
        )
        began = time.monotonic()
        return database.execute(sql).fetchall(), time.monotonic() - began


@pytest.mark.parametrize("in_tls", [False, True], ids=["plain", "tls"], indirect=True)
def test_parquet_over_s3(s3: S3, start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """A second run asks the origin for nothing; another query only for the blocks that it has not seen."""
    file = tmp_path / "events.parquet"
    duckdb.execute(
        f"COPY (SELECT i AS id, hash(i) AS a, hash(i + 1) AS b, (i % 1000)::VARCHAR AS c FROM range(1500000) t(i)) "
        f"TO '{file}' (FORMAT parquet, ROW_GROUP_SIZE 100000)"
    )
    s3.client.upload_file(str(file), BUCKET, "events.parquet")
    block = 256 * 1024
    proxy = start_proxy(
        cache_ttl="/~d 127.0.0.1/365d", cache_ignore_authorization="~d 127.0.0.1", cache_block_size=str(block)
    )
    half = f"SELECT sum(a % 7), count(*) FROM 's3://{BUCKET}/events.parquet' WHERE id < 700000"
    more = f"SELECT sum(a % 11), min(id) FROM 's3://{BUCKET}/events.parquet' WHERE id < 1400000"
    s3.counted.figures()

    direct, seconds = query(s3, half)
    lines = [("direct", *s3.counted.figures(), seconds)]
    for name in ("cold", "warm"):
        answer, seconds = query(s3, half, proxy)
        proxy.wait_until_idle()
        lines.append((name, *s3.counted.figures(), seconds))
        assert answer == direct
    assert lines[0][1] > 5, "DuckDB reads by ranges"
    assert lines[-1][1:3] == (0, 0)

    expected, _ = query(s3, more)
    s3.counted.figures()
    answer, seconds = query(s3, more, proxy)
    proxy.wait_until_idle()
    ranges = [tuple(map(int, one.removeprefix("bytes=").split("-"))) for _, one in s3.counted.gets]
    lines.append(("other query", *s3.counted.figures(), seconds))
    assert answer == expected
    size = file.stat().st_size
    assert ranges
    assert all((first % block == 0 and (last + 1) % block == 0) or last + 1 == size for first, last in ranges)
    entry = proxy.metrics().value("cache_size_bytes")
    assert lines[1][2] + lines[-1][2] <= size, "no byte was fetched twice"
    assert entry <= size + 2 * block
    assert query(s3, more, proxy)[0] == expected
    assert s3.counted.figures()[0] == 0
    print(f"\n{size} bytes of Parquet, blocks of {block}")
    for name, gets, sent, seconds in lines:
        print(f"{name:12} {gets:4} origin GETs {sent:10} bytes {seconds:6.3f} s")
