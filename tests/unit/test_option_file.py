"""What of a ``config.yaml`` counts at the next start only is looked at when it is read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from mitmproxy import exceptions

from proxy_cache.mitm.option_file import AT_START, check_start
from proxy_cache.mitm.options import NAMES, OPTIONS


def test_what_is_read_at_the_start_is_told_to_need_a_restart() -> None:
    assert {name for name, _, _, text in OPTIONS if "Read at start." in text} == AT_START & NAMES


def test_scripts_that_the_next_start_would_not_find(tmp_path: Path) -> None:
    there = tmp_path / "there.py"
    there.touch()
    check_start(SimpleNamespace(scripts=[there], listen_port=None), {"scripts"})
    with pytest.raises(exceptions.OptionsError, match=r"^scripts: there is no file .*/gone\.py$"):
        check_start(SimpleNamespace(scripts=[there, tmp_path / "gone.py"], listen_port=8080), {"scripts"})
