"""The options of the access log, checked. A bad one names itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mitmproxy import exceptions

from ..observe import log_file
from ..observe.access_log import LogSettings
from ..observe.log_formats import FORMATS


def access_log(options: Any) -> LogSettings:
    """Raises ``OptionsError``."""
    kind = options.access_log_format
    if kind not in FORMATS:
        raise exceptions.OptionsError(f"access_log_format: must be one of {', '.join(FORMATS)}, not {kind[:40]!r}")
    return LogSettings(kind, _file(options.access_log_file), options.access_log_phases)


def _file(name: str) -> Path | None:
    if not name.strip():
        return None
    try:
        path = Path(name).expanduser().absolute()
        log_file.check(path)
    except (OSError, RuntimeError, ValueError) as error:  # (~somebody, and a name with a NUL)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise exceptions.OptionsError(f"access_log_file: {name[:200]!r}: {reason}") from error
    return path
