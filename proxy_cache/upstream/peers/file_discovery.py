"""``file:///path``: a list of peers as Prometheus' file_sd has it, in JSON or YAML.

    [{"targets": ["10.0.0.1:8080", "10.0.0.2:8080"], "labels": {"__scheme__": "https"}}]

Only the label ``__scheme__`` says something here (``http`` if there is none); all others are for whoever else reads the
file. The list ``[]`` says that there are no peers; an empty file, or one with a mistake, says nothing at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from typing import Any, Final, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from .listings import InFile
from .peer import SCHEMES, Peer, host_and_port
from .watch import Unreadable

EVERY: Final = 3.0
"""Seconds between looks at time and size of the file."""
SIZE_MAX: Final = 1024 * 1024
"""Bytes. Some hundred nodes take 20 kB."""

_Seen: TypeAlias = tuple[int, ...]
"""What tells one content of a path from another: device, inode, size, times."""


class FileDiscovery:
    """Reads the file when it looks different. In a thread: a folder of another machine may be slow."""

    def __init__(self, listing: InFile) -> None:
        self.every = EVERY
        self.partly = ""
        self._path = listing.path
        self._seen: _Seen | None = None
        """As it was when it was last read well."""
        self._wrong: tuple[_Seen, str] | None = None
        """The content that was read last, and what was wrong with it."""

    async def look(self) -> tuple[Peer, ...] | None:
        return await asyncio.get_running_loop().run_in_executor(None, self._look)

    def _look(self) -> tuple[Peer, ...] | None:
        try:
            # A named pipe would wait for somebody to write into it.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                if not stat.S_ISREG(status.st_mode):
                    raise Unreadable("it is not a file")
                if seen == self._seen:
                    return None
                if self._wrong is not None and self._wrong[0] == seen:
                    raise Unreadable(self._wrong[1])
                data = file.read(SIZE_MAX + 1)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error
        try:
            peers = parse(data, is_json=self._path.suffix.lower() == ".json")
        except ValueError as error:
            self._seen, self._wrong = None, (seen, str(error))
            raise Unreadable(str(error)) from error
        self._seen, self._wrong = seen, None
        return peers


def parse(data: bytes, *, is_json: bool = False) -> tuple[Peer, ...]:
    """The peers of a file. Raises ``ValueError`` with the reason: one mistake, and nothing of it is taken, since nodes
    that take a part would have other homes than the rest of the fleet."""
    if len(data) > SIZE_MAX:
        raise ValueError(f"it is larger than {SIZE_MAX} bytes")
    groups = _load(data, is_json)
    if not isinstance(groups, list):
        raise ValueError('it is not a list of groups, [{"targets": ["host:port"]}]')
    return tuple(peer for number, group in enumerate(groups, 1) for peer in _group(number, group))


def _load(data: bytes, is_json: bool) -> Any:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error.reason}") from error
    if not text.strip():
        raise ValueError("it is empty ([] is a list without peers)")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        if is_json:
            raise ValueError(f"not JSON: {error}") from error
    try:
        # Pure: the C library takes no "[node-a:8080]" without quotes, and is not everywhere.
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"neither JSON nor YAML: {' '.join(str(error).split())}") from error


def _group(number: int, group: Any) -> list[Peer]:
    if not isinstance(group, dict) or not isinstance(group.get("targets"), list):
        raise ValueError(f"group {number} has no list of targets")
    labels = group.get("labels")
    if labels is not None and not isinstance(labels, dict):
        raise ValueError(f"group {number}: its labels are not names with values")
    scheme = (labels or {}).get("__scheme__", "http")
    if scheme not in SCHEMES:
        raise ValueError(f"group {number}: __scheme__ is neither http nor https: {_shown(scheme, 20)}")
    peers = []
    for target in group["targets"]:
        try:
            if not isinstance(target, str):
                raise ValueError("it is not a text, host:port")
            if "/" in target or "@" in target:
                raise ValueError("it is not host:port")
            peers.append(Peer(scheme, *host_and_port(target)))
        except ValueError as error:
            raise ValueError(f"group {number}, target {_shown(target, 80)}: {error}") from error
    return peers


def _shown(value: object, length: int) -> str:
    """Not what is nested: a few aliases of YAML make gigabytes of text."""
    return repr(str(value)[:length]) if isinstance(value, (str, int, float)) else type(value).__name__
