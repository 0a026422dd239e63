"""A mistake in the options stops mitmdump at start, with one line that says what is wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.proxy import START_TIMEOUT, Proxy


def refused(folder: Path, name: str, value: object, **others: object) -> str:
    """Start with a bad option: the one line that names it."""
    proxy = Proxy(folder, **{name: value, **others})
    proxy.launch()
    try:
        status = proxy.wait(START_TIMEOUT)
    finally:
        proxy.close()
    text = proxy.text()
    assert status != 0, text
    assert "Traceback" not in text, text
    lines = [line for line in proxy.log if name in line]
    assert len(lines) == 1, text
    assert len(lines[0]) < 400
    return lines[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("origin_max_in_flight", "-1"),
        ("origin_max_in_flight", "many"),
        ("origin_max_in_flight_per_host", "-2"),
        ("origin_queue_max", "-1"),
        ("origin_queue_timeout", "-3"),
        ("origin_timeout", "0"),
        ("origin_retries", "-1"),
        ("log_redact", "("),
        ("log_redact", "a*"),
        ("cache_max_size", "foo"),
        ("cache_max_size", "0"),
        ("cache_max_size", "120%"),
        ("cache_max_size", "-5g"),
        ("cache_max_object_size", "0"),
        ("cache_max_object_size", "120%"),
        ("cache_max_object_size", "lots"),
        ("cache_min_free", "some"),
        ("cache_memory", "abc"),
        ("cache_memory", "50%"),
        ("cache_dir", ""),
        ("cache_dir", "~nobody-of-this-name/cache"),
        ("cache_credential_fields", "name:"),
        ("head_max_size", "100"),
        ("head_max_size", "2m"),
        ("head_max_size", "50%"),
        ("head_max_line", "10"),
        ("head_max_fields", "0"),
        ("head_max_fields", "20000"),
        ("metrics_listen", "8082"),
        ("metrics_listen", "127.0.0.1:99999"),
        ("metrics_listen", "127.0.0.1:http"),
        ("shutdown_grace", "-1"),
        ("cache_hosts", "http://example.org/"),
    ],
)
def test_a_bad_value(tmp_path: Path, name: str, value: str) -> None:
    line = refused(tmp_path, name, value)
    if value not in ("", "many"):
        assert value.lstrip("-") in line


@pytest.mark.parametrize(
    ("name", "meant"), [("origin_max_inflight", "origin_max_in_flight"), ("cache_hots", "cache_hosts")]
)
def test_a_name_that_is_nearly_one(tmp_path: Path, name: str, meant: str) -> None:
    """Or an origin would be without its limit, and nobody would know."""
    assert f"did you mean {meant}?" in refused(tmp_path, name, 1)


def test_a_taken_metrics_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in refused(tmp_path, "metrics_listen", address)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    assert str(file) in refused(tmp_path, "cache_dir", file / "cache")
    assert file.read_text() == "no folder"


def test_a_folder_on_a_read_only_file_system(tmp_path: Path) -> None:
    assert "/proc/" in refused(tmp_path, "cache_dir", "/proc/proxy-cache")


@pytest.mark.parametrize("value", ["20g", "500m", "1048576", "1.5G", "80%", "100k"])
def test_sizes_that_are_understood(tmp_path: Path, value: str) -> None:
    with Proxy(tmp_path, cache_max_size=value) as proxy:
        capacity = proxy.value("cache_capacity_bytes")
        expected = {"20g": 20 << 30, "500m": 500 << 20, "1048576": 1 << 20, "1.5G": 3 << 29, "100k": 100 << 10}
        if value in expected:
            assert capacity == expected[value]
        else:
            assert capacity > 0


def test_the_start_says_what_is_on(tmp_path: Path) -> None:
    """One line: cache folder and limit, origin limit, metrics address."""
    with Proxy(tmp_path, cache_max_size="3g", origin_max_in_flight=8) as proxy:
        line = next(line for line in proxy.log if "/metrics" in line)
        assert str(proxy.cache_dir) in line
        assert "3.0 GB" in line
        assert "8" in line


def test_defaults(tmp_path: Path) -> None:
    wanted = {
        "origin_max_in_flight": 0,
        "origin_max_in_flight_per_host": 0,
        "origin_queue_max": 1024,
        "origin_queue_timeout": 10,
        "origin_retries": 3,
        "origin_serve_stale_on_overload": False,
        "cache_dir": "~/.cache/proxy-cache",
        "cache_max_size": "80%",
        "cache_min_free": "5%",
        "cache_hosts": [],
        "head_max_size": "64k",
        "head_max_line": "16k",
        "head_max_fields": 256,
        "metrics_listen": "127.0.0.1:8082",
        "shutdown_grace": 10,
    }
    with Proxy(tmp_path, control=True) as proxy:
        assert {name: proxy.default_of(name) for name in wanted} == wanted


def configured(folder: Path, text: str) -> Proxy:
    """A proxy with a config.yaml."""
    (folder / "mitmproxy").mkdir()
    (folder / "mitmproxy" / "config.yaml").write_text(text)
    return Proxy(folder)


def test_options_in_mitmproxys_file(tmp_path: Path) -> None:
    text = "origin_max_in_flight: 5\ncache_hosts:\n- packages.example\naccess_log: false\ncache_max_size: 1g\n"
    with configured(tmp_path, text) as proxy:
        assert proxy.status()["limiter"]["max_in_flight"] == 5


@pytest.mark.parametrize(
    "line", ["origin_max_in_flight: many", "cache_max_size: 5", "cache_max_size: lots", "origin_max_inflight: 5"]
)
def test_a_bad_one_in_mitmproxys_file(tmp_path: Path, line: str) -> None:
    proxy = configured(tmp_path, f"{line}\n")
    proxy.launch()
    try:
        assert proxy.wait(START_TIMEOUT) != 0
    finally:
        proxy.close()
    assert "Traceback" not in proxy.text()
    assert sum(line.partition(":")[0] in logged for logged in proxy.log) == 1, proxy.text()
