"""What of a ``config.yaml`` counts at the next start only is looked at when it is read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from mitmproxy import exceptions

from proxy_cache.mitm.option_file import check_start


def test_scripts_that_the_next_start_would_not_find(tmp_path: Path) -> None:
    there = tmp_path / "there.py"
    there.touch()
    check_start(SimpleNamespace(scripts=[there], listen_port=None), {"scripts"})
    with pytest.raises(exceptions.OptionsError, match=r"^scripts: there is no file .*/gone\.py$"):
        check_start(SimpleNamespace(scripts=[there, tmp_path / "gone.py"], listen_port=8080), {"scripts"})
