"""Files with secrets: who may read them. (What is in them is checked with the options.)

One that others may write is a fault: they could make themselves the operator. One that they may read is none, other
than for ssh: Kubernetes mounts secrets so, where there are no others. As for PostgreSQL, root's file may be read by a
group (systemd and Kubernetes hand secrets to a service like that), and one of this account's by nobody else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .finding import FAULT, OK, WARNING, Finding

OPTIONS: Final = ("admin_token_file", "cache_peer_token_file")


def check(values: Mapping[str, Any]) -> Iterator[Finding]:
    for name in OPTIONS:
        text = values.get(name) or ""
        if text.strip():
            yield _checked(name, Path(text).expanduser())


def _checked(name: str, path: Path) -> Finding:
    try:
        found = path.stat()
    except OSError as error:
        return Finding(name, FAULT, f"{path}: {error.strerror}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        return Finding(name, FAULT, f"{path} can be written by others ({mode:04o}): chmod 600")
    if mode & (0o004 if found.st_uid == 0 else 0o044):
        return Finding(name, WARNING, f"{path} can be read by others ({mode:04o}): chmod 600")
    if found.st_uid not in (0, os.getuid()):
        return Finding(name, WARNING, f"{path} belongs to another account (uid {found.st_uid})")
    return Finding(name, OK, f"{path} is for this account{' and its group' if mode & 0o040 else ''} alone")
