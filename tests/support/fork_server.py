"""Cheap starts of mitmdump: most of a start's CPU time is the import of mitmproxy and of ours, which one process can do
for all.

A server, one for each pytest process, imports them and forks a child for each mitmdump. The child runs the console
script's own entry point, which loads the scripts. If the first of them is not this checkout's ``addons/cache.py``, it
begins with nothing of ours: the script may be another checkout's, or change mitmproxy before ours looks at it. A child
has the environment, folder and output that it was asked for, no other descriptors, and no thread ever ran before it.
It is in the session and process group of the tests, as with ``subprocess``.

What differs from a process of its own: ``/proc/PID/cmdline`` is the server's; the seed of ``hash()``, what ours makes
while it is imported, and the key of the certificate authority (:meth:`ForkServer.give_certificates`), which is read
once, are the same for all; and variables that act while Python or a library starts have no
effect: with one of those, the program is executed (:func:`server_for`).

The server ends, with every child that still runs, when the other end of its socket closes: also if pytest is killed.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

PRELOADED = (
    "aiohttp.web", "cryptography.x509", "h11", "http_sf", "mitmproxy.addons", "mitmproxy.tools.cmdline",
    "mitmproxy.tools.dump", "mitmproxy.tools.main", "prometheus_client", "sqlite3", "ssl", "termios", "xxhash",
    "concurrent.futures.thread", "multiprocessing",
)  # fmt: skip
OURS = "proxy_cache"
SCRIPT = Path(__file__).resolve().parents[2] / "addons" / "cache.py"
"""That imports ours as it is preloaded."""

ACT_AT_START = (
    "PYTHON", "LD_", "MALLOC_", "GLIBC_", "LC_", "LANG", "TZ", "OPENSSL_", "SSLKEYLOGFILE", "MITMPROXY_", "AIOHTTP_",
)  # fmt: skip
"""Variables that Python, the C library or a module that is imported already has looked at in the server."""

AUTHORITY = "mitmproxy"
"""Where in the server's folder a certificate authority is,"""
BYTECODE = "bytecode"
"""and what was compiled: where Python may not write that next to the sources, each start would compile all of ours."""

MAX_REQUEST = 1 << 20
"""Bytes of arguments and environment."""
READY_TIMEOUT = 120.0
"""Seconds that the imports may take."""


def acting_at_start(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(ACT_AT_START)}


# -- the tests' side ----------------------------------------------------------------------------------------------


class ForkedProcess:
    """A child of the server, with what is used of ``subprocess.Popen``."""

    def __init__(self, args: Sequence[str], pid: int, status: int, stdout: IO[str] | None) -> None:
        self.args = list(args)
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = status
        """A pipe: the exit status comes through it when the process has ended."""
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # In short waits: another thread may be the one that gets the status.
            left = 0.1 if deadline is None else min(0.1, max(0.0, deadline - time.monotonic()))
            if (status := self._ended(left)) is not None:
                return status
            if deadline is not None and time.monotonic() >= deadline:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)

    def _ended(self, seconds: float) -> int | None:
        if self.returncode is not None:
            return self.returncode
        poll = select.poll()
        status = self._status
        if status >= 0:
            poll.register(status, select.POLLIN)
            if not poll.poll(seconds * 1000):
                return None
        with self._lock:
            if self.returncode is None:
                text = os.read(self._status, 32)
                os.close(self._status)
                self._status = -1
                # Nothing: the server has been killed, and the child by it or not at all.
                self.returncode = int(text) if text else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        # It may have been reaped a moment ago, before its status is here: no other process can have its id so soon.
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        if self._status >= 0:
            os.close(self._status)


class ForkServer:
    """The server as the tests know it. Started at the first use."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._at_start = acting_at_start(environment)
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
        self._folder = Path(tempfile.mkdtemp(prefix="fork-server-"))
        """The server's, which removes it."""
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), str(self._folder)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd="/",
            )
        self._control.settimeout(READY_TIMEOUT)
        if self._control.recv(16) != b"ready":
            raise OSError("the fork server did not start")

    def is_like(self, environment: dict[str, str]) -> bool:
        """Whether a child would have seen nothing else in it while it started."""
        return acting_at_start(environment) == self._at_start

    def give_certificates(self, confdir: Path) -> None:
        """Those of an authority that was made once, if it has none yet: no RSA key is made at the start then."""
        if not confdir.exists():
            shutil.copytree(self._folder / AUTHORITY, confdir)

    def start(self, command: Sequence[str], *, cwd: Path, env: dict[str, str], stdout: int) -> ForkedProcess:
        """Run a mitmdump. ``stdout`` is a descriptor, for stderr too, or ``subprocess.PIPE``."""
        read_end = -1
        if stdout == subprocess.PIPE:
            read_end, write_end = os.pipe()
        else:
            write_end = os.dup(stdout)
        status, theirs = os.pipe()
        try:
            request = json.dumps({"command": list(command), "cwd": str(cwd), "env": env}).encode()
            with self._lock:
                socket.send_fds(self._control, [request], [write_end, theirs])
                pid = int(self._control.recv(16))
        except BaseException:
            os.close(status)
            if read_end >= 0:
                os.close(read_end)
            raise
        finally:
            os.close(write_end)
            os.close(theirs)
        output = open(read_end, errors="replace") if read_end >= 0 else None  # noqa: SIM115
        return ForkedProcess(command, pid, status, output)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_server: ForkServer | None = None
