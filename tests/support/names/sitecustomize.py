"""For clients (by PYTHONPATH) and proxies (as a script before the cache): names below ``.test`` are this machine's, but
for those that begin with ``silent``, which no name server answers for as long as the file ``$ANSWERS`` is not there,
and with ``unknown``. One that begins with ``two`` has a further address before that, 127.0.0.2."""

import os
import socket
import time

_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host, *arguments, **more):  # type: ignore[no-untyped-def]
    name = host.decode() if isinstance(host, bytes) else host
    if isinstance(name, str) and name.endswith(".test"):
        if name.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if name.startswith("silent"):
            print("looking up", name, flush=True)
            while not os.path.exists(os.environ["ANSWERS"]):
                time.sleep(0.02)
        host = "127.0.0.1"
        if name.startswith("two"):
            return [*_getaddrinfo("127.0.0.2", *arguments, **more), *_getaddrinfo(host, *arguments, **more)]
    return _getaddrinfo(host, *arguments, **more)


socket.getaddrinfo = getaddrinfo
