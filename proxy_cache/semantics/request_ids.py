"""``X-Request-Id``: a name for one request, in the logs of all that it passes. No standard has it, most proxies do."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Final

FIELD: Final = "X-Request-Id"
_SANE: Final = re.compile(r"[!-~]{1,128}")


def taken_or_made(values: Sequence[str]) -> str:
    """The client's own, if it has sent just one, of at most 128 visible ASCII characters; else a new one. What it has
    sent goes into logs and heads."""
    if len(values) == 1 and _SANE.fullmatch(values[0]) is not None:
        return values[0]
    return uuid.uuid4().hex
