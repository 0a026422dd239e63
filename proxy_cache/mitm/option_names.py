"""Names of options that nobody knows.

mitmproxy keeps a name that it does not know for scripts that may be loaded later, and says nothing when none of them
has it: an origin would be without its limit, and nobody would hear of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

_OF_OTHER_PROGRAMS = ("console_", "web_", "view_")
_ALSO_OF_OTHERS = frozenset(
    {
        "dumper_default_contentview",
        "dumper_filter",
        "flow_detail",
        "intercept",
        "intercept_active",
        "keepserving",
        "readfile_filter",
        "rfile",
    }
)
"""Options that only some of mitmproxy's programs have. They share one config.yaml."""
_NEAR = 0.8
_PERHAPS = 0.6


def unknown(options: Any) -> list[str]:
    """One line for each name that was given and that no addon or script has, once all are loaded."""
    return [
        complaint(name, options.keys())
        for name, value in options.deferred.items()
        if hasattr(value, "val") or not is_for_another_program(name)
    ]


def complaint(name: str, known: Iterable[str]) -> str:
    """``max_in_flight: no such option; did you mean origin_max_in_flight?``"""
    meant = like(name, known)
    return f"{name[:80]}: no such option" + (f"; did you mean {meant}?" if meant else "")


def is_for_another_program(name: str) -> bool:
    """Whether a name in config.yaml may be meant for mitmweb, mitmproxy or mitmdump alone."""
    return name.startswith(_OF_OTHER_PROGRAMS) or name in _ALSO_OF_OTHERS


def like(name: str, known: Iterable[str]) -> str | None:
    """The option that was probably meant: one that is spelt nearly like it, else one of which it is the end, or a
    part."""
    name, names = name.lower().replace("-", "_"), sorted(known)
    if near := difflib.get_close_matches(name, names, n=1, cutoff=_NEAR):
        return near[0]
    if len(name) >= 3:
        for has in (str.endswith, str.startswith, str.__contains__):
            if found := [one for one in names if has(one, name)]:
                return min(found, key=len)
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=_PERHAPS)), None)