_failed = False
_starting = threading.Lock()


def server_for(command: Sequence[str], environment: dict[str, str], usual: dict[str, str]) -> ForkServer | None:
    """The server, if it can start this command. Else the program has to be executed. ``usual``: its own environment, if
    it has to be started."""
    global _server, _failed
    if _failed or Path(command[0]).name != "mitmdump" or not hasattr(os, "fork") or not hasattr(os, "pidfd_open"):
        return None
    with _starting:
        if _server is None:
            try:
                os.close(os.pidfd_open(os.getpid()))
                _server = ForkServer(usual)
            except (OSError, ValueError):
                _failed = True
                return None
            atexit.register(_server.close)
    return _server if _server.is_like(environment) else None


def pid_of_server() -> int | None:
    """The process that forks, if there is one."""
    return _server.pid if _server is not None else None


# -- the server's side --------------------------------------------------------------------------------------------


class Asked:
    """What a child has to become."""

    def __init__(self, request: dict[str, Any], output: int) -> None:
        self.command: list[str] = request["command"]
        self.cwd: str = request["cwd"]
        self.env: dict[str, str] = request["env"]
        self.output = output


def serve(control: int) -> Asked | None:
    """Fork for as long as somebody may ask. Returns in each child, and in the server when it is to end."""
    # No object that would close a descriptor may be left in a child, whose numbers are given out anew.
    children: dict[int, tuple[int, int]] = {}  # by pidfd: the process's id, and where its status goes
    poll = select.poll()
    poll.register(control, select.POLLIN)
    connection = socket.socket(fileno=control)
    connection.send(b"ready")
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control:
                pid, status = children.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                _, ended = os.waitpid(pid, 0)
                try:
                    os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
                except BrokenPipeError:
                    pass  # nobody wants to know
                os.close(status)
                continue
            data, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST, 2)
            if not data:
                for pidfd in children:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return None
            output, status = descriptors
            if (pid := os.fork()) == 0:
                connection.detach()
                return Asked(json.loads(data), output)
            os.close(output)
            pidfd = os.pidfd_open(pid)
            children[pidfd] = (pid, status)
            poll.register(pidfd, select.POLLIN)
            connection.send(str(pid).encode())


def become(asked: Asked, folder: Path) -> None:
    """Leave nothing of the server in this process."""
    os.dup2(asked.output, 1)
    os.dup2(asked.output, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(asked.cwd)
    os.environ.clear()
    os.environ.update(asked.env)
    sys.argv[:] = asked.command
    Path("/proc/self/comm").write_text("mitmdump")
    if Path(next((value for option, value in pairwise(asked.command) if option == "-s"), "")).resolve() != SCRIPT:
        for name in [name for name in sys.modules if name.partition(".")[0] == OURS]:
            del sys.modules[name]
    if sys.dont_write_bytecode:
        sys.pycache_prefix = str(folder / BYTECODE)
        sys.dont_write_bytecode = False


def main() -> None:
    import gc
    import random

    control, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.set_inheritable(control, False)
    sys.path[0] = str(Path(sys.executable).parent)  # where the console script is: nothing of the tests
    # What a terminal sends to all of its processes is not for the server, which goes when pytest does. A child takes
    # them from the first moment on, as a program does that has just been executed.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGHUP])
    for name in PRELOADED:
        importlib.import_module(name)
    sys.path.insert(0, str(SCRIPT.parents[1]))
    importlib.import_module(f"{OURS}.mitm.addon")
    sys.path.remove(str(SCRIPT.parents[1]))
    assert threading.active_count() == 1
    from mitmproxy import certs, options

    certs.CertStore.create_store(folder / AUTHORITY, options.CONF_BASENAME, options.KEY_SIZE)
    # OpenSSL takes 50 ms to see whether an RSA key is sound, and a start reads the authority's three times.
    certs.load_pem_private_key = functools.lru_cache(maxsize=8)(certs.load_pem_private_key)
    certs.CertStore.from_store(folder / AUTHORITY, options.CONF_BASENAME, options.KEY_SIZE)
    gc.collect()
    gc.freeze()  # a child that collects would copy the pages of all these objects
    if (asked := serve(control)) is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    random.seed()
    become(asked, folder)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    from mitmproxy.tools.main import mitmdump

    sys.exit(mitmdump())


if __name__ == "__main__":
    main()
