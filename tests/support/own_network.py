"""Tests that need a network of their own: a loopback where port 53 is free, with addresses that no other test has, and
the system's resolver pointed to it. Nothing outside of the test changes."""

from __future__ import annotations

import fcntl
import functools
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from .proxy import ROOT
from .tools import need, run

INSIDE: Final = "IN_A_NETWORK_OF_ITS_OWN"
FILES: Final = {
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    "nsswitch.conf": "hosts: files dns\n",
    "hosts": "127.0.0.1 localhost\n",
}
"""In ``/etc``, for the test alone."""
_ENTER: Final = """
for file in resolv.conf nsswitch.conf hosts; do
    if [ -e /etc/$file ]; then mount --bind "$0/$file" /etc/$file || exit 99; fi
done
exec "$@"
"""

Test = TypeVar("Test", bound=Callable[..., None])


def in_own_network(test: Test) -> Test:
    """Run a test in namespaces of its own, by another pytest. It is skipped where that is not allowed."""

    @functools.wraps(test)
    def wrapper(*arguments: Any, **fixtures: Any) -> None:
        if INSIDE in os.environ:
            up()
            test(*arguments, **fixtures)
            return
        node = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short", node]
        with tempfile.TemporaryDirectory() as folder:
            # Without a folder of its own it would tidy up what all earlier runs have left.
            command.insert(-1, f"--basetemp={folder}/tmp")
            done = run(command_inside(folder, command), timeout=400, cwd=ROOT, **{INSIDE: "1"})
        printed = (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode == 99:
            pytest.skip(f"mounting is not permitted: {printed.strip()}")
        assert done.returncode == 0, printed
        if " skipped" in printed and " passed" not in printed:
            pytest.skip(printed.strip())

    return wrapper  # type: ignore[return-value]


def command_inside(folder: str, command: list[str]) -> list[str]:
    """What runs a command in namespaces of its own, if ``INSIDE`` is in its environment. Its status is 99 if that may
    not be. ``folder``: an empty one, which has to last as long."""
    for name, text in FILES.items():
        (Path(folder) / name).write_text(text)
    return [*_namespaces(), "sh", "-c", _ENTER, folder, *command]


@functools.cache
def _namespaces() -> tuple[str, ...]:
    unshare = need("unshare")
    for options in (["-n", "-m"], ["-r", "-n", "-m"]):  # as root, or else as root of a user namespace
        done = run([unshare, *options, "true"])
        if done.returncode == 0:
            return (unshare, *options)
    pytest.skip(f"namespaces are not permitted: {done.stderr.decode(errors='replace').strip()}")


# -- inside ---------------------------------------------------------------------------------------------------------

_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1


def up() -> None:
    """First of all: loopback is down in a network that is new."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def add_address(address: str, number: int = 0) -> None:
    """An IPv4 address for this network. ``number`` is another one for each."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.255")):
            interface = f"lo:{number}".encode()
            argument = struct.pack("16sHH4s8x", interface, socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, argument)
