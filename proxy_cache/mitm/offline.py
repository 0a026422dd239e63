"""The options as a start of mitmdump with these arguments would have them, without a start: nothing listens, no file is
written, and no script is run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NoReturn

from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import mode_specs

from ..settings import Settings
from . import compat, option_names, option_values
from .option_file import OUR_DEFAULTS, SECRET, check_start, check_values, read_file
from .options import OPTIONS

_OF_MITMDUMP: Final = (
    "mitmproxy.addons.termlog:TermLog", "mitmproxy.addons.dumper:Dumper", "mitmproxy.addons.keepserving:KeepServing",
    "mitmproxy.addons.readfile:ReadFileStdin", "mitmproxy.addons.errorcheck:ErrorCheck",
)  # fmt: skip
"""Addons with options that mitmdump has besides those of all programs."""
FAULTS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Listen:
    """Where one of the modes would listen; ``port``: ``None`` if it listens nowhere, 0: at any that is free."""

    mode: str
    host: str
    port: int | None
    is_tcp: bool


@dataclass(slots=True)
class Offline:
    """What was found."""

    faults: list[str] = field(default_factory=list)
    """One line for each option that is wrong; it is taken as its default from there on."""
    warnings: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    """The names of options that somebody has set."""
    settings: Settings | None = None
    """``None``: there is no telling."""
    listeners: list[Listen] = field(default_factory=list)
    confdir: str = "~/.mitmproxy"
    values: dict[str, Any] = field(default_factory=dict)
    """Options of ours as they were given, by their names."""


class _Usage(Exception):
    """The arguments are none that mitmdump takes."""


def read(arguments: Sequence[str]) -> Offline:
    """Look at the command line, and at the config.yaml that it leads to."""
    found = Offline()
    try:
        options = _declared()
    except Exception as error:  # private parts of mitmproxy, which have changed
        found.faults.append(f"{compat.owner()} keeps its options otherwise: {type(error).__name__}: {error}")
        return found
    try:
        given = _arguments(options, arguments)
    except _Usage as error:
        found.faults.append(str(error))
        return found
    _fill(options, given, found)
    found.confdir = options.confdir
    _parse(options, found)
    found.values = {name: getattr(options, name) for name, *_ in OPTIONS}
    for mode in options.mode:
        parsed = mode_specs.ProxyMode.parse(mode)
        port = parsed.listen_port(options.listen_port)
        found.listeners.append(
            Listen(mode, parsed.listen_host(options.listen_host), port, parsed.transport_protocol != "udp")
        )
    return found


def _declared() -> Any:
    """mitmproxy's options and ours, all at their defaults."""
    options: Any = compat.find("mitmproxy.options:Options")()
    loader = Loader(SimpleNamespace(options=options))  # type: ignore[no-untyped-call]
    own = [compat.find(name)() for name in _OF_MITMDUMP]
    for addon in (*compat.find("mitmproxy.addons:default_addons")(), *own):
        if hasattr(addon, "load"):
            addon.load(loader)
    for name, kind, default, text in OPTIONS:
        loader.add_option(name, kind, default, text)
    return options


def _arguments(options: Any, arguments: Sequence[str]) -> argparse.Namespace:
    """Raises :class:`_Usage`."""
    parser: argparse.ArgumentParser = compat.find("mitmproxy.tools.cmdline:mitmdump")(options)

    def refuse(message: str) -> NoReturn:
        raise _Usage(message)

    parser.error = refuse  # type: ignore[method-assign] # instead of ending the process
    return parser.parse_args(list(arguments))


def _fill(options: Any, given: argparse.Namespace, found: Offline) -> None:
    """Set them: what the file says first, as the command line has the last word."""
    specs: dict[str, list[str]] = {}
    for spec in given.setoptions:
        specs.setdefault(spec.partition("=")[0], []).append(spec)
    flags = {name: value for name, value in vars(given).items() if name in options and value is not None}
    if "confdir" in specs:
        _try(found, "confdir", partial(options.set, *specs["confdir"]))
    try:
        _, values = read_file(options)
    except exceptions.OptionsError as error:
        found.faults.append(str(error))
        values = {}
    scripts = (*flags.get("scripts", ()), *(spec.partition("=")[2] for spec in specs.get("scripts", ())))
    has_scripts = any(not _is_our_own(path) for path in (*scripts, *(values.get("scripts") or ())))
    for name, value in values.items():
        if name in options:
            _try(found, name, partial(_take, options, name, value))
        elif not option_names.is_for_another_program(name):
            _unknown(options, found, name, has_scripts)
    for name, own in specs.items():
        if name in options:
            _try(found, name, partial(options.set, *own))
        else:
            _unknown(options, found, name, has_scripts)
    for name, value in flags.items():
        _try(found, name, partial(options.update, **{name: value}))
    found.given = sorted({name for name in (*values, *specs, *flags) if name in options and name not in OUR_DEFAULTS})


def _is_our_own(script: str) -> bool:
    """Whether a script only loads the cache, and so has no options besides ours."""
    try:
        return b"from proxy_cache.mitm.addon import CacheAddon" in Path(script).expanduser().read_bytes()
    except (OSError, RuntimeError):
        return False


def _take(options: Any, name: str, value: Any) -> None:
    """From a file, where it has a type already."""
    options.update(**check_values(options, {name: value}))


def _try(found: Offline, name: str, change: Callable[[], Any]) -> None:
    try:
        change()
    except exceptions.OptionsError as error:
        text = " ".join(str(error).split()) if name not in SECRET else "a value that it can't have"
        found.faults.append(text if text.startswith(f"{name}:") else f"{name}: {text}")


def _unknown(options: Any, found: Offline, name: str, has_scripts: bool) -> None:
    complaint = option_names.complaint(name, options.keys())
    if has_scripts:
        found.warnings.append(f"{complaint} (one of the scripts may have it)")
    else:
        found.faults.append(complaint)


def _parse(options: Any, found: Offline) -> None:
    """Our own checks, again and again without what they have found: each tells of one option."""
    for error in _complaints(options, lambda: check_start(options, ("mode", "scripts"))):
        found.faults.append(error)

    def parse() -> None:
        found.settings = option_values.parse(options)

    for error in _complaints(options, parse):
        found.faults.append(error)


def _complaints(options: Any, look: Callable[[], None]) -> Iterator[str]:
    seen: set[str] = set()
    while len(seen) < FAULTS_MAX:
        try:
            look()
            return
        except exceptions.OptionsError as error:
            text = " ".join(str(error).split())
        yield text
        name = text.partition(":")[0].split()[0]
        if name not in options or name in seen:
            return
        seen.add(name)
        options.update(**{name: options.default(name)})
