"""A git server on loopback: git's own, for smart HTTP, and bundles as files beside it."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from .content import content
from .proxy import clean_environment
from .tools import need, run


class GitServer:
    """Serves ``/sample.git`` and ``/bundles/sample.bundle`` from a folder."""

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self._make()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def asked(self) -> list[str]:
        """Method and target of each request so far."""
        return list(self.requests)

    def _make(self) -> None:
        program = need("git")
        identity = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "init.defaultBranch=main"]

        def do(*arguments: str) -> None:
            done = run([program, *identity, *arguments], cwd=self.folder, GIT_CONFIG_GLOBAL="/dev/null")
            assert done.returncode == 0, done.stderr

        self.folder.mkdir()
        do("init", "-q", "work")
        (self.folder / "work" / "data.bin").write_bytes(content("git", 300_000))
        do("-C", "work", "add", ".")
        do("-C", "work", "commit", "-q", "-m", "First")
        do("-C", "work", "bundle", "create", "-q", "../sample.bundle", "main")
        do("clone", "-q", "--bare", "work", "sample.git")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self
        backend = Path(run([need("git"), "--exec-path"]).stdout.decode().strip()) / "git-http-backend"

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(f"{self.command} {self.path}")
                if self.path == "/bundles/sample.bundle":
                    body = (server.folder / "sample.bundle").read_bytes()
                    self.send_response(200)
                    self.send_header("Cache-Control", "max-age=86400")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                else:
                    self._by_git()

            do_POST = do_GET

            def _by_git(self) -> None:
                path, _, query = self.path.partition("?")
                environment = clean_environment(
                    GIT_PROJECT_ROOT=str(server.folder), GIT_HTTP_EXPORT_ALL="1", PATH_INFO=path, QUERY_STRING=query,
                    REQUEST_METHOD=self.command, CONTENT_TYPE=self.headers.get("Content-Type", ""),
                    HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""), REMOTE_ADDR="127.0.0.1",
                    GIT_PROTOCOL=self.headers.get("Git-Protocol", ""), HOME=os.devnull,
                )  # fmt: skip
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                done = subprocess.run([backend], input=sent, capture_output=True, env=environment, check=False)
                head, _, body = done.stdout.partition(b"\r\n\r\n")
                fields = [line.partition(": ") for line in head.decode("latin-1").split("\r\n")]
                status = next((value for name, _, value in fields if name == "Status"), "200")
                self.send_response(int(status[:3]))
                for name, _, value in fields:
                    if name and name != "Status":
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
