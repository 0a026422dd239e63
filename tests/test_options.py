"""A mistake in the options stops mitmdump at start, with one line that says what is wrong."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_cache.preflight.checks import check
from proxy_cache.preflight.finding import FAULT
from tests.support.proxy import START_TIMEOUT, Proxy
from tests.support.tools import free_port


def refused(folder: Path, name: str, value: object, shown: str = "", **others: object) -> str:
    """Start with a bad option: the one line that names it, or what is ``shown`` instead."""
    proxy = Proxy(folder, **{name: value, **others})
    proxy.launch()
    try:
        status = proxy.wait(START_TIMEOUT)
    finally:
        proxy.close()
    text = proxy.text()
    assert status != 0, text
    assert "Traceback" not in text, text
    lines = [line for line in proxy.log if (shown or name) in line]
    assert len(lines) == 1, text
    assert len(lines[0]) < 400
    foretold = [one.subject for one in check(proxy.command()[1:]) if one.level == FAULT]
    assert foretold, "`proxy-cache check` finds nothing wrong with it"
    assert shown or name in foretold
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
        ("access_log_format", "xml"),
        ("access_log_file", "/nowhere/access.log"),
        ("access_log_file", "/dev/null"),
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
        ("ssl_verify_upstream_trusted_ca", "/nowhere/ca.pem"),
        ("ssl_verify_upstream_trusted_confdir", "/nowhere/certificates"),
        ("cache_hosts", "http://example.org/"),
        ("origin_max_in_flight", ""),
        ("origin_queue_timeout", "10s"),
        ("metrics_listen", "a..b:0"),
        ("fast_lane", "yes"),
        ("cache_ttl", "~d foo/1d"),
        ("cache_ttl", "!~d foo/force!30d"),
        ("cache_queue_timeout", "/~d foo"),
        ("cache_key_ignore_query", "/X-Amz-*"),
        ("cache_shared", "ftp://bucket/x"),
        ("cache_shared_write", "some"),
    ],
)
def test_a_bad_value(tmp_path: Path, name: str, value: str) -> None:
    line = refused(tmp_path, name, value)
    if value not in ("", "many", "yes"):
        assert value.lstrip("-") in line


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("running"), control=True) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_hosts", ""),
        ("cache_hosts", "packages.example:http"),
        ("cache_hosts", "packages.example:70000"),
        ("cache_hosts", "user@packages.example"),
        ("cache_hosts", ".example.com"),
        ("cache_hosts", "packages.example."),
        ("cache_hosts", "*.example.com.:8000"),
        ("cache_hosts", "[::1"),
        ("cache_hosts", "[::1]:70000"),
        ("cache_hosts", "[12345::1]"),
        ("origin_queue_timeout", "99999999999999"),
        ("origin_timeout", "99999999999999"),
        ("cache_max_size", ""),
        ("cache_max_size", "10 gigabytes"),
        ("cache_max_size", "5p"),
        ("cache_max_size", "9" * 30 + "t"),
        ("cache_memory", "-1"),
        ("cache_max_span", "0"),
        ("origin_min_pace", "10k/s"),
        ("spill_max", "50%"),
        ("metrics_listen", "127.0.0.1:"),
        ("metrics_listen", ":8082"),
        ("cache_ttl", "~d foo/1d"),
        ("cache_ttl", "30d"),
        ("cache_ttl", "/~d foo"),
        ("cache_ttl", "/~d foo/"),
        ("cache_ttl", "/~d foo/1 day"),
        ("cache_ttl", "/~d foo/-1"),
        ("cache_ttl", "/~d foo/30d/forced"),
        ("cache_ttl", "/~d foo/force"),
        ("cache_ttl", "/~d foo/force/30d"),
        ("cache_ttl", "/~u foo/force/30d"),
        ("cache_ttl", "/~d foo/force!30d"),
        ("cache_ttl", "!~d foo/force!30d"),
        ("cache_ttl", "!~u foo/force!30d"),
        ("cache_ttl", "|foo/force|30d"),
        ("cache_ttl", "/force!30d"),
        ("cache_ttl", "!/force!30d"),
        ("cache_ttl", "/~u foo/30d/1h"),
        ("cache_ttl", "//"),
        ("cache_ttl", "/~d foo &/30d"),
        ("cache_ttl", "/~d foo and ~u bar/30d"),
        ("cache_ttl", "/not ~d foo/30d"),
        ("cache_ttl", "/~d (/30d"),
        ("cache_ttl", "/~d [/30d"),
        ("cache_ttl", "/~zz foo/30d"),
        ("cache_ttl", "/~c abc/30d"),
        ("cache_ttl", "/~c 4/30d"),
        ("cache_ttl", "/~q/30d"),
        ("cache_ttl", "/~bs foo/30d"),
        ("cache_ttl", "|~d foo/bar|30d"),
        ("cache_ttl", "/~d foo.example:8080/30d"),
        ("cache_ttl", "/~d a|~d b/30d"),
        ("cache_ttl", "|~d a|~d b|1d"),
        ("cache_ttl", "/~d a&~c 404/1m"),
        ("cache_ttl", "/~d a & ~c 503/1m"),
        ("cache_ttl", "/~c 429 | ~c 404/1m"),
        ("cache_ttl", "/~c 206/1m"),
        ("cache_ttl", "/~c 404 & ~c 410/1m"),
        ("cache_ttl", "/~d a & ~m POST/1m"),
        ("cache_queue_timeout", "/~m HEAD/1m"),
        ("cache_queue_timeout", "~d foo/1m"),
        ("cache_queue_timeout", "/~d foo"),
        ("cache_queue_timeout", "/~d foo/1m/force"),
        ("cache_queue_timeout", "/~d foo/soon"),
        ("cache_queue_timeout", "/~c 404/1m"),
        ("cache_queue_timeout", "/~d foo & !~s/1m"),
        ("cache_queue_timeout", "10"),
        ("cache_ignore_request_directives", "~d ("),
        ("cache_ignore_request_directives", "~c 200"),
        ("cache_ignore_authorization", "~hs foo"),
        ("cache_ignore_authorization", "/~d foo/"),
        ("cache_ignore_authorization", "~d npm.example|~u /-/"),
        ("cache_ignore_authorization", "~m PUT"),
        ("cache_key_ignore_query", "~d foo/X-Amz-*"),
        ("cache_key_ignore_query", "/X-Amz-*"),
        ("cache_key_ignore_query", "/~d foo/"),
        ("cache_key_ignore_query", "/~d foo/*"),
        ("cache_key_ignore_query", "/~ts foo/X-Amz-*"),
        ("cache_key_ignore_query", "/~d foo/**"),
        ("cache_key_ignore_query", "/~d foo/X-Amz-Signature="),
        ("cache_key_ignore_query", "/~d foo/X-Amz-*;Expires"),
        ("cache_key_ignore_query", "/~d foo/X-Amz-*&Expires"),
        ("cache_key_ignore_query", "/~d foo/?X-Amz-Signature"),
    ],
)
def test_a_bad_value_while_it_runs(running: Proxy, name: str, value: str) -> None:
    """It is refused, with the same line, and what was set stays."""
    before = running.set_option(f"={name}")
    line = running.set_option(f"{name}={value}")
    assert line.startswith(f"OptionsError: {name}: "), line
    assert len(line) < 400
    if 1 < len(value) < 30:
        assert value in line or value[1:].rpartition(value[0])[0] in line, line
    assert running.set_option(f"={name}") == before


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("origin_max_inflight", "origin_max_in_flight"),
        ("cache_hots", "cache_hosts"),
        ("max_in_flight", "origin_max_in_flight"),
        ("queue_max", "origin_queue_max"),
        ("origin-max-in-flight", "origin_max_in_flight"),
        ("Access_Log", "access_log"),
        ("ttl", "cache_ttl"),
        ("listen_prot", "listen_port"),
        ("metrics", "metrics_listen"),
    ],
)
def test_a_name_that_is_nearly_one(tmp_path: Path, name: str, meant: str) -> None:
    """Or an origin would be without its limit, and nobody would know."""
    assert f"did you mean {meant}?" in refused(tmp_path, name, 1)


@pytest.mark.parametrize("name", ["nonsense", "cache_", "origin_of_species"])
def test_a_name_that_nobody_knows(tmp_path: Path, name: str) -> None:
    assert f"{name}: no such option" in refused(tmp_path, name, 1)


def test_a_name_that_another_script_knows(tmp_path: Path) -> None:
    """Also one that is loaded later."""
    script = tmp_path / "later.py"
    script.write_text("def load(loader):\n    loader.add_option('max_in_flight', int, 0, 'Something else.')\n")
    with Proxy(tmp_path, scripts=[script], max_in_flight=3):
        pass


def test_an_option_of_mitmweb_in_the_file_of_all_programs(tmp_path: Path) -> None:
    with configured(tmp_path, "web_port: 8081\nconsole_mouse: false\n"):
        pass


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("origin_max_in_flight", [3, 4]),
        ("cache_ttl", ["/~d foo/1d", "/~d foo/2d"]),
        ("cache_queue_timeout", ["/~d foo/1m", "/ ~d foo /1m"]),
        ("cache_key_ignore_query", ["/~d foo/X-*", "/~d foo/Y-*"]),
    ],
)
def test_what_is_said_twice(tmp_path: Path, name: str, values: list[object]) -> None:
    refused(tmp_path, name, values)


def test_a_taken_metrics_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused(tmp_path, "metrics_listen", address)
        assert address in line
        assert "--set metrics_listen=" in line


def test_a_taken_port(tmp_path: Path) -> None:
    """What is proposed is free, and not the port of our metrics (mitmproxy proposes 8082 for 8080)."""
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        line = refused(
            tmp_path, "metrics_listen", f"127.0.0.1:{port + 1}", shown="--listen-port",
            listen_port=port, mode=["regular", f"socks5@127.0.0.1:{port + 2}"],
        )  # fmt: skip
    assert f"127.0.0.1:{port}" in line
    proposed = re.search(r"--listen-port (\d+)$", line)
    assert proposed is not None
    assert int(proposed[1]) > port + 2


@pytest.mark.parametrize("what", ["a file", "no rights", "broken"])
def test_mitmproxys_folder_cannot_be_used(tmp_path: Path, what: str) -> None:
    """mitmproxy has a traceback for it. (What ``--set confdir`` names is used before our script is loaded.)"""
    home = tmp_path / "home"
    home.mkdir()
    folder = home / ".mitmproxy"
    if what == "a file":
        folder.write_text("")
    elif what == "no rights":
        folder.symlink_to("/proc/mitmproxy")
    else:
        folder.mkdir()
        (folder / "mitmproxy-ca.pem").write_text("no certificate")
    proxy = Proxy(tmp_path, environment={"HOME": str(home)})
    del proxy.options["confdir"]
    proxy.launch()
    try:
        assert proxy.wait(START_TIMEOUT) != 0
    finally:
        proxy.close()
    assert "Traceback" not in proxy.text(), proxy.text()
    lines = [line for line in proxy.log if "confdir" in line]
    assert len(lines) == 1, proxy.text()
    assert str(folder) in lines[0]


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
        assert "3.0 GiB" in line
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


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    """mitmproxy has it the other way round."""
    proxy = configured(tmp_path, "origin_max_in_flight: 5\norigin_queue_max: 7\ncache_hosts:\n- a.example\n")
    proxy.options |= {"origin_max_in_flight": 3, "cache_hosts": ["b.example", "c.example"]}
    with proxy:
        limiter = proxy.status()["limiter"]
        assert (limiter["max_in_flight"], limiter["queue_max"]) == (3, 7)


@pytest.mark.parametrize(
    "line",
    [
        "origin_max_in_flight: many",
        "origin_max_in_flight: true",
        "max_in_flight: 3",
        "cache_max_size: -5",
        "cache_max_size: 1.5",
        "cache_max_size: true",
        "cache_max_size: lots",
        "origin_max_inflight: 5",
    ],
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
