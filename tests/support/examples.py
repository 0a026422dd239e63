"""How many examples the slower tests of properties try.

They are the same in every run (tests/conftest.py): it finds what a change has broken. To look for what nobody
has thought of yet: ``EXAMPLES=10 just test --hypothesis-profile=random``, ten times as many, and new ones.
"""

from __future__ import annotations

import os


def examples(count: int) -> int:
    return round(count * float(os.environ.get("EXAMPLES", "1")))
