"""``proxy-cache env``: exports with which build tools use the proxy and trust its CA."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .certificates import as_java_store, as_pem, proxy_ca, system_store, write
from .command import OK, BadInput, Command, Environment
from .variables import NO_PROXY, SHELLS, Files, ProxyUrl, printed, variables

_DESCRIPTION = """\
Print the variables with which build tools use the proxy and trust its CA, and write the bundle that they name: the
system's certificates and the proxy's CA. What each tool needs is told in docs/https.md.

  sh      eval "$(proxy-cache env --proxy http://proxy.example:8080)"
  fish    proxy-cache env --shell fish | source
  github  proxy-cache env --shell github >> "$GITHUB_ENV"
  docker  proxy-cache env --shell docker > proxy.env
          docker run --env-file proxy.env -v FOLDER:FOLDER:ro ...   (FOLDER: of the bundle)
"""


def _add_arguments(parser: argparse.ArgumentParser, environment: Environment) -> None:
    data = environment.get("XDG_DATA_HOME") or "~/.local/share"
    parser.add_argument("--shell", choices=SHELLS, default="sh", help="who is to read it (default: %(default)s)")
    parser.add_argument(
        "--proxy", metavar="URL", default="http://127.0.0.1:8080",
        help="where clients find the proxy, http://[USER:PASSWORD@]HOST:PORT (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-proxy", metavar="HOSTS", default=None,
        help=f"what is asked without the proxy (default: NO_PROXY as it is, else {NO_PROXY})",
    )  # fmt: skip
    parser.add_argument(
        "--confdir", metavar="FOLDER", type=Path, default=Path("~/.mitmproxy"),
        help="mitmproxy's folder, for its CA (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ca", metavar="FILE", type=Path, help="the proxy's CA, where its folder is on another machine"
    )
    parser.add_argument(
        "--system", metavar="FILE", type=Path,
        help="the system's certificates (default: SSL_CERT_FILE, or where the system has them)",
    )  # fmt: skip
    parser.add_argument(
        "--bundle", metavar="FILE", type=Path, default=Path(data, "proxy-cache", "ca-bundle.pem"),
        help="where the bundle goes; the CA alone (.ca.pem) and Java's form of it (.jks) go beside it "
        "(default: %(default)s)",
    )  # fmt: skip


def _run(options: argparse.Namespace, environment: Environment) -> int:
    proxy = ProxyUrl.of(options.proxy)
    no_proxy = options.no_proxy
    if no_proxy is None:
        no_proxy = environment.get("no_proxy") or environment.get("NO_PROXY") or NO_PROXY
    bundle = options.bundle.expanduser().absolute()
    if bundle.is_dir():
        raise BadInput(f"--bundle: {bundle} is a folder; name a file")
    files = Files(bundle, bundle.with_suffix(".ca.pem"), bundle.with_suffix(".jks"))
    if bundle == files.java:
        raise BadInput("--bundle: the bundle is PEM (.pem, .crt), and Java's form of it goes beside it (.jks)")
    authority = proxy_ca(options.confdir.expanduser(), options.ca)
    source, system = system_store(options.system, environment, bundle)
    text = printed(options.shell, variables(proxy, no_proxy, files, {} if options.shell == "docker" else environment))
    together = list(dict.fromkeys([*system, *authority]))
    write("--bundle", files.bundle, as_pem(together).encode())
    write("--bundle", files.authority, as_pem(authority).encode())
    write("--bundle", files.java, as_java_store(together))
    print(f"proxy-cache env: wrote {bundle} ({len(together)} certificates, from {source})", file=sys.stderr)
    sys.stdout.write(text)
    return OK


COMMAND = Command(
    "env", "print the variables of build tools, and write a bundle of certificates", _add_arguments, _run, _DESCRIPTION
)
