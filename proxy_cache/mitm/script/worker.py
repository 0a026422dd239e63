"""What the parent starts for each worker (``proxy-cache run --workers``): mitmdump, in a process that shares its port.
That has to be known before mitmdump listens, which may be before it loads a script."""

import os
import signal
import sys

from proxy_cache.runtime import hangup

hangup.catch()  # before what follows, which takes a while
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])  # the parent has blocked it until now

from proxy_cache.workers.one_port import share_ports  # noqa: E402
from proxy_cache.workers.role import take_role  # noqa: E402

if __name__ == "__main__":
    role, _ = take_role(os.environ)
    share_ports(is_first=role.is_first)
    from mitmproxy.tools.main import mitmdump

    sys.argv[0] = "mitmdump"
    if role.listen_port:
        sys.argv += ["--listen-port", str(role.listen_port)]
    sys.exit(mitmdump())
