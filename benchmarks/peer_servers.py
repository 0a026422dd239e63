"""The contenders of ``peers.py``: how each is configured, started, looked at and ended.

All of them are set up alike: a cache on disk of at most ``CACHE_SIZE`` (in memory for Varnish and, without a limit, the
textbook addon), one worker, keep-alive on both sides, the access log as far as it is on by default, one core.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import ROOT, Server, clean_environment, free_port, mitmdump, pinned, to_loopback

CACHE_SIZE = 2 << 30
"""Bytes that each cache may take."""

NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log /dev/null;
    sendfile on;  # without tcp_nopush, which holds back the end of answers of 100 kB: a tenth of the requests/s
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/tmp;
    proxy_temp_path {folder}/tmp;
    fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp;
    scgi_temp_path {folder}/tmp;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=bench:64m max_size={megabytes}m inactive=1d use_temp_path=off;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} {tls} backlog=4096;
        {more}
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache bench;
        }}
    }}
}}
"""

SQUID = """
http_port 127.0.0.1:{port} {tls}
{more}
http_access allow all
{user}
visible_hostname cache.example.com
pid_filename {folder}/squid.pid
coredump_dir {folder}
cache_log {folder}/cache.log
access_log daemon:/dev/null squid
pinger_enable off
netdb_filename none
shutdown_lifetime 0 seconds
max_filedescriptors 16384
client_idle_pconn_timeout 10 minutes
maximum_object_size 2 GB
cache_dir aufs {folder}/cache {megabytes} 16 256
"""

VARNISH = """
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{origin}"; }}
# The clients differ in the Host they send; to Varnish that would make different objects.
sub vcl_recv {{ set req.http.Host = "127.0.0.1:{origin}"; }}
"""

TRAFFIC_SERVER = {
    "records.config": """
CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 1
CONFIG proxy.config.exec_thread.affinity INT 0
CONFIG proxy.config.url_remap.remap_required INT 0
CONFIG proxy.config.reverse_proxy.enabled INT 0
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 600
CONFIG proxy.config.cache.ram_cache.size INT 268435456
""",
    "storage.config": "{folder}/cache {megabytes}M\n",
    "ip_allow.yaml": "ip_allow: [{{apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}}]\n",
    "logging.yaml": """
logging:
  formats:
    - name: squid
      format: '%<cqtq> %<ttms> %<chi> %<crc>/%<pssc> %<psql> %<cqhm> %<cquc> %<caun> %<phr>/%<shn> %<psct>'
  logs: [{{filename: squid, format: squid, mode: binary}}]
""",
    "runroot.yaml": """
prefix: {folder}
exec_prefix: /usr
bindir: {programs}
sbindir: {programs}
sysconfdir: {folder}/etc
datadir: {folder}/cache
includedir: {folder}
libdir: {folder}
libexecdir: {folder}
localstatedir: {folder}/run
runtimedir: {folder}/run
logdir: {folder}/log
cachedir: {folder}/cache
""",
}


