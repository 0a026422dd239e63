"""The contenders of ``tls.py``, each with TLS towards its clients: nginx as a server of its own, the others as proxies
that intercept a CONNECT. And an origin that has TLS.

All are set up as they are for ``peers.py``, and offer what their programs do by themselves: versions, ciphers, session
tickets. nginx and Squid get keys on P-256, which is what this proxy makes; mitmproxy's own certificates are RSA.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from peer_servers import MITMDUMP, Contender, nginx, squid
from processes import ROOT, Origin, clean_environment, free_port, mitmdump, to_loopback

NAME = "localhost"
"""What clients ask for, and what certificates are for."""

NGINX_TLS = """
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:tls:10m;
"""
SQUID_TLS = "ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=16MB tls-cert={pem}"
SQUID_MORE = """
sslcrtd_program {helpers}/security_file_certgen -s {folder}/certificates -M 4MB
sslcrtd_children 1
logfile_daemon {helpers}/log_file_daemon
ssl_bump bump all
tls_outgoing_options flags=DONT_VERIFY_PEER
sslproxy_cert_error allow all
"""


def certificate(path: Path) -> Path:
    """A key on P-256 and a certificate that is its own CA, for both kinds of use."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class TlsOrigin(Origin):
    """The origin of the other benchmarks, with TLS on a second port."""

    def __init__(self, folder: Path, core: int | None) -> None:
        super().__init__(folder, core)
        self.tls_port = free_port()
        configuration = folder / "nginx.conf"
        listen = f"listen 127.0.0.1:{self.port} backlog=4096;"
        tls = NGINX_TLS.format(pem=certificate(folder / "tls.pem"))
        text = configuration.read_text()
        configuration.write_text(text.replace(listen, f"{listen} listen 127.0.0.1:{self.tls_port} ssl; {tls}"))

    @property
    def authority(self) -> str:
        return f"{NAME}:{self.tls_port}"


def nginx_with_tls(contender: Contender, folder: Path, port: int, origin: int) -> list[str]:
    more = NGINX_TLS.format(pem=certificate(folder / "tls.pem"))
    return nginx(contender, folder, port, origin, tls="ssl", more=more)


def squid_with_tls(contender: Contender, folder: Path, port: int, origin: int) -> list[str]:
    helpers = Path(contender.program).resolve().parents[1] / "lib" / "squid"
    made = subprocess.run(
        [helpers / "security_file_certgen", "-c", "-s", folder / "certificates", "-M", "4MB"],
        capture_output=True, text=True, env=clean_environment(),
    )  # fmt: skip
    if made.returncode:
        raise SystemExit(f"squid could not make its store of certificates:\n{made.stdout}{made.stderr}")
    return squid(
        contender, folder, port, origin,
        tls=SQUID_TLS.format(pem=certificate(folder / "tls.pem")),
        more=SQUID_MORE.format(folder=folder, helpers=helpers),
    )  # fmt: skip


def ours(name: str, title: str, root: Path, settings: Sequence[str]) -> Contender:
    """This proxy out of a checkout, with further ``--set`` arguments (``name=value``)."""

    def build(contender: Contender, folder: Path, port: int, origin: int) -> list[str]:
        script = root / "addons" / "cache.py"
        options = [f"cache_dir={folder / 'cache'}", "metrics_listen=127.0.0.1:0", "ssl_insecure=true", *settings]
        pairs = [argument for option in options for argument in ("--set", option)]
        command = mitmdump(port, folder / "conf", Path(sys.executable))
        return [*command, "-s", str(script), *to_loopback(script), *pairs]

    return Contender(name, title, MITMDUMP, False, "--version", build)


def _textbook(contender: Contender, folder: Path, port: int, origin: int) -> list[str]:
    script = ROOT / "benchmarks" / "textbook_addon.py"
    return [*mitmdump(port, folder / "conf", Path(contender.program)), "-s", str(script), "--set", "ssl_insecure=true"]


INTERCEPTS = f"intercept_hosts={NAME}"


def contenders(squid_program: str, settings: Sequence[str] = ()) -> list[Contender]:
    """``settings``: further options of this checkout (``name=value``)."""
    return [
        ours("ours", "this proxy", ROOT, [INTERCEPTS, *settings]),
        Contender("nginx", "nginx", "nginx", True, "-v", nginx_with_tls),
        Contender("squid", "Squid", squid_program, False, "-v", squid_with_tls),
        Contender("textbook", "mitmproxy, textbook addon", MITMDUMP, False, "--version", _textbook),
    ]


def can_intercept(contender: Contender) -> str:
    """What is missing; nothing, if it is empty."""
    if not contender.find():
        return f"{Path(contender.program).name} not found"
    if contender.name == "squid":
        helper = Path(contender.find() or "").resolve().parents[1] / "lib" / "squid" / "security_file_certgen"
        if not os.access(helper, os.X_OK):
            return "it is built without OpenSSL (Debian: squid-openssl; --squid PROGRAM names another one)"
    return ""
