"""mitmproxy's ``config.yaml``, read again while the proxy runs, and the command line, which wins over it.

mitmproxy itself reads both once, at the start, and lets the file win over ``--set``. Here what the command line says
counts, at the start and later: nobody starts a proxy with ``--set`` to have that passed over.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitmproxy import exceptions
from mitmproxy.proxy import mode_specs

from . import option_names
from .compat import find
from .option_values import parse
from .options import NAMES, check_type, number_as_size

FILES = ("config.yaml", "config.yml")
"""In mitmproxy's folder (its option ``confdir``). The second wins."""
AT_START = frozenset(
    {
        "cache_dir", "cache_peer_mode", "cache_shared", "confdir", "dev_reload", "listen_host", "listen_port",
        "metrics_listen", "mode", "request_id", "scripts", "server", "termlog_verbosity", "tune_event_loop",
    }
)  # fmt: skip
"""Options that are read at the start only."""
OURS_TO_SET = frozenset({"connection_strategy"})
"""Options of mitmproxy that the addon sets at the start, whatever a file says."""
OUR_DEFAULTS: dict[str, Any] = {"flow_detail": 0}
"""Our defaults for options of mitmproxy's: mitmdump's own lines would keep the fast lane off."""
UNSHOWN = frozenset({"log_redact"})
"""Options of ours with values that are for nobody's eyes."""
SECRET = frozenset({"proxyauth", "upstream_auth", "cert_passphrase"})
"""Options of mitmproxy whose values are for nobody's eyes either."""
VALUE_MAX = 60


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Names of options that were given there, and the words that came with ``--set``."""

    names: frozenset[str] = frozenset()
    settings: tuple[tuple[str, str], ...] = ()
    """``(name, name=value)``."""


def command_line(options: Any, arguments: Sequence[str] | None = None) -> CommandLine:
    """As mitmproxy has read it. Nothing, if this is none of its programs."""
    words = sys.argv if arguments is None else arguments
    make = find(f"mitmproxy.tools.cmdline:{Path(words[0]).stem}") if words and words[0] else None
    if make is None:
        return CommandLine()
    try:
        given, _ = make(options).parse_known_args(list(words[1:]))
    except (SystemExit, argparse.ArgumentError):  # mitmproxy has read it, and said what is wrong
        return CommandLine()
    settings = tuple((spec.partition("=")[0], spec) for spec in given.setoptions)
    flags = {name for name, value in vars(given).items() if value is not None and name in options}
    if given.quiet or given.verbose:
        flags |= {"termlog_verbosity", "flow_detail"}
    return CommandLine(frozenset(flags | {name for name, _ in settings}), settings)


class OptionFile:
    """Remembers the last reading, and applies the differences of a new one."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._command_line = CommandLine()
        self._was_there = False

    def started(self, options: Any) -> None:
        """Take note of what mitmproxy has read; what the command line says takes the place of what the file has said.
        mitmproxy has not given the options that it does not know to their addons yet."""
        self._command_line = command_line(options)
        try:
            self._was_there, self._values = read_file(options)
        except exceptions.OptionsError:
            return  # it has changed since mitmproxy read it
        again: dict[str, list[str]] = {}
        for name, spec in self._command_line.settings:
            if name in self._values and name not in ("scripts", "confdir"):
                again.setdefault(name, []).append(spec)
        if again:
            options.set(*(spec for specs in again.values() for spec in specs), defer=True)

    def is_set(self, options: Any, name: str) -> bool:
        """Whether somebody has given an option, be it the value that it has by default."""
        return name in self._values or name in self._command_line.names or bool(options.has_changed(name))

    def read_again(self, options: Any) -> str:
        """Apply what has changed: in words, what that was. Raises ``OptionsError``, with one line, if something is
        wrong with it; nothing is changed then."""
        is_there, values = read_file(options)
        if self._was_there and not is_there:
            raise exceptions.OptionsError(f"{_folder(options) / FILES[0]} is gone (an empty one means: all defaults)")
        values = check_values(options, values)
        changes: dict[str, Any] = {}
        later: dict[str, Any] = {}
        told, kept = [], []
        for name in sorted(values.keys() | self._values.keys()):
            if name not in options or name in OURS_TO_SET:
                continue
            new, now = values.get(name, _default(options, name)), getattr(options, name)
            if name == "scripts":
                new = [str(Path(_folder(options), Path(path).expanduser())) for path in new]
            if _same(new, now):
                continue
            if name in self._command_line.names:
                if not _same(values.get(name), self._values.get(name)):
                    kept.append(name)
            elif name in AT_START:
                later[name] = new
            else:
                changes[name] = new
                told.append(_told(name, now, new))
        if changes or later:
            new_options = _Changed(options, changes | later)
            check_start(new_options, later)
            parse(new_options)
        if changes:
            _apply(options, changes)
        self._values, self._was_there = values, is_there
        words = [", ".join(told) or "nothing changed"]
        if kept:
            words.append(f"the command line has the last word on {', '.join(kept)}")
        if later:
            words.append(f"a restart is needed for {', '.join(later)}")
        return "; ".join(words)


