"""Recipes of docs/clients.md, read out of it, so that what the document says is what the tests run.

The first word after a fence is its language; what follows it is for here and is not shown by a browser:

- ``sh proxy``: how the proxy is started, for the recipes that follow in the section;
- ``ini ~/.config/pip/pip.conf``: a file of the agent, for the next recipe, or with ``always`` after it for all that
  follow in the section;
- ``sh agent environment``: what the agent runs, and the recipe's name. With the sentence "Second run: 2 hits, 1 request
  to the origin." after it, that is what a second agent, new and with nothing on its disk, has to come to.

A fence with a language alone is for the reader.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from .proxy import ROOT

DOCUMENT = ROOT / "docs" / "clients.md"
_FENCE = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_REFUSED = re.compile(r"^\|[^|]+\| *(\d+) *\|.*\| `([\w-]+)` \|$", re.MULTILINE)
_SECOND_RUN = re.compile(r"Second\s+run:\s+(\d+)\s+hits?,\s+(\d+|no)\s+requests?\s+to\s+the\s+origin")


@dataclass(frozen=True)
class Recipe:
    """One way of having one client use the proxy."""

    client: str
    name: str
    language: str
    commands: str
    files: tuple[tuple[str, str], ...]
    """Paths, absolute or below ``~``, and what is in them."""
    proxy: tuple[str, ...]
    """Arguments of mitmdump."""
    hits: int
    """What the second run has from the cache."""
    asked: int
    """Requests of the second run that reach the origin."""

    def __str__(self) -> str:
        return f"{self.client}-{self.name}"


def recipes(text: str | None = None) -> list[Recipe]:
    """All recipes of the document, in its order. ``ValueError``: one of them says nothing of its second run, or a file
    is not named in the text around it."""
    found = []
    text = DOCUMENT.read_text() if text is None else text
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        client = section.partition("\n")[0].strip().lower().replace(" ", "-")
        proxy: tuple[str, ...] = ()
        files: list[tuple[str, str]] = []
        always: list[tuple[str, str]] = []
        for fence in _FENCE.finditer(section):
            language, told, body = fence[1], fence[2] or "", fence[3]
            kind, _, name = told.partition(" ")
            if kind == "proxy":
                proxy = _arguments(body)
            elif kind == "agent":
                after = section[fence.end() :]
                said = _SECOND_RUN.search(after)
                if said is None:
                    raise ValueError(f"{client}, {name}: what does the second run come to?")
                asked = 0 if said[2] == "no" else int(said[2])
                found.append(Recipe(client, name, language, body, (*always, *files), proxy, int(said[1]), asked))
                files = []
            elif kind:
                if f"`{kind}`" not in section[: fence.start()]:
                    raise ValueError(f"{client}: a reader is not told that this is {kind}")
                (always if name == "always" else files).append((kind, body))
    return found


def by_client() -> dict[str, list[Recipe]]:
    """The recipes of each client."""
    found: dict[str, list[Recipe]] = {}
    for recipe in recipes():
        found.setdefault(recipe.client, []).append(recipe)
    return found


def tries(text: str | None = None) -> dict[str, int]:
    """How often each recipe's client asks for one URL when all it gets is 503, by the document's table."""
    text = DOCUMENT.read_text() if text is None else text
    table = text[text.index("## Who tries again after a 503") :]
    return {name: int(count) for count, name in _REFUSED.findall(table)}


def _arguments(command: str) -> tuple[str, ...]:
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    if words[:3] != [".venv/bin/mitmdump", "-s", "addons/cache.py"]:
        raise ValueError(f"this doesn't start the proxy: {command!r}")
    return tuple(words[3:])
