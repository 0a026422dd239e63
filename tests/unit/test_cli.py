"""The command ``proxy-cache`` where the proxy can't be reached, refuses, or isn't one; and what is wrong with its
arguments. What it does with a proxy that answers is in ``tests/test_cli.py``."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from proxy_cache.cli.main import COMMANDS, main
from tests.support.command import ProxyCache
from tests.support.origin import bind_new_port

TOKEN = "a-token-for-tests-of-the-command"
PROBLEM = "application/problem+json"


class Stub(BaseHTTPRequestHandler):
    """Answers everything with what the test says."""

    answer: tuple[int, str, bytes] = (200, "application/json", b"{}")
    seen: list[tuple[str, str, str | None, bytes]]

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.seen.append((self.command, self.path, self.headers.get("Authorization"), self.rfile.read(length)))
        status, kind, body = self.answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


class Service:
    def __init__(self) -> None:
        self.handler = type("Handler", (Stub,), {"seen": []})
        self._server = HTTPServer(("127.0.0.1", 0), self.handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answers(self, status: int, kind: str, body: bytes) -> None:
        self.handler.answer = status, kind, body

    @property
    def seen(self) -> list[tuple[str, str, str | None, bytes]]:
        return self.handler.seen

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: str, **environment: str) -> tuple[int, str, str]:
    try:
        status = main(arguments, environment)
    except SystemExit as error:
        status = int(str(error.code))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


ALL = [
    ["status"], ["top"], ["explain", "http://a/"], ["ls"], ["find", "*"], ["purge", "--all"], ["warm", "http://a/"],
    ["verify"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", ALL, ids=lambda arguments: arguments[0])
def test_nothing_listens_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with bind_new_port() as nobody:
        api = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        status, out, err = run(capsys, *arguments, "--api", api)
    assert (status, out) == (2, "")
    assert err.startswith(f"proxy-cache {arguments[0]}: no proxy at {api}: ")
    assert "--api" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", ALL, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, PROBLEM, b'{"title":"Forbidden","status":403,"detail":"turn it on"}'), "403: turn it on"),
        ((401, PROBLEM, b'{"title":"Unauthorized","status":401}'), "401: Unauthorized (--token-file"),
        ((404, "text/html", b"<html>nginx</html>"), "answers 404, but not as the API of proxy-cache does"),
        ((200, "text/html", b"<html>hello</html>"), "answers, but not as the API of proxy-cache does"),
        ((200, "application/json", b"not json"), "not as the API of proxy-cache does"),
        ((500, "application/json", b"[]"), "answers 500, but not as the API"),
        ((403, PROBLEM, b'{"detail":"\\u001b[31mred\\u202e"}'), "403: \\x1b[31mred\\u202e"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(
    arguments: list[str], answer: tuple[int, str, bytes], said: str, service: Service,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    service.answers(*answer)
    status, out, err = run(capsys, *arguments, "--api", service.url)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_something_that_does_not_speak_http(capsys: pytest.CaptureFixture[str]) -> None:
    with bind_new_port() as server:
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=serve, daemon=True).start()
        status, _, err = run(capsys, "status", "--api", f"127.0.0.1:{server.getsockname()[1]}")
    assert status == 2
    assert "does not speak HTTP" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--api", "ftp://a"], "--api: has to be http://HOST:PORT"),
        (["status", "--api", "http://user:secret@a"], "no user and no password"),
        (["status", "--api", "http://a:port"], "--api: has to be"),
        (["status", "--api", "http://a b"], "--api: has to be"),
        (["purge"], "one of URL, --host, --match, --tag and --all is needed"),
        (["purge", "http://a/", "--all"], "no two of them"),
        (["purge", "--all", "--token-file", "/nowhere"], "--token-file: /nowhere cannot be read"),
        (["explain", "http://a/", "-H", "no colon"], "--header: 'no colon' is not 'NAME: VALUE'"),
        (["top", "-i", "0"], "--interval"),
        (["top", "-n", "0"], "--count"),
        (["ls", "-n", "-1"], "--limit"),
        (["warm", "/nowhere/urls.txt"], "/nowhere/urls.txt: No such file"),
        (["status", "--bogus"], "unrecognized arguments: --bogus"),
        (["bogus"], "invalid choice"),
    ],
)
def test_bad_input_names_the_option(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert "secret" not in err


def test_files_of_urls_are_checked_before_anything_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "urls"
    file.write_text("# a remark\n\nhttp://a/\npackages.example/x\n")
    assert "line 4: 'packages.example/x' is no http:// or https:// URL" in run(capsys, "warm", str(file))[2]
    file.write_text("# nothing\n")
    assert "no URL" in run(capsys, "warm", str(file))[2]


def test_the_token_goes_with_changes_alone(
    tmp_path: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(f"\n{TOKEN}\nthe-one-before\n")
    service.answers(200, "application/json", b'{"purged": 1, "bytes": 10, "fills": 0}')
    for environment in ({"PROXY_CACHE_TOKEN_FILE": str(file)}, {"PROXY_CACHE_TOKEN": TOKEN}):
        assert run(capsys, "purge", "--host", "a", "--soft", "--api", service.url, **environment)[0] == 0
    service.answers(200, "application/json", b"{}")
    assert run(capsys, "status", "--api", service.url, PROXY_CACHE_TOKEN=TOKEN)[0] == 0
    assert [one[:3] for one in service.seen] == [
        ("POST", "/api/v1/purge", f"Bearer {TOKEN}"),
        ("POST", "/api/v1/purge", f"Bearer {TOKEN}"),
        ("GET", "/api/v1/status", None),
    ]
    assert json.loads(service.seen[0][3]) == {"host": "a", "soft": True}
    assert "no spaces" in run(capsys, "purge", "--all", PROXY_CACHE_TOKEN="a\r\nX: b")[2]


def test_an_answer_that_breaks_off_is_no_success(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.answers(200, "application/x-ndjson", b'{"checked": 5, "total": 10, "bytes": 1}\n')
    assert "broke off" in run(capsys, "verify", "--api", service.url)[2]
    service.answers(200, "application/x-ndjson", b'{"url": "http://a/", "outcome": "hit"}\n')
    assert "ended after 1 of 2" in run(capsys, "warm", "http://a/", "http://b/", "--api", service.url)[2]


@pytest.mark.parametrize("command", ["status", "top"])
def test_a_coalesced_answer_is_a_miss_once(command: str, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the metrics, where ``misses_total`` has it: the hit ratio is that of the status page and of the alerts."""
    totals = {"hits": 8, "misses": 2, "coalesced": 1}
    service.answers(200, "application/json", json.dumps({"uptime_seconds": 5.0, "totals": totals}).encode())
    status, out, _ = run(capsys, command, "--api", service.url)
    assert status == 0
    assert "80.0 %" in out
    if command == "top":
        assert "2.0/s" in out


