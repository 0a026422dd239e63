"""What the project says of itself."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support.proxy import ROOT

FOLDERS = ("", "docs", "tests", "tests/support", "tests/unit", ".ci", ".github/workflows", "benchmarks", "deploy")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).iterdir()
    if path.is_file() and path.suffix in ("", ".md", ".py", ".txt", ".yml", ".toml") and path.name != ".git"
)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def extras_in(text: str) -> set[str]:
    """Of ``pip install -e '.[dev,more]'``."""
    found = re.findall(r"""['" ]\.\[([a-z0-9_,-]+)\]['"]""", text)
    return {name for names in found for name in names.split(",")}


def test_each_extra_that_is_to_be_installed_exists() -> None:
    named = {path.name: extras_in(path.read_text()) for path in FILES if path.name != "test_project.py"}
    assert any(named.values())
    assert {name: extras - EXTRAS.keys() for name, extras in named.items() if extras - EXTRAS.keys()} == {}


@pytest.mark.parametrize("text", ["pip install -e '.[dev]'", 'pip install ".[dev]"'])
def test_an_extra_is_found(text: str) -> None:
    assert extras_in(text) == {"dev"}
