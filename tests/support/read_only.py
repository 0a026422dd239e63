"""A root file system that can't be written, as containers have it."""

from __future__ import annotations

from pathlib import Path

from .proxy import ROOT
from .tools import need, run

_READ_ONLY = """
mount --bind "$0" "$0" && mount -o remount,bind,ro / || exit 99
exec "$@"
"""


def all_but(folder: Path) -> list[str]:
    """What comes before a command, so that it can write in this folder alone. Nothing, where mounting is not
    permitted."""
    wrapper = [need("unshare"), "-m", "sh", "-c", _READ_ONLY, str(folder)]
    done = run([*wrapper, "touch", str(ROOT / "writable")])
    if done.returncode == 99:
        return []
    assert done.returncode != 0
    return wrapper