def check_values(options: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same, each of its option's type. Raises ``OptionsError``."""
    values = {name: number_as_size(name, value) for name, value in values.items()}
    for name, value in values.items():
        if name in options:
            check_type(options._options[name], value)
        elif not option_names.is_for_another_program(name):
            raise exceptions.OptionsError(option_names.complaint(name, options.keys()))
    return values


def _default(options: Any, name: str) -> Any:
    return OUR_DEFAULTS.get(name, options.default(name))


def check_start(options: Any, names: Collection[str]) -> None:
    """Whether the next start would take these values, which mitmproxy looks at then. Raises ``OptionsError``."""
    for mode in options.mode if "mode" in names else ():
        try:
            mode_specs.ProxyMode.parse(mode)
        except ValueError as error:
            raise exceptions.OptionsError(f"mode: {mode!r}: {error}") from error
    port = options.listen_port
    if port is not None and not 0 <= port <= 65535:
        raise exceptions.OptionsError(f"listen_port: must be from 0 to 65535, not {port}")
    for script in options.scripts if "scripts" in names else ():
        if not Path(script).is_file():
            raise exceptions.OptionsError(f"scripts: there is no file {script}")


class _AddonErrors(logging.Filter):
    """mitmproxy logs what an addon raises while it is configured, with a traceback, and goes on as if it had not."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return True
        raised = record.exc_info[1] if record.exc_info else None
        self.errors.append(" ".join(str(raised or record.getMessage()).split()))
        return False


def _apply(options: Any, changes: Mapping[str, Any]) -> None:
    """All of them, or none. Raises ``OptionsError``."""
    before = {name: getattr(options, name) for name in changes}
    log, found = logging.getLogger("mitmproxy.addonmanager"), _AddonErrors()
    log.addFilter(found)
    try:
        options.update(**changes)
        if found.errors:
            why = _without_secrets(found.errors[0], changes)
            options.update(**before)
            names = ", ".join(sorted(changes.keys() - NAMES)) or ", ".join(sorted(changes))
            raise exceptions.OptionsError(f"{names}: {why}")
    except exceptions.OptionsError as error:
        raise exceptions.OptionsError(_without_secrets(str(error), changes)) from None
    finally:
        log.removeFilter(found)


def _without_secrets(message: str, changes: Mapping[str, Any]) -> str:
    """mitmproxy's message on a value that it can't take quotes it."""
    for name in SECRET & changes.keys():
        message = message.replace(str(changes[name] or "\0"), "***")
    return message


class _Changed:
    """Options as they would be."""

    def __init__(self, options: Any, changes: Mapping[str, Any]) -> None:
        self._options = options
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._options, name)


def _folder(options: Any) -> Path:
    return Path(options.confdir).expanduser()


def read_file(options: Any) -> tuple[bool, dict[str, Any]]:
    """Whether there is a file, and what it says. Raises ``OptionsError`` with one line."""
    found, values = False, {}
    for name in FILES:
        path = _folder(options) / name
        try:
            if not path.is_file():
                continue
            text = path.read_text(encoding="utf8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise exceptions.OptionsError(f"{path} cannot be read: {reason}") from error
        found = True
        try:
            data: Any = find("mitmproxy.optmanager:parse")(text)
        except exceptions.OptionsError as error:
            # Three lines: where, a look at it (which may have a secret in it), and what is wrong.
            lines = [line.strip(" :") for line in str(error).splitlines() if line.strip()]
            raise exceptions.OptionsError(f"{path}: {': '.join(dict.fromkeys((lines[0], lines[-1])))}") from error
        except Exception as error:  # a parser's own
            raise exceptions.OptionsError(f"{path}: {type(error).__name__}") from error
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            raise exceptions.OptionsError(f"{path}: it has to be lines of the form 'option: value'")
        values.update(data)
    return found, values


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(one) == list(other)
    return bool(one == other)


def _told(name: str, before: Any, now: Any) -> str:
    if name not in NAMES or name in UNSHOWN or isinstance(now, (list, tuple)):
        return name
    texts = [text if len(text := str(value)) <= VALUE_MAX else "..." for value in (before, now)]
    return f"{name} from {texts[0] or 'none'} to {texts[1] or 'none'}"