class Peer(Server):
    """A contender with all the processes it consists of."""

    def __init__(
        self,
        contender: Contender,
        command: Sequence[str],
        port: int,
        folder: Path,
    ) -> None:
        self.lag_file = folder / "loop_lag.json"
        self.lag_switch = folder / "loop_lag.on"
        """Exists while the contender is measured (see ``loop_lag.py``)."""
        environment = {"LOOP_LAG_FILE": str(self.lag_file), "LOOP_LAG_WHILE": str(self.lag_switch)}
        super().__init__(contender.name, command, port, environment)
        self.contender = contender

    def __exit__(self, *error: object) -> None:
        """Its helpers should end with it; those that don't are ended here."""
        processes = {pid: _started(pid) for pid in self.pids()}
        super().__exit__(*error)
        for pid, started in processes.items():
            # The number may belong to somebody else's process by now.
            if started is not None and _started(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def target(self, url: str) -> str:
        """What the request line says: a reverse proxy gets the path alone."""
        return re.sub("^http://[^/]+", "", url) if self.contender.reverse else url

    def pids(self) -> list[int]:
        """Its process and all that descend from it."""
        children: dict[int, list[int]] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and (fields := _stat(int(folder.name))):
                children.setdefault(int(fields[1]), []).append(int(folder.name))
        found = [self.process.pid]
        for pid in found:  # which grows meanwhile
            found += children.get(pid, [])
        return found

    def cpu_ticks(self) -> int:
        # Fields 14 to 17 of stat(5): its own time, and that of its ended children.
        return sum(sum(map(int, fields[11:15])) for pid in self.pids() if (fields := _stat(pid)))

    def memory(self) -> dict[str, float]:
        """``RssAnon`` and ``VmRSS`` in MB: what it allocated, and that with the files it has mapped."""
        total = {"RssAnon": 0.0, "VmRSS": 0.0}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in total:
                        total[name] += int(value.split()[0]) * 1024 / 1e6
        return total


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    title: str
    """In tables."""
    program: str
    reverse: bool
    """A reverse proxy, which gets requests in origin form. A forward proxy gets whole URLs."""
    version_option: str
    build: Callable[[Contender, Path, int, int], Sequence[str]]
    """The command, from its own folder, its port and the origin's."""

    def find(self) -> str | None:
        """The program's path."""
        return shutil.which(self.program)

    def version(self) -> str:
        """Version numbers, of mitmdump with that of its Python."""
        done = subprocess.run(
            [self.program, self.version_option], capture_output=True, text=True, env=clean_environment(), timeout=60
        )
        output = done.stdout + done.stderr
        if python := re.search(r"Mitmproxy: (\S+).*Python:\s+(\S+)", output, re.DOTALL):
            return f"{self.title}: mitmproxy {python[1]} on Python {python[2]}"
        number = re.search(r"\d+(\.\d+)+", output)
        return f"{self.title} {number[0] if number else '?'}"

    def server(self, folder: Path, origin_port: int, core: int | None) -> Peer:
        """Everything it writes goes below ``folder``, which need not exist."""
        folder.mkdir(parents=True)
        port = free_port()
        command = self.build(self, folder, port, origin_port)
        return Peer(self, pinned(core, command), port, folder)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> str | None:
    """When a process started, which tells it from a later one of the same number."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def nginx(contender: Contender, folder: Path, port: int, origin: int, *, tls: str = "", more: str = "") -> list[str]:
    """``tls``: further words of ``listen``; ``more``: further lines of its ``server``."""
    text = NGINX.format(folder=folder, port=port, origin=origin, megabytes=CACHE_SIZE >> 20, tls=tls, more=more)
    if os.geteuid() == 0:
        text = "user root;" + text
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    return [contender.program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]


def squid(contender: Contender, folder: Path, port: int, origin: int, *, tls: str = "", more: str = "") -> list[str]:
    """``tls``: further words of ``http_port``; ``more``: further lines."""
    user = ""
    if os.geteuid() == 0:
        # Squid refuses to run as root.
        account = next(entry for entry in pwd.getpwall() if entry.pw_name in ("proxy", "squid", "nobody"))
        user = f"cache_effective_user {account.pw_name}"
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)
    configuration = folder / "squid.conf"
    configuration.write_text(
        SQUID.format(folder=folder, port=port, user=user, megabytes=CACHE_SIZE >> 20, tls=tls, more=more)
    )
    command = [contender.program, "-N", "-n", f"bench{port}", "-f", str(configuration)]
    made = subprocess.run([*command, "-z"], capture_output=True, text=True, env=clean_environment())
    if made.returncode:
        raise SystemExit(f"squid could not make its cache folder:\n{made.stdout}{made.stderr}")
    return command


def _varnish(contender: Contender, folder: Path, port: int, origin: int) -> list[str]:
    vcl = folder / "bench.vcl"
    vcl.write_text(VARNISH.format(origin=origin))
    storage = f"malloc,{CACHE_SIZE >> 20}M"
    command = [contender.program, "-F", "-f", str(vcl), "-a", f"127.0.0.1:{port}", "-T", "none", "-s", storage]
    return [*command, "-n", str(folder / "work"), "-j", "none", "-p", "timeout_idle=600"]


def _traffic_server(contender: Contender, folder: Path, port: int, origin: int) -> list[str]:
    for name in ("etc", "run", "log", "cache"):
        (folder / name).mkdir()
    programs = Path(shutil.which(contender.program) or "").parent
    for name, text in TRAFFIC_SERVER.items():
        path = folder / name if name == "runroot.yaml" else folder / "etc" / name
        path.write_text(text.format(folder=folder, port=port, programs=programs, megabytes=CACHE_SIZE >> 20))
    return [contender.program, f"--run-root={folder / 'runroot.yaml'}"]


def _textbook(contender: Contender, folder: Path, port: int, origin: int) -> list[str]:
    script = ROOT / "benchmarks" / "textbook_addon.py"
    return [*mitmdump(port, folder / "conf", Path(contender.program)), "-s", str(script)]


def ours(name: str, title: str, python: Path, settings: Sequence[str]) -> Contender:
    """This proxy on another Python, with further ``--set`` arguments (``name=value``)."""

    def build(contender: Contender, folder: Path, port: int, origin: int) -> list[str]:
        scripts = ["-s", str(ROOT / "addons" / "cache.py"), "-s", str(ROOT / "benchmarks" / "loop_lag.py")]
        options = [f"cache_dir={folder / 'cache'}", f"cache_max_size={CACHE_SIZE}", "metrics_listen=127.0.0.1:0"]
        pairs = [argument for option in (*options, *settings) for argument in ("--set", option)]
        return [*mitmdump(port, folder / "conf", python), *scripts, *to_loopback(Path(scripts[1])), *pairs]

    return Contender(name, title, str(python.parent / "mitmdump"), False, "--version", build)


MITMDUMP = str(Path(sys.executable).parent / "mitmdump")
OTHERS = (
    Contender("nginx", "nginx", "nginx", True, "-v", nginx),
    Contender("squid", "Squid", "squid", False, "-v", squid),
    Contender("varnish", "Varnish", "varnishd", True, "-V", _varnish),
    Contender("ats", "Traffic Server", "traffic_server", False, "-V", _traffic_server),
    Contender("textbook", "textbook addon", MITMDUMP, False, "--version", _textbook),
)