def test_what_a_proxy_names_does_nothing_to_a_terminal(service: Service) -> None:
    """Neither by escape sequences nor by Rich's markup."""
    url = "http://a/\x1b]0;owned\x07\x9b2J[bold]x[/bold]\u202e"
    entry = {"url": url, "status": 200, "size_bytes": 1, "age_seconds": 1, "hits": 0, "state": "fresh\x1b[5m"}
    service.answers(200, "application/json", json.dumps({"entries": [entry], "next": None}).encode())
    command = ProxyCache(service.url)
    for done in (
        command("ls"),
        command.on_terminal("ls"),
        command.on_terminal("ls", "--urls"),
        command("ls", "--json"),
    ):
        assert done.status == 0, done.err
        assert "\x1b]0;" not in done.out
        assert not {"\x07", "\x9b", "\u202e"} & set(done.out)
        assert "\x1b[5m" not in done.out
        assert "[bold]x[/bold]" in done.out


def test_colours_are_for_terminals_that_want_them(service: Service) -> None:
    entry = {"url": "http://a/", "status": 200, "size_bytes": 1, "age_seconds": 1, "hits": 0, "state": "fresh"}
    service.answers(200, "application/json", json.dumps({"entries": [entry], "next": None}).encode())
    command = ProxyCache(service.url)
    assert "\x1b[32m" in command.on_terminal("ls").out
    assert "\x1b[32m" not in command.on_terminal("ls", NO_COLOR="1").out
    assert "\x1b" not in command.on_terminal("ls", TERM="dumb").out
    assert "\x1b" not in command("ls").out


def test_a_pipe_that_closes_early_is_no_error(service: Service) -> None:
    entries = [{"url": f"http://a/{number}"} for number in range(5000)]
    service.answers(200, "application/json", json.dumps({"entries": entries, "next": None}).encode())
    command = ProxyCache(service.url)
    shell = f"set -o pipefail; {' '.join(command.command('ls', '-1', '-n', '0'))} | head -n 1"
    done = subprocess.run(["bash", "-c", shell], env=command.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "http://a/0\n", "")


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for command in COMMANDS:
        assert command.help in " ".join(out.split())
        if not command.has_help:
            continue  # what it starts has a help of its own
        status, own, _ = run(capsys, command.name, "--help")
        assert status == 0
        assert own.startswith(f"usage: proxy-cache {command.name}")
