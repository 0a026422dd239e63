"""Files with secrets, one a line: several of them while one is replaced by another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mitmproxy import exceptions

SIZES: Final = range(16, 1025)
"""Characters of a secret."""
SECRETS_MAX: Final = 4
_FOREIGN: Final = re.compile(r"[^\x21-\x7e]")


def tokens(option: str, file: str) -> tuple[str, ...]:
    """The secrets in the file that an option names; none if it names none. Raises ``OptionsError``."""
    if not file.strip():
        return ()
    try:
        lines = Path(file).expanduser().read_text("ascii").split("\n")
    except (OSError, RuntimeError, UnicodeError) as error:
        raise exceptions.OptionsError(f"{option}: {file!r}: {error}") from error
    found = tuple(token for line in lines if (token := line.strip()))
    if not 1 <= len(found) <= SECRETS_MAX or any(len(one) not in SIZES or _FOREIGN.search(one) for one in found):
        raise exceptions.OptionsError(
            f"{option}: {file!r} must have a secret a line, of 16 to 1024 characters without spaces, and "
            f"{SECRETS_MAX} at the most"
        )
    return found
