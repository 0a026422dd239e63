"""All checks, in the order in which they are told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ..mitm import offline
from . import authority, clock, disk, listening, machine, others, secret_files, versions
from .finding import FAULT, OK, WARNING, Finding

_NAME: Final = re.compile(r"[\w-]{1,80}")


def check(arguments: Sequence[str]) -> list[Finding]:
    """``arguments``: as mitmdump takes them. What an option is to blame for is told of its default, if it has a value
    that can't be used."""
    found = offline.read(arguments)
    findings = [*versions.check(), *_options(found)]
    settings = found.settings
    findings += listening.check(found.listeners, settings.metrics_listen if settings is not None else None)
    if settings is not None:
        findings += disk.check(settings.cache_dir, settings.quota)
        findings += machine.check(settings.memory)
        findings += authority.check(found.confdir, is_needed=bool(settings.intercept.hosts))
        findings += secret_files.check(found.values)
        findings += others.check(settings)
        findings += clock.check(settings.cache_dir)
    return findings


def _options(found: offline.Offline) -> list[Finding]:
    findings = [_of_option(fault, FAULT) for fault in found.faults]
    findings += [_of_option(warning, WARNING) for warning in found.warnings]
    if not found.faults:
        given = f"{len(found.given)} set ({', '.join(found.given)})" if found.given else "all at their defaults"
        findings.insert(0, Finding("options", OK, given))
    return findings


def _of_option(text: str, level: str) -> Finding:
    """``name: what is wrong``, or a line without a name."""
    name, colon, rest = text.partition(": ")
    is_name = colon and _NAME.fullmatch(name) is not None
    return Finding(name, level, rest) if is_name else Finding("options", level, text)
